"""Several losses of one configuration: which is named first, ties, and what may be none."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from tests.support.synthetic_results import STAGES, at_best, batch, level
from tests.unit.test_diagnosis import BATCHING, HALF_IDLE, limit


def test_a_larger_loss_above_the_model_comes_first() -> None:
    own = at_best(level(4, 60.0, other_percent=30.0))
    found = limit(own, roofline_full_rps=400.0, roofline_half_rps=300.0)
    assert (found.cause, found.parameter) == ("kernels, then other load", "compiled")
    assert found.share == pytest.approx(0.25)
    assert found.text.index("Kernels: ") < found.text.index("Other load: ")
    assert "`compiled` may move it" in found.text
    smaller = limit(own, roofline_full_rps=140.0, roofline_half_rps=130.0)
    assert smaller.cause == "other load"


def test_a_larger_loss_that_may_be_none_is_said() -> None:
    baseline = [batch(1, 100.0, 80.0)]
    wide = level(4, 45.0, low_rps=20.0, high_rps=95.0)
    found = limit(at_best(wide, baseline=baseline))
    assert found.cause == "preprocessing"
    doubt = "Whether served is slower than pipeline + transport is not resolved: "
    assert re.search(rf"{re.escape(doubt)}0\.\d\d \(0\.\d\d to 1\.\d\d\) of it\.$", found.text)
    unknown = [replace(batch(1, 100.0, 80.0), pipeline_low_rps=0.0)]
    found = limit(at_best(wide, baseline=unknown))
    assert re.search(rf"{re.escape(doubt)}0\.\d\d \(0\.\d\d or more\) of it\.$", found.text)
    narrow = level(4, 75.0, low_rps=60.0, high_rps=95.0)
    assert "not resolved" not in limit(at_best(narrow, baseline=baseline)).text


def test_losses_that_cannot_be_told_apart_are_a_tie() -> None:
    both = at_best(level(4, 40.0), baseline=[batch(1, 100.0, 63.0)])
    found = limit(both)
    assert found.cause == "preprocessing or unexplained"
    assert found.text.endswith("Which of these losses is larger is not resolved: preprocessing, unexplained.")
    assert found.text.index("Preprocessing: ") < found.text.index("Unexplained: ")
    behind = limit(both, roofline_full_rps=900.0, roofline_half_rps=800.0)
    assert behind.cause == "kernels, then preprocessing or unexplained"
    assert behind.text.endswith(
        "Which of these losses is larger is not resolved: preprocessing, unexplained."
    )
    with_kernels = limit(both, roofline_full_rps=160.0, roofline_half_rps=150.0)
    assert with_kernels.cause == "kernels or preprocessing or unexplained"
    assert " or " not in limit(at_best(level(4, 20.0), baseline=[batch(1, 100.0, 63.0)])).cause


def test_a_cause_of_two_losses_is_named_once() -> None:
    """The batch window slows down the server of a model that does nothing, too."""
    waits = {1: STAGES | {"queue": 18.0}}
    null = {"null_rps": 60.0, "null_low_rps": 50.0, "null_high_rps": 70.0}
    served = level(1, 36.0, low_rps=30.0, high_rps=42.0, **HALF_IDLE)
    own = at_best(served, serve=BATCHING, stages=waits, **null)
    found = limit(own)
    assert found.cause == "batch window"
    assert found.text.count("Batch window: ") == 2
    assert "Which of these losses" not in found.text
