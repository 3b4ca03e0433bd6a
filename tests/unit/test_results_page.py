"""docs/results.md and the README's table, written from results of every configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from servebench.benchmark.rows import ComparisonRow
from servebench.errors import ReportError
from servebench.inference.precision_rows import ChangeRow, PackageRow
from servebench.params import load_params
from servebench.paths import (
    CEILINGS,
    COMPARISON,
    COMPILED_TABLE,
    MACHINE,
    PRECISIONS_TABLE,
    README,
    RESULTS_PAGE,
    TRAIN_METRICS,
    BenchmarkPaths,
)
from servebench.report.results_page import BEGIN, END, write_results
from servebench.system.files import read_json, write_json
from servebench.system.rows import write_rows
from tests.support.project import ROOT
from tests.support.synthetic_results import CEILINGS as ROOFLINES
from tests.support.synthetic_results import compared, level, result, write_result

SLOW = level(1, 20.0, 60.0, warnings="other processes used 14% of the machine")
MIDDLE = level(8, 60.0, 300.0)
DOUBTFUL = level(8, 50.0, 300.0, invalid_reason="unstable")
COST: dict[str, Any] = {
    "macs": 384_000_000,
    "flops": 768_000_000,
    "peak_full_tflops": 0.208,
    "peak_half_tflops": 0.439,
    "peak_source": "measured matrix product",
    "bandwidth_gbs": 53.3,
}
OWN_MACHINE = {
    "cpu": "A CPU",
    "cores": 2,
    "cpu_flags": ["avx2"],
    "memory_gib": 24,
    "gpu": None,
    "torch": "2.0",
    "litserve": "0.2",
}
TRAINED = {
    "test_accuracy": 0.991,
    "test_accuracy_low": 0.951,
    "test_accuracy_high": 0.998,
    "test_images": 111,
}


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All that the pages are made of: one configuration is fast, one doubtful, one failed."""
    monkeypatch.chdir(tmp_path)
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content["experiments"] = {name: {} for name in ("e1_baseline", "e2_batching", "e3_workers", "e4_half")}
    content["objective"]["configurations"] = ["candidate"]
    content["comparison"] |= {"reference": "e1_baseline", "users": [8]}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    README.write_text(f"# A project\n\n{BEGIN}\n\nold\n\n{END}\n\nand more\n")
    params = load_params()
    for name, serve in params.configurations().items():
        levels = {"e1_baseline": [SLOW], "e2_batching": [DOUBTFUL]}.get(name, [SLOW, MIDDLE])
        if name == "e3_workers":
            own = result(name, [level(1, 20.0, None, invalid_reason="3 failed")], stages={}, serve=serve)
        else:
            own = result(name, levels, best=levels[-1], serve=serve)
        write_result(own)
    write_json(CEILINGS, ROOFLINES | COST)
    write_json(MACHINE, OWN_MACHINE)
    write_json(TRAIN_METRICS, TRAINED)
    turns = {"e1_baseline": (20.0, 3), "e2_batching": (50.0, 2), "e3_workers": (None, None, None)}
    rows = [compared(name, *turns.get(name, (60.0, 1, 100.0))) for name in params.configurations()]
    write_rows(COMPARISON, ComparisonRow, rows)
    packages = [
        PackageRow("full", 4, 64.0, 36.0, None, 1.0, None),
        PackageRow("int8", 1, None, 4.5, None, 1.0, None),
    ]
    write_rows(COMPILED_TABLE, PackageRow, packages)
    changes = [
        ChangeRow("int8", "torchvision", "test", 111, 0.991, 0.958, 0.982, -0.009, 0.002, 0.11, 0.0009)
    ]
    write_rows(PRECISIONS_TABLE, ChangeRow, changes)
    return tmp_path


def row_of(text: str, name: str, number: int = 0) -> list[str]:
    """The cells of a table's row that begins with a configuration's name."""
    rows = [line for line in text.splitlines() if line.startswith(f"| `{name}`")]
    return [cell.strip() for cell in rows[number].strip("|").split("|")]


def test_the_readmes_table_replaces_the_old_and_nothing_else() -> None:
    write_results()
    before, _, rest = README.read_text().partition(BEGIN)
    section, _, after = rest.partition(END)
    assert (before, after) == ("# A project\n\n", "\n\nand more\n")
    assert "old" not in section
    assert "A CPU, 2 cores, no GPU; tiny at 224 px. All configurations" in section
    assert row_of(section, "e1_baseline")[2:6] == ["20.0", "1", "3", "100"]
    assert row_of(section, "e2_batching")[2:5] == ["50.0", "2.50 (2.38 to 2.62)", "2"]
    assert row_of(section, "e3_workers")[2:] == ["-", "-", "-", "-", "failed requests"]
    assert "Fastest at 8 users: e4_half and candidate, between which no difference is resolved" in section


def test_the_page_tells_rates_accuracy_bounds_and_doubts() -> None:
    write_results()
    page = RESULTS_PAGE.read_text()
    assert "One image costs 0.384 GMACs, 0.768 GFLOPs" in page
    assert "accuracy 0.991 on 111 test photos (95% interval 0.951 to 0.998)" in page
    assert row_of(page, "e1_baseline")[1:4] == ["3", "20.0", "18.0 to 22.0"]
    assert row_of(page, "e1_baseline", 1)[1:5] == ["20.0", "19.4 to 20.6", "1", "10"]
    assert row_of(page, "e2_batching", 1)[0] == "`e2_batching` (not valid)"
    assert row_of(page, "e1_baseline", 2)[1] == "0.997 (0.985 to 1.000)"
    assert row_of(page, "e3_workers", 3)[-2] == "-"  # no served rate
    assert "- e1_baseline at 1 user: other processes used 14% of the machine" in page
    assert "- e2_batching at 8 users: not valid: unstable" in page
    cells = ["int8", "torchvision", "4.5", "111 test", "99.1%", "95.8%", "98.2%", "-0.9"]
    assert f"| {' | '.join(cells)} |" in page
    for name in load_params().configurations():
        assert f"](../assets/results/{name}.png)" in page


@pytest.mark.parametrize(("flags", "told"), [(["avx2"], True), (["avx2", "avx512_bf16"], False)])
def test_emulated_half_precision_is_told(flags: list[str], told: bool) -> None:
    run = BenchmarkPaths("e4_half").run
    write_json(run, read_json(run) | {"dtype": "bfloat16"})
    write_json(MACHINE, OWN_MACHINE | {"cpu_flags": flags})
    write_results()
    sentence = "This CPU has no instructions for bfloat16 and emulates it, many times slower and not compiled"
    for page in (README, RESULTS_PAGE):
        assert (f"{sentence}: e4_half." in page.read_text()) is told


def test_writing_twice_changes_nothing() -> None:
    write_results()
    before = README.read_text(), RESULTS_PAGE.read_text()
    write_results()
    assert (README.read_text(), RESULTS_PAGE.read_text()) == before


@pytest.mark.parametrize(("kept", "missing"), [(BEGIN, "end of results"), (END, "servebench results")])
def test_a_readme_without_a_marker_changes_nothing(kept: str, missing: str) -> None:
    README.write_text(f"# title\n{kept}\n")
    with pytest.raises(ReportError, match=f"README.md: the marker .*{missing}.* is missing"):
        write_results()
    assert README.read_text() == f"# title\n{kept}\n"
    assert not RESULTS_PAGE.exists()
