"""A fifth kind, of the test's own: what it has not to answer is not available, and all else works."""

from __future__ import annotations

import json
import shutil
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml

from litmeter.cli.main import main
from litmeter.errors import ParamsError
from litmeter.kinds.configuration import Configuration, Given
from litmeter.kinds.registry import KINDS
from litmeter.kinds.server import Server, Start, started
from litmeter.params import Params, load_params
from litmeter.paths import MACHINE, BenchmarkPaths
from litmeter.report.pages import page, render
from litmeter.report.snapshot import read_snapshot
from litmeter.stages import benchmark, capacity, comparison, tune
from litmeter.system.files import read_json, write_json
from litmeter.system.machine import fingerprint
from tests.support.servers import APIS, STUB_PARAMS


class Sleeper(Configuration):
    """It answers after a nap, and has nothing that it needs not have."""

    kind, key = "sleeper", "nap_s"
    program: ClassVar[str] = "server.py"

    nap_s: float

    @classmethod
    def recognised(cls, given: Given) -> dict[str, Any] | None:
        return {"nap_s": float(given.first[4:])} if given.first.startswith("nap:") else None

    @property
    def spec(self) -> str:
        return f"nap:{self.nap_s:g}"

    def describe(self, device: str) -> str:
        return f"naps of {self.nap_s:g} s"

    def starting(self, how: Start) -> AbstractContextManager[Server]:
        return started([sys.executable, self.program, "{port}", str(self.nap_s)], how)


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    for module in ("kinds.registry", "cli.own"):
        monkeypatch.setattr(f"litmeter.{module}.KINDS", (Sleeper, *KINDS))
    monkeypatch.chdir(tmp_path)
    shutil.copy(APIS / "stub_server.py", "server.py")
    Path("bodies.jsonl").write_text('{"a": 1}\n{"a": 2}\n')
    objective = STUB_PARAMS["objective"] | {"configurations": ["slow"], "max_s": 2.0}
    own = {"experiments": {"slow": {"nap_s": 0.05}}, "serve": {"nap_s": 0.0}, "objective": objective}
    Path("params.yaml").write_text(yaml.safe_dump(STUB_PARAMS | own))
    write_json(MACHINE, fingerprint())
    return load_params()


def test_it_is_benchmarked_compared_and_reported(params: Params) -> None:
    assert params.serve == Sleeper(nap_s=0.0)
    for name in params.configurations():
        benchmark.main(name)
    _, compared = comparison.main()
    assert [row.rank for row in compared.rows] == [2, 1]
    assert compared.rows[1].ratio > 2
    [found] = capacity.main().values()
    assert found.peak_rps > 20
    snapshot = read_snapshot()
    assert "naps of 0.05 s" in page(snapshot)
    assert {one.without for one in snapshot.diagnoses.values()} == {Sleeper.no_pipeline}
    assert {bound.name for own in snapshot.bounds.values() for bound in own} == {"served"}
    assert "<title>litmeter: naps of 0.05 s" in render([snapshot])
    assert set(read_json(BenchmarkPaths("slow").metrics)) >= {"throughput_rps", "ready_s", "memory_mib"}
    changed = Path("params.yaml").read_text().replace("nap_s: 0.0\n", "nap_s: 0.02\n")
    Path("params.yaml").write_text(changed)
    _, found = comparison.main()
    assert found.over_before.changes == {"nap_s": (0.0, 0.02)}
    assert found.over_before.ratio < 0.9


@pytest.mark.usefixtures("params")
def test_it_is_named_on_a_command_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["compare", "nap:0", "nap:0.05", "--body", "bodies.jsonl", "--seconds", "5", "--json"]
    monkeypatch.setattr(Sleeper, "program", str(Path("server.py").absolute()))
    assert main(words) == 0
    first, second = json.loads(capsys.readouterr().out)["configurations"]
    assert second["ratio"] < 0.5 * first["ratio"]


def test_what_it_has_not_is_said_where_it_is_asked_for(params: Params) -> None:
    with pytest.raises(ParamsError, match=r"sleeper .*: api or script or classifier$"):
        tune.main()
    assert list(params.serve.foreground_notes("cpu")) == []
    assert not params.serve.served_by_litmeter
    assert params.stages == set()
    wrong = Path("params.yaml").read_text().replace("nap_s: 0.05", "nap_s: 0.05\n    naps: 1")
    Path("params.yaml").write_text(wrong)
    with pytest.raises(ParamsError, match=r"slow.naps: .*nap_s"):
        load_params()
