"""`make capacity`'s pipeline: of its own, and asked for by name."""

from __future__ import annotations

from litmeter.paths import CAPACITY_PICTURE, COMPARISON, CapacityPaths
from litmeter.settings import CANDIDATE
from litmeter.system.files import read_json
from tests.pipeline.conftest import Clone


def test_capacities_are_measured_where_they_are_asked_for(ran: Clone) -> None:
    # So long that a busy machine reaches it, too.
    objective = {"slo_ms": 2000.0, "max_s": 15.0, "tolerance": 0.5, "configurations": [CANDIDATE]}
    try:
        ran.change({"objective": objective})
        assert "ondemand" not in ran.dvc("repro", "--dry").stdout
        done = ran.dvc("repro", "ondemand/dvc.yaml:capacity")
        assert "ondemand/dvc.yaml:capacity" in ran.stages_run(done.stdout)
        metrics = read_json(ran.path / CapacityPaths(CANDIDATE).metrics)
        assert metrics["status"] in ("resolved", "unresolved", "above_range")
        assert metrics["seconds"] > 0
        assert metrics["machine"] == read_json(ran.path / "metrics/machine.json")["id"]
        ran.run(".venv/bin/litmeter", "results")
        assert (ran.path / CAPACITY_PICTURE).stat().st_size > 10_000
        # A busy machine's comparison may be of another speed, and the capacity then no answer beside it.
        (ran.path / COMPARISON).unlink()
        ran.git("add", "metrics", "plots")
        revision = ran.git("stash", "create").strip()
        planned = ran.run(".venv/bin/litmeter", "machines", revision, "--rate", "100", "--price", "1").stdout
        assert f"| {CANDIDATE} |" in " ".join(planned.split())
    finally:
        ran.git("reset", "-q")
        ran.restore()
