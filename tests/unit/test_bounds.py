"""The bounds from the hardware to the served rate, each with its share of the one above."""

from __future__ import annotations

import pytest

from litmeter.kinds.classifier import Classifier
from litmeter.report.diagnosis import BOUND_NAMES, bounds_of, diagnose, raised
from tests.support.synthetic_results import CEILINGS, result


def test_five_bounds_have_shares_of_the_one_above() -> None:
    full = CEILINGS.of("full").model_copy(update={"datasheet_rps": 220.0})
    known = CEILINGS.model_copy(update={"precisions": {"full": full}})
    bounds = bounds_of(result("e1", 40.0, 90.0, 80.0), known)
    assert tuple(bound.name for bound in bounds) == BOUND_NAMES
    assert [bound.rate_rps for bound in bounds] == pytest.approx([220.0, 110.0, 90.0, 80.0, 40.0], rel=0.02)
    shares = [bound.share.ratio for bound in bounds if bound.upper]
    assert shares == pytest.approx([0.5, 90 / 110, 80 / 90, 40 / 80], rel=0.03)
    assert [bound.is_loss for bound in bounds] == [False, True, True, True, True]


def test_an_unknown_rate_is_no_bound() -> None:
    own = result("e1", 40.0, 100.0, None)
    assert [bound.name for bound in bounds_of(own, CEILINGS)] == ["roofline", "model", "served"]


def test_shares_are_as_certain_as_ratios_within_rounds() -> None:
    """The machine's speed changes by 1.5 from round to round, and the share of the model by 2%."""
    [_, model, pipeline, *_] = bounds_of(result("e1", 40.0, 100.0, 90.0), CEILINGS)
    assert model.share.low < 0.8 < 1 < model.share.high  # type: ignore[operator]
    assert 0.85 < pipeline.share.low < 0.9 < pipeline.share.high < 0.95  # type: ignore[operator]


@pytest.mark.parametrize(("served", "error"), [(110.0, True), (102.0, False)])
def test_a_bound_above_the_one_before_is_an_error(served: float, error: bool) -> None:
    assert bounds_of(result("e1", served, noise=0.02), CEILINGS)[-1].is_error is error


def test_a_model_above_the_measured_roofline_takes_its_place() -> None:
    half = Classifier(precision="half")
    models = {"e1": 200.0, "e2": 230.0, "e3": 100.0}
    results = [result(name, 90.0, rate_rps, 0.95 * rate_rps) for name, rate_rps in models.items()]
    results.append(result("e4", 90.0, 160.0, 155.0, serve=half))
    ceilings, [exceeded] = raised(results, CEILINGS)
    assert (exceeded.name, exceeded.ceiling) == ("e2", "full")
    assert exceeded.bound.share.low < 230 / 110 < exceeded.bound.share.high  # type: ignore[operator]
    assert ceilings == CEILINGS.with_rooflines({"full": 230.0})
    for one in results:
        bounds = bounds_of(one, ceilings)
        assert not any(bound.is_error for bound in bounds)
        assert diagnose(one, bounds, ceilings).cause
    assert raised([result("e1", 90.0, 114.0, 110.0)], CEILINGS) == (CEILINGS, [])  # within its interval
