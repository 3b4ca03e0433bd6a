"""`make capacity`'s pipeline: of its own, and asked for by name."""

from __future__ import annotations

from litmeter.paths import CapacityPaths
from litmeter.system.files import read_json
from tests.pipeline.conftest import Clone


def test_a_capacity_is_measured_where_it_is_asked_for(ran: Clone) -> None:
    paths = CapacityPaths("candidate")
    try:
        ran.change({"objective": {"max_s": 20.0, "probe_requests": 100, "tolerance": 0.5}})
        assert "capacity" not in " ".join(ran.stages_run(ran.dvc("repro", "--dry").stdout))
        done = ran.dvc("repro", "capacity/dvc.yaml")
        assert ran.stages_run(done.stdout)[-1] == "capacity/dvc.yaml:capacity@candidate"
        metrics = read_json(ran.path / paths.metrics)
        assert metrics["status"] in ("resolved", "unresolved", "above_range")
        assert metrics["peak_rps"] > 0
        assert metrics["machine"] == read_json(ran.path / "metrics/machine.json")["id"]
        ran.run(".venv/bin/litmeter", "results")
        assert (ran.path / paths.picture).stat().st_size > 10_000
    finally:
        ran.git("checkout", "-q", ".")
        ran.git("clean", "-fdq", "metrics", "plots", "assets", "capacity")
        ran.dvc("checkout", "-q", "--force")
