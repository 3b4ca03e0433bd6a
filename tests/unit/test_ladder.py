"""The rungs of the ladder, each with its share of the one above."""

from __future__ import annotations

from typing import Any

import pytest

from servebench.report.bounds import ladder, measuring_errors
from servebench.report.results import Level, Result
from tests.support.synthetic_results import CEILINGS, batch, level, result


def at_best(best: Level, *others: Level, **options: Any) -> Result:
    return result("e1", [best, *others], best=best, **options)


def test_six_rungs_each_with_its_share_of_the_one_above() -> None:
    own = at_best(
        level(4, 40.0),
        baseline=[batch(1, 80.0, 50.0, pipeline_cpu_ms=36.0)],
        null_cpu_ms=3.0,
        null_client_cpu_ms=1.0,
    )
    rungs = ladder(own, CEILINGS | {"datasheet_full_rps": 220.0})
    assert [rung.name for rung in rungs] == [
        "datasheet",
        "roofline",
        "model",
        "pipeline",
        "pipeline + transport",
        "served",
    ]
    # The fifth: 2 cores over 36 + 3 + 1 ms of CPU.
    assert [rung.rate_rps for rung in rungs] == [220.0, 110.0, 80.0, 50.0, 50.0, 40.0]
    assert [rung.share for rung in rungs] == [None, 0.5, pytest.approx(80 / 110), 0.625, 1.0, 0.8]
    assert rungs[-1].low_rps == pytest.approx(38.8)


def test_each_rung_is_the_best_batch_size() -> None:
    own = at_best(level(4, 40.0), baseline=[batch(1, 80.0, 60.0), batch(8, 90.0, 50.0)])
    rates = {rung.name: rung.rate_rps for rung in ladder(own, CEILINGS)}
    assert rates["model"] == 90.0
    assert rates["pipeline"] == 60.0


@pytest.mark.parametrize(
    ("cpu_ms", "null_rps", "rate", "low"),
    [
        (20.0, 800.0, 80.0, 78.4),  # 2 cores over 20 + 4 + 1 ms, as uncertain as the pipeline
        (5.0, 800.0, 100.0, 98.0),  # idle cores take the transport: the pipeline's own rate
        (5.0, 60.0, 60.0, 57.0),  # the server passes on no more
    ],
)
def test_pipeline_and_transport_share_the_cores(
    cpu_ms: float, null_rps: float, rate: float, low: float
) -> None:
    own = at_best(
        level(4, 40.0),
        baseline=[batch(1, 100.0, 100.0, pipeline_cpu_ms=cpu_ms)],
        null_rps=null_rps,
        null_low_rps=null_rps * 0.95,
        null_cpu_ms=4.0,
        null_client_cpu_ms=1.0,
    )
    rung = {rung.name: rung for rung in ladder(own, CEILINGS)}["pipeline + transport"]
    assert rung.rate_rps == pytest.approx(rate)
    assert rung.low_rps == pytest.approx(low)


def test_what_is_unknown_has_no_rung() -> None:
    own = result("e1", [level(4, 40.0, valid=False, why="3 failed")], null_cpu_ms=None)
    assert [rung.name for rung in ladder(own, CEILINGS)] == ["roofline", "model", "pipeline"]


def test_a_rung_above_its_predecessor_is_an_error_of_measuring() -> None:
    own = at_best(level(4, 110.0))
    assert measuring_errors("e1", ladder(own, CEILINGS)) == [
        "e1: served (106.7 to 113.3 images/s) lies above pipeline + transport (98.0 to 102.0 images/s): "
        "an error of measuring"
    ]
    assert measuring_errors("e1", ladder(at_best(level(4, 103.0)), CEILINGS)) == []
