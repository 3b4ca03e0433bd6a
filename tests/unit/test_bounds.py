"""The bounds from the hardware to the served rate, each with its share of the one above."""

from __future__ import annotations

from typing import Any

import pytest

from litmeter.report.diagnosis import BOUND_NAMES, bounds_of
from tests.support.synthetic_results import CEILINGS, result


def test_six_bounds_have_shares_of_the_one_above() -> None:
    # Of the cores' 2000 ms a second: 36 of the pipeline, 3 of the null server, 1 of its client.
    costs: dict[str, Any] = {"in_process": {"workers_cpu_ms": 36.0}, "client_cpu_ms": 1.0}
    own = result("e1", 40.0, 90.0, 80.0, null={"server_cores": 2.4}, **costs)
    bounds = bounds_of(own, CEILINGS | {"datasheet_full_rps": 220.0})
    assert tuple(bound.name for bound in bounds) == BOUND_NAMES
    assert [bound.rate_rps for bound in bounds] == pytest.approx(
        [220.0, 110.0, 90.0, 80.0, 50.0, 40.0], rel=0.02
    )
    shares = [bound.share.ratio for bound in bounds if bound.upper]
    assert shares == pytest.approx([0.5, 90 / 110, 80 / 90, 50 / 80, 0.8], rel=0.03)
    assert [bound.is_loss for bound in bounds] == [False, True, True, True, True, True]


@pytest.mark.parametrize(
    ("cpu_ms", "null_rps", "rate"),
    [
        (20.0, 1000.0, 80.0),  # 2 cores over 20 + 4 + 1 ms
        (5.0, 1000.0, 100.0),  # idle cores take the transport: the pipeline's own rate
        (5.0, 60.0, 60.0),  # the server passes on no more
    ],
)
def test_pipeline_and_transport_share_the_cores(cpu_ms: float, null_rps: float, rate: float) -> None:
    null = {"rate_rps": null_rps, "server_cores": 4.0 * null_rps / 1000}
    own = result("e1", 40.0, in_process={"workers_cpu_ms": cpu_ms}, null=null, client_cpu_ms=1.0)
    [bound] = [one for one in bounds_of(own, CEILINGS) if one.name == "pipeline + transport"]
    assert bound.rate_rps == pytest.approx(rate, rel=0.02)


def test_an_unknown_rate_is_no_bound() -> None:
    own = result("e1", 40.0, 100.0, None, null={"rate_rps": None})
    assert [bound.name for bound in bounds_of(own, CEILINGS)] == ["roofline", "model", "served"]


def test_shares_are_as_certain_as_ratios_within_rounds() -> None:
    """The machine's speed changes by 1.5 from round to round, and the share of the model by 2%."""
    [_, model, pipeline, *_] = bounds_of(result("e1", 40.0, 100.0, 90.0), CEILINGS)
    assert model.share.low < 0.8 < 1 < model.share.high  # type: ignore[operator]
    assert 0.85 < pipeline.share.low < 0.9 < pipeline.share.high < 0.95  # type: ignore[operator]


@pytest.mark.parametrize(("served", "error"), [(110.0, True), (102.0, False)])
def test_a_bound_above_the_one_before_is_an_error(served: float, error: bool) -> None:
    assert bounds_of(result("e1", served, noise=0.05), CEILINGS)[-1].is_error is error
