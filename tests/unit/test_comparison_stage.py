"""What makes the stage measure a configuration anew."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from litmeter.measure.comparison import Comparison, Turn
from litmeter.measure.rows import ComparisonRow, TurnRow
from litmeter.model.card import ModelCard
from litmeter.model.compiled.manifest import MANIFEST_NAME
from litmeter.params import ComparisonSettings, ServeSettings, load_params
from litmeter.paths import COMPARISON, COMPARISON_RUN, COMPARISON_TURNS, DVC_FILE, MACHINE, MODEL
from litmeter.stages.comparison import (
    main,
    names_to_measure,
    own_inputs,
    read_left,
    read_unchanged,
    signatures_of,
)
from litmeter.system.files import code_digest, read_rows, write_json, write_rows
from tests.support.project import ROOT
from tests.support.synthetic_results import compared


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("module", "measured_anew"),
    [
        ("serve/direct/worker.py", True),
        ("report/tables.py", False),
        ("system/progress.py", False),
    ],
)
def test_only_code_that_the_stage_runs_counts(project: Path, module: str, measured_anew: bool) -> None:
    before = code_digest(DVC_FILE, "comparison")
    with (project / "src/litmeter" / module).open("a") as file:
        file.write("# changed\n")
    assert (code_digest(DVC_FILE, "comparison") != before) is measured_anew


def test_other_packages_count(project: Path) -> None:
    compiled = ServeSettings(compiled=True, preprocess="torchvision")

    def inputs_with(full: str, half: str) -> tuple[object, object]:
        packages = [
            {"precision": "full", "sha256": full, "skipped_reason": None},
            {"precision": "half", "sha256": half, "skipped_reason": None},
            {"precision": "full", "sha256": "slow", "skipped_reason": "slower"},
        ]
        write_json(MODEL.compiled / MANIFEST_NAME, {"packages": packages})
        return own_inputs(compiled), own_inputs(ServeSettings())

    first = inputs_with("a", "b")
    assert inputs_with("a", "other") == first
    changed = inputs_with("other", "b")
    assert changed[0] != first[0]
    assert changed[1] == first[1]


def keep_results(names: list[str]) -> None:
    write_json(COMPARISON_RUN, {"signatures": {name: f"{name}'s" for name in names}})
    write_rows(COMPARISON, ComparisonRow, [compared(name, 20.0, 1) for name in names])
    write_rows(COMPARISON_TURNS, TurnRow, [TurnRow(0, 8, name, 20.0, 20, 0) for name in names])


def test_what_has_not_changed_is_kept(project: Path) -> None:
    keep_results(["reference", "same", "other", "gone"])
    signatures = {"reference": "new", "same": "same's", "other": "new", "added": "new"}
    rows, _ = read_unchanged(signatures, "reference")
    assert [row.experiment for row in rows] == ["same"]
    settings = ComparisonSettings(reference="reference", users=(8,), seconds=60.0)
    assert names_to_measure(list(signatures), settings, rows) == ["reference", "same", "other", "added"]


def test_without_turns_nothing_is_kept(project: Path) -> None:
    keep_results(["reference", "same"])
    COMPARISON_TURNS.write_text("<<<<<<< HEAD\n")
    signatures = {"reference": "reference's", "same": "same's"}
    assert read_unchanged(signatures, "reference") == ([], [])
    COMPARISON_TURNS.unlink()
    assert read_unchanged(signatures, "reference") == ([], [])


def test_a_model_of_another_size_counts_though_its_weights_are_the_same(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a checkpoint of one's own: it is not fitted again for another `model.image_size`."""
    params = (ROOT / "params.yaml").read_text().replace("compiled: true", "compiled: false")
    (project / "params.yaml").write_text(params)
    write_json(MACHINE, {"id": "a machine"})
    found = []
    for size in (64, 96):
        card = ModelCard(
            architecture="any",
            classes=["cat", "dog"],
            image_size=size,
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            interpolation="bicubic",
            crop_pct=0.9,
            test_accuracy=0.9,
            test_images=10,
            weights_sha256="the same",
        )
        monkeypatch.setattr("litmeter.stages.comparison.read_card", lambda _, card=card: card)
        found.append(signatures_of(load_params(), "cpu", [b"photo"]))
    assert all(found[0][name] != found[1][name] for name in found[0])
    params = load_params()
    renamed = {"base" if name == "e1_baseline" else name: own for name, own in params.experiments.items()}
    comparison = params.comparison.model_copy(update={"reference": "base"})
    of_renamed = params.model_copy(update={"experiments": renamed, "comparison": comparison})
    after = signatures_of(of_renamed, "cpu", [b"photo"])
    assert after["e7_tuned"] != found[1]["e7_tuned"]  # it has no turns beside the new name
    baseline = params.baseline.model_copy(update={"batch_sizes": (1, 2)})
    other_sizes = signatures_of(params.model_copy(update={"baseline": baseline}), "cpu", [b"photo"])
    assert other_sizes["e7_tuned"] != found[1]["e7_tuned"]  # its pipeline's rates may be of other ones
    load = params.load.model_copy(update={"timeout_s": 1.0})
    less_patient = signatures_of(params.model_copy(update={"load": load}), "cpu", [b"photo"])
    assert less_patient["e7_tuned"] != found[1]["e7_tuned"]


def test_who_left_in_an_earlier_run_is_remembered(project: Path) -> None:
    write_json(COMPARISON_RUN, {"signatures": {}, "left_after_round": {"far": 4, "changed": 4}})
    assert read_left({"far", "near"}) == {"far": 4}
    assert read_left(set()) == {}


class Measured:
    """Stands for ``compare``: four rounds of each configuration at its rate; ``names`` has those measured."""

    def __init__(self, rate_rps: float) -> None:
        self.rate_rps = rate_rps
        self.names: list[str] = []

    def __call__(self, configurations: Mapping[str, ServeSettings], *_: object) -> Comparison:
        self.names = list(configurations)
        fast = ("e7_tuned", "e6_batch_cap")  # the fastest, and the next
        return Comparison(
            "e1_baseline",
            self.names,
            [
                Turn(number, 8, name, (2 + (name in fast) + (name == fast[0])) * self.rate_rps, np.ones(20))
                for number in range(4)
                for name in self.names
            ],
        )


@pytest.fixture
def run_stage(project: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], list[str]]:
    """Runs the stage, in which all rates are a multiple of one; returns the names that are measured."""
    params = (ROOT / "params.yaml").read_text().replace("compiled: true", "compiled: false")
    (project / "params.yaml").write_text(params)
    write_json(MACHINE, {"id": "a machine", "gpu": None})
    card = SimpleNamespace(model_dump=lambda: {"architecture": "any"})
    monkeypatch.setattr("litmeter.stages.comparison.read_card", lambda _: card)
    monkeypatch.setattr("litmeter.stages.comparison.read_index", lambda: SimpleNamespace(photos=[]))
    monkeypatch.setattr("litmeter.stages.comparison.request_bodies", lambda *_: [b"photo"])

    def run(rate_rps: float) -> list[str]:
        measured = Measured(rate_rps)
        monkeypatch.setattr("litmeter.stages.comparison.compare", measured)
        main()
        return measured.names

    return run


def rates_by_round() -> dict[str, list[tuple[int, float | None]]]:
    """Round and rate of each turn at 8 users, by configuration."""
    found: dict[str, list[tuple[int, float | None]]] = {}
    for turn in read_rows(COMPARISON_TURNS, TurnRow):
        found.setdefault(turn.experiment, []).append((turn.round, turn.rate_rps))
    return found


def test_a_repetition_replaces_what_it_measures_again(run_stage: Callable[[float], list[str]]) -> None:
    """Who repeats until a difference is resolved would find one by chance in rounds that add up."""
    everyone = run_stage(10.0)
    assert run_stage(20.0) == everyone
    assert all([number for number, _ in own] == [0, 1, 2, 3] for own in rates_by_round().values())
    rows = {row.experiment: row for row in read_rows(COMPARISON, ComparisonRow)}
    assert {row.rounds for row in rows.values()} == {4}
    assert rows["e1_baseline"].rate_rps == 40.0
    assert not any(row.earlier for row in rows.values())


def change(name: str, **keys: object) -> None:
    path = Path("params.yaml")
    content = yaml.safe_load(path.read_text())
    content["experiments"][name] = (content["experiments"][name] or {}) | keys
    path.write_text(yaml.safe_dump(content, sort_keys=False))


def test_beside_a_change_the_earlier_rounds_of_the_reference_stay_for_what_is_kept_alone(
    run_stage: Callable[[float], list[str]],
) -> None:
    """And a machine that is twice as fast in the second run makes nothing faster that was kept."""
    everyone = run_stage(10.0)
    for rate_rps, batch_size in ((20.0, 3), (40.0, 5)):
        change("e2_batching", max_batch_size=batch_size)
        assert run_stage(rate_rps) == ["e1_baseline", "e7_tuned", "e2_batching"]
        earlier, now = [0, 1, 2, 3], [4, 5, 6, 7]
        rounds = {name: [number for number, _ in own] for name, own in rates_by_round().items()}
        expected = dict.fromkeys(everyone, earlier) | dict.fromkeys(("e7_tuned", "e2_batching"), now)
        assert rounds == expected | {"e1_baseline": earlier + now}
        rows = {row.experiment: row for row in read_rows(COMPARISON, ComparisonRow)}
        assert {row.rounds for row in rows.values()} == {4}
        assert (rows["e1_baseline"].rate_rps, rows["e7_tuned"].rate_rps) == (2 * rate_rps, 4 * rate_rps)
        kept = {name for name, row in rows.items() if row.earlier}
        assert kept == set(everyone) - {"e1_baseline", "e7_tuned", "e2_batching"}
        ratios = {name: row.ratio for name, row in rows.items()}
        assert ratios == dict.fromkeys(everyone, 1.0) | {"e7_tuned": 2.0, "e6_batch_cap": 1.5}
