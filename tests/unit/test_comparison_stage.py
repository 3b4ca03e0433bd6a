"""What the stage measures anew, what it keeps, and what a change of the candidate makes of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from litmeter.classifier.model.card import CARD_NAME, ModelCard
from litmeter.classifier.model.compiled.manifest import Package
from litmeter.kinds.classifier import Classifier
from litmeter.kinds.command import Command
from litmeter.kinds.configuration import Checked, Configuration, RanAs
from litmeter.kinds.costs import Costs
from litmeter.kinds.registry import read as read_keys
from litmeter.kinds.script import Script
from litmeter.load.bodies import Bodies
from litmeter.measure.comparison_rows import read_comparison
from litmeter.measure.log import UNFINISHED, Log
from litmeter.measure.rows import ComparisonRow, TurnRow
from litmeter.measure.subjects import Subject
from litmeter.measure.turn import Schedule, Work
from litmeter.params import Params, load_params
from litmeter.paths import (
    COMPARISON,
    COMPARISON_TURNS,
    COMPILERS,
    DVC_FILE,
    MACHINE,
    MODEL,
    OVER_BEFORE,
)
from litmeter.settings import PARAMS_FILE, read_sections
from litmeter.stages import packages
from litmeter.stages.comparison import (
    ceilings_of,
    dated,
    main,
    names_to_measure,
    read_last,
    settings_before,
    signatures_of,
)
from litmeter.system.dvc_file import code_digest
from litmeter.system.files import read_json, read_rows, write_json
from tests.support.models import write_manifest
from tests.support.project import ROOT
from tests.support.synthetic_results import compared, write_comparison
from tests.support.turns import Machine, drive

PHOTO = Bodies([b"photo"], "image/jpeg")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("module", "measured_anew"),
    [
        ("direct/worker.py", True),
        ("system/memory.py", True),
        ("params.py", True),
        ("report/tables.py", False),
        ("cli/main.py", False),
    ],
)
def test_only_code_that_the_stage_runs_counts(project: Path, module: str, measured_anew: bool) -> None:
    before = code_digest(DVC_FILE, "comparison")
    with (project / "src/litmeter" / module).open("a") as file:
        file.write("# changed\n")
    assert (code_digest(DVC_FILE, "comparison") != before) is measured_anew


def keep_results(names: Sequence[str], settings: Configuration | None = None, **facts: object) -> None:
    """Results of an earlier run, of configurations whose rates rise by 20 req/s from name to name."""
    own = {"model": "the weights", "candidate": (settings or Classifier()).model_dump()}
    rows = [compared(name, 20.0 * rank, rank) for rank, name in enumerate(names, 1)]
    write_comparison(rows, **(own | facts))


@pytest.mark.usefixtures("project")
def test_measured_are_the_changed_the_reference_and_the_fastest_and_all_others_keep_their_rows() -> None:
    keep_results(["reference", "gone", "slow", "same", "fast", "was fastest"])
    signatures = {name: f"{name}'s" for name in ("reference", "slow", "same", "fast")}
    signatures |= {"was fastest": "new", "added": "new"}
    names, kept = names_to_measure(signatures, "reference", read_last())
    assert names == ["reference", "fast", "was fastest", "added"]
    assert [(row.experiment, row.earlier, row.rank) for row in kept] == [
        ("slow", "2026-01-02", None),
        ("same", "2026-01-02", None),
    ]
    assert kept[0].rate_rps == 60.0


@pytest.mark.usefixtures("project")
def test_a_row_that_was_kept_before_keeps_its_date() -> None:
    row = compared("slow", 30.0, 1)
    assert dated(replace(row, earlier="2025-12-31"), "2026-01-02").earlier == "2025-12-31"
    assert dated(row, "2026-01-02").earlier == "2026-01-02"


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("changed", [[], ["reference", "slow", "fast"], ["slow", "fast"]])
def test_where_nothing_or_all_has_changed_all_are_measured(changed: list[str]) -> None:
    """A repetition replaces: rounds that add up until something is resolved would find it by chance."""
    keep_results(["reference", "slow", "fast"])
    signatures = {name: "new" if name in changed else f"{name}'s" for name in ("reference", "slow", "fast")}
    assert names_to_measure(signatures, "reference", read_last()) == (list(signatures), [])


@pytest.mark.usefixtures("project")
def test_without_results_that_can_be_read_all_are_measured() -> None:
    signatures = {"reference": "reference's", "slow": "new", "fast": "fast's"}
    assert read_last() is None
    assert names_to_measure(signatures, "reference", None) == (list(signatures), [])
    keep_results(["reference", "slow", "fast"])
    assert read_last() is not None
    COMPARISON.write_text("<<<<<<< HEAD\n")
    assert read_last() is None
    COMPARISON.unlink()
    assert read_last() is None


@pytest.fixture
def params(project: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """Those of the project without compiled packages, of a machine and a model."""
    text = (ROOT / "params.yaml").read_text().replace("compiled: true", "compiled: false")
    (project / "params.yaml").write_text(text.replace("precision: int8", "precision: full"))
    write_json(MACHINE, {"id": "a machine", "gpu": None, "bfloat16": True})
    card = SimpleNamespace(weights_sha256="the weights", model_dump=lambda: {"architecture": "any"})
    monkeypatch.setattr("litmeter.kinds.classifier.read_card", lambda _: card)
    MODEL.exported.mkdir(parents=True)
    (MODEL.exported / CARD_NAME).touch()
    return load_params()


@pytest.mark.parametrize(
    ("settings", "facts", "measured"),
    [
        ({}, {}, False),
        ({"max_batch_size": 7}, {}, True),
        ({"max_batch_size": 7}, {"model": "others"}, False),
        ({"max_batch_size": 7}, {"candidate": {"a key of earlier code": 1}}, False),
        (
            {"compiled": True, "preprocess": "scaled", "threads_per_worker": 1},
            {},
            False,
        ),  # no package is left
    ],
)
def test_the_settings_before_are_measured_where_they_changed_and_can_be_served(
    params: Params, settings: dict[str, object], facts: dict[str, object], measured: bool
) -> None:
    before = read_keys(params.serve.model_dump() | settings)
    keep_results(["e1_baseline", "candidate"], before, **facts)
    assert settings_before(params, "cpu", read_last()) == (before if measured else None)


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
        monkeypatch.setattr("litmeter.kinds.classifier.read_card", lambda _, card=card: card)
        found.append(signatures_of(load_params(), "cpu", PHOTO))
    assert all(found[0][name] != found[1][name] for name in found[0])
    params = load_params()
    renamed = {"base" if name == "e1_baseline" else name: own for name, own in params.experiments.items()}
    comparison = params.comparison.model_copy(update={"reference": "base"})
    of_renamed = params.model_copy(update={"experiments": renamed, "comparison": comparison})
    after = signatures_of(of_renamed, "cpu", PHOTO)
    assert after["e7_tuned"] != found[1]["e7_tuned"]  # it has no turns beside the new name
    load = params.load.model_copy(update={"timeout_s": 1.0})
    less_patient = signatures_of(params.model_copy(update={"load": load}), "cpu", PHOTO)
    assert less_patient["e7_tuned"] != found[1]["e7_tuned"]
    objective = params.objective.model_copy(update={"miss": 0.01})
    stricter = signatures_of(params.model_copy(update={"objective": objective}), "cpu", PHOTO)
    assert stricter["e7_tuned"] != found[1]["e7_tuned"]  # its row has another percentile
    as_png = signatures_of(params, "cpu", PHOTO._replace(content_type="image/png"))
    assert as_png["e7_tuned"] != found[1]["e7_tuned"]
    one, other = (
        signatures_of(params, "cpu", Bodies(own, "image/jpeg")) for own in ([b"a", b"bc"], [b"ab", b"c"])
    )
    assert one != other
    known = params.model_copy(update={"costs": {"e7_tuned": Costs(flops=1e9)}})
    costly = signatures_of(known, "cpu", PHOTO)
    assert [name for name in costly if costly[name] != found[1][name]] == ["e7_tuned"]


def test_the_roofline_of_a_script_is_that_of_the_settings_that_run(params: Params) -> None:
    """What is not known of a server does not lower its bound: eight answers may share the weights."""
    costs = Costs(weights_bytes=1e6)
    script = Script(script="server.py")
    ran = RanAs(text="", keys={"max_batch_size": 4, "workers_per_device": 2, "batch_timeout_s": 0.0})
    servers = {"as it ran": script.as_ran(ran.keys), "other": script, "any": Command(command="serve {port}")}
    found = {
        "as it ran": Checked(costs=costs, ran=ran),
        "other": Checked(costs=costs, ran=RanAs(text="uvicorn")),
        "any": Checked(costs=costs),
    }
    ceilings = ceilings_of(servers, found, params, "cpu")
    assert {name: one.at_once for name, one in ceilings.items()} == {"as it ran": 4, "other": 8, "any": 8}
    rates = [one.roofline_rps or 0.0 for one in ceilings.values()]
    assert rates == pytest.approx([4 * rates[1] / 8, rates[1], rates[1]], rel=0.01)


@pytest.mark.usefixtures("params")
def test_only_packages_that_a_configuration_runs_change_what_its_row_depends_on() -> None:
    def signatures_with(**sha256: str) -> dict[str, str]:
        write_packages(**sha256)
        write_json(COMPILERS, read_json(MACHINE))
        packages.main()
        return signatures_of(load_params(), "cpu", PHOTO)

    set_key("serve", precision="full", compiled=True)
    first = signatures_with(half="b", full="a")
    assert signatures_with(full="a", half="other", int8="new") == first
    changed = signatures_with(full="other")
    assert [name for name in first if changed[name] != first[name]] == ["candidate"]


def write_packages(**sha256: str) -> None:
    """The manifest of a package for a single image in each of these precisions, by its hash."""
    found = [Package(precision=name, batch_size=1, sha256=own).model_dump() for name, own in sha256.items()]
    write_manifest(MODEL, packages=found)


def test_a_row_depends_on_all_that_machine_json_has(params: Params) -> None:
    before = signatures_of(params, "cpu", PHOTO)
    assert signatures_of(params, "cpu", PHOTO) == before
    write_json(MACHINE, read_json(MACHINE) | {"OMP_NUM_THREADS": "1"})
    after = signatures_of(params, "cpu", PHOTO)
    assert all(after[name] != before[name] for name in before)


@pytest.fixture
def run_stage(params: Params, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Runs the stage on a machine without servers; returns what is measured there."""
    monkeypatch.setattr("litmeter.params.Params.bodies", lambda _: PHOTO)

    def run_it(
        rates: Mapping[str, float],
        default_rps: float = 40.0,
        holds: int | None = None,
        silent: Sequence[tuple[str, int]] = (),
    ) -> list[str]:
        machine = Machine(
            lambda turn: (
                0.0
                if (turn.subject, turn.round) in silent and not isinstance(turn.load, Work)
                else rates.get(turn.subject, default_rps)
            ),
            holds=holds,
        )

        def run(schedule: Schedule[None], subjects: Mapping[str, Subject], log: Log, *_: object) -> None:
            assert {turn.subject for turn in machine.turns} <= set(subjects)
            drive(schedule, machine, log)

        monkeypatch.setattr("litmeter.stages.comparison.run", run)
        main()
        return sorted({turn.subject for turn in machine.turns if not isinstance(turn.load, Work)})

    return run_it


def set_key(section: str, **keys: object) -> None:
    path = Path("params.yaml")
    content = yaml.safe_load(path.read_text())
    target = content["serve"] if section == "serve" else content["experiments"][section]
    target |= keys
    path.write_text(yaml.safe_dump(content, sort_keys=False))


def rows_by_name() -> dict[str, ComparisonRow]:
    return {row.experiment: row for row in read_comparison().rows}


def test_a_repetition_replaces_all(params: Params, run_stage: Callable[..., list[str]]) -> None:
    everyone = sorted(params.configurations())
    for rate_rps in (40.0, 20.0):
        assert run_stage({}, rate_rps) == everyone
        rows = rows_by_name()
        assert sorted(rows) == everyone
        assert not any(row.earlier for row in rows.values())
        assert all(row.rate_rps == pytest.approx(rate_rps, rel=0.05) for row in rows.values())
        assert read_comparison().over_before.ratio is None
        turns = read_rows(COMPARISON_TURNS, TurnRow)
        assert [row.turn for row in turns] == list(range(len(turns)))


def test_after_a_change_of_the_candidate_both_settings_are_measured(
    params: Params, run_stage: Callable[..., list[str]]
) -> None:
    """Twice as fast as before, on a machine that has become slower meanwhile."""
    everyone = run_stage({"e7_tuned": 80.0})
    set_key("serve", max_batch_size=7)
    measured = run_stage({"e1_baseline": 20.0, "before": 20.0}, 40.0)
    assert measured == ["before", "candidate", "e1_baseline", "e7_tuned"]
    found = read_comparison().over_before
    assert read_json(OVER_BEFORE) == found.model_dump(mode="json", exclude={"streams"})
    assert found.changes == {"max_batch_size": (params.serve.max_batch_size, 7)}
    assert found.ratio == pytest.approx(2.0, rel=0.05)
    rows = rows_by_name()
    assert sorted(rows) == everyone
    kept = {name for name, row in rows.items() if row.earlier}
    assert kept == set(everyone) - set(measured)
    assert all(rows[name].rank is None for name in kept)
    assert rows["candidate"].ratio == pytest.approx(2.0, rel=0.05)
    assert rows["e2_batching"].ratio == pytest.approx(1.0, rel=0.05)  # beside the reference of its own run


@pytest.mark.parametrize(
    ("silent", "ratio"),
    [((), 2.0), ([("e1_baseline", 0)], None)],
    ids=["all answered", "the reference missed a turn"],
)
def test_where_memory_keeps_candidate_and_before_apart_the_reference_compares_them(
    params: Params,
    run_stage: Callable[..., list[str]],
    silent: Sequence[tuple[str, int]],
    ratio: float | None,
) -> None:
    assert params.comparison.reference == "e1_baseline"
    run_stage({})
    set_key("serve", max_batch_size=7)
    run_stage({"e1_baseline": 30.0, "before": 20.0}, 40.0, holds=2, silent=silent)
    rounds: dict[str, set[int]] = {"before": set(), "candidate": set()}
    for turn in read_rows(COMPARISON_TURNS, TurnRow):
        if turn.subject in rounds:
            rounds[turn.subject].add(turn.round)
    assert rounds["before"].isdisjoint(rounds["candidate"])
    found = read_comparison().over_before.ratio
    assert found == (ratio and pytest.approx(ratio, rel=0.05))
    assert not list(UNFINISHED.glob("comparison-*"))


@pytest.fixture
def own_servers(project: Path) -> None:
    """A project of a LitAPI and a command, without a classifier."""
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content = {key: content[key] for key in ("load", "objective", "comparison")}
    content["load"] |= {"bodies": "bodies.jsonl"}
    content["comparison"] |= {"reference": "api"}
    content["objective"] |= {"configurations": ["api"]}
    content["experiments"] = {"api": {"api": "server:MyAPI", "max_batch_size": 4}}
    content["serve"] = {"command": "server --port {port}"}
    Path("params.yaml").write_text(yaml.safe_dump(content))
    write_json(MACHINE, {"id": "a machine", "gpu": None})
    Path("server.py").write_text("first\n")
    deps = ["metrics/machine.json", "server.py", "${load.bodies}"]
    DVC_FILE.write_text(yaml.safe_dump({"stages": {"comparison": {"deps": deps}}}))


@pytest.mark.usefixtures("own_servers")
def test_what_cannot_run_in_process_is_only_served_and_the_reason_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = {"api": Checked("", "", (), None, {4: 30.0, 8: 15.0}), "candidate": Checked("", "a command", ())}
    monkeypatch.setattr("litmeter.stages.comparison.check_all", lambda own, *_: found)
    monkeypatch.setattr("litmeter.params.Params.bodies", lambda _: Bodies([b"{}"], "application/json"))
    machine = Machine(lambda turn: 40.0)

    def run(schedule: Schedule[None], subjects: Mapping[str, Subject], log: Log, *_: object) -> None:
        assert set(subjects) == {"api", "candidate", "api in-process"}
        drive(schedule, machine, log)

    monkeypatch.setattr("litmeter.stages.comparison.run", run)
    main()
    assert {turn.subject for turn in machine.turns if isinstance(turn.load, Work)} == {"api in-process"}
    facts = read_comparison()
    assert facts.unavailable == {"candidate": "a command"}
    assert facts.batch_ms == {"api": {4: 30.0, 8: 15.0}}
    rows = rows_by_name()
    assert rows["api"].efficiency is not None
    assert rows["candidate"].efficiency is None


@pytest.mark.usefixtures("own_servers")
def test_a_row_depends_on_the_files_that_its_stage_depends_on() -> None:
    def signatures(server: str, *bodies: bytes, content_type: str = "application/json") -> dict[str, str]:
        Path("server.py").write_text(server)
        Path("__pycache__").mkdir(exist_ok=True)
        Path("__pycache__/server.pyc").write_text(server)
        return signatures_of(load_params(), "cpu", Bodies([*bodies], content_type))

    first = signatures("first\n", b"ab", b"c")
    assert signatures("first\n", b"ab", b"c") == first
    for changed in (
        signatures("second\n", b"ab", b"c"),
        signatures("first\n", b"a", b"bc"),
        signatures("first\n", b"ab", b"c", content_type="text/plain"),
    ):
        assert all(changed[name] != first[name] for name in first)


@pytest.mark.usefixtures("own_servers")
def test_a_row_with_a_roofline_depends_on_its_costs() -> None:
    first = signatures_of(load_params(), "cpu", PHOTO)
    sections = read_sections()
    PARAMS_FILE.write_text(yaml.safe_dump({**sections, "costs": {"candidate": {"flops": 1e6}}}))
    changed = signatures_of(load_params(), "cpu", PHOTO)
    assert [name for name in first if changed[name] != first[name]] == ["candidate"]
