"""The bounds from the hardware to the served rate, each with its share of the one above."""

from __future__ import annotations

import pytest

from litmeter.report.bounds import bounds_of, measuring_errors
from tests.support.synthetic_results import CEILINGS, at_best, batch, level, result


def test_six_bounds_have_shares_of_the_one_above() -> None:
    own = at_best(
        level(4, 40.0),
        baseline=[batch(1, 70.0, 50.0, pipeline_cpu_ms=36.0), batch(8, 80.0, 45.0)],  # each at its best
        null_cpu_ms=3.0,
        null_client_cpu_ms=1.0,
    )
    bounds = bounds_of(own, CEILINGS | {"datasheet_full_rps": 220.0})
    assert [bound.name for bound in bounds] == [
        "datasheet",
        "roofline",
        "model",
        "pipeline",
        "pipeline + transport",
        "served",
    ]
    # The fifth: 2 cores over 36 + 3 + 1 ms of CPU.
    assert [bound.rate_rps for bound in bounds] == [220.0, 110.0, 80.0, 50.0, 50.0, 40.0]
    assert [bound.share for bound in bounds] == [None, 0.5, pytest.approx(80 / 110), 0.625, 1.0, 0.8]
    assert bounds[-1].low_rps == pytest.approx(38.8)


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
    [bound] = [one for one in bounds_of(own, CEILINGS) if one.name == "pipeline + transport"]
    assert bound.rate_rps == pytest.approx(rate)
    assert bound.low_rps == pytest.approx(low)


def test_an_unknown_rate_is_no_bound() -> None:
    own = result("e1", [level(4, 40.0, invalid_reason="3 failed")], null_cpu_ms=None)
    assert [bound.name for bound in bounds_of(own, CEILINGS)] == ["roofline", "model", "pipeline"]


def test_a_bound_above_the_one_before_is_an_error() -> None:
    own = at_best(level(4, 110.0))
    assert measuring_errors("e1", bounds_of(own, CEILINGS)) == [
        "e1: served (106.7 to 113.3 images/s) lies above pipeline + transport (98.0 to 102.0 images/s): "
        "an error of measuring"
    ]
    assert measuring_errors("e1", bounds_of(at_best(level(4, 103.0)), CEILINGS)) == []
