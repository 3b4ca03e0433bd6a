"""What limits a configuration, in words made from its numbers.

A loss counts where a bound lies below the one before it by more than their intervals.
The largest loss (the smallest share) from the model in-process down to the served rate is named first:
it is what serving costs. A larger one above the model is named after it.

================  =======================================================================================
cause             the largest loss in serving is ...
================  =======================================================================================
preprocessing     from model to pipeline
transport         from pipeline to pipeline + transport
batch window      the same, where that bound is the server with a model that does nothing, it collects
                  batches, and neither it nor its client uses 90% of a core
...               from pipeline + transport to served: the first rule that holds in ``served_causes.py``
not resolved      nowhere
================  =======================================================================================

Above the model: ``hardware`` where the model reaches 70% of the roofline or the larger loss is from the
datasheet to the roofline, else ``kernels``. With no loss in serving, it is named first.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from servebench.report.bounds import MODEL, PIPELINE, ROOFLINE, SERVED, TRANSPORT, Bound, budget_ms
from servebench.report.limit import CORE_BUSY, CPU_FULL_PERCENT, Limit, Step, more_workers
from servebench.report.results import Result
from servebench.report.served_causes import below_transport
from servebench.system.tables import pluralise

CLOSE_TO_ROOFLINE = 0.7
"""The roofline leaves out all but convolutions and matrix products, so nothing reaches 1."""
NO_KEY = "no key of `serve:` moves it"


def diagnose(result: Result, bounds: Sequence[Bound], ceilings: Mapping[str, Any]) -> Limit:
    """What limits one configuration; cause, share and parameter are those named first.

    Args:
        bounds: from ``bounds_of``.
        ceilings: metrics/ceilings.json.
    """
    best = result.best
    if best is None:
        why = "; ".join(f"{level.users} users: {level.invalid_reason}" for level in result.levels)
        return Limit("failed requests", None, None, f"Requests failed at every level ({why}).")
    below = _largest_loss(bounds, (PIPELINE, TRANSPORT, SERVED))
    top = _largest_loss(bounds, (ROOFLINE, MODEL))
    above = _above(result, top, ceilings) if top else None
    doubt = "" if best.valid else f" Its best level is not valid: {best.invalid_reason}."
    if below is None:
        nothing = "Serving loses nothing beyond the intervals from the model in-process down"
        if above is None:
            text = f"Not resolved: no bound lies below the one above it by more than their intervals.{doubt}"
            return Limit("not resolved", None, None, text)
        return Limit(above.cause, above.share, above.parameter, f"{nothing}. {above.text}{doubt}")
    if below.lower.name == PIPELINE:
        first = _preprocessing(result, below)
    elif below.lower.name == TRANSPORT:
        first = _transport(result, below)
    else:
        first = below_transport(result, best, below)
    text = f"{first.text}{doubt}"
    if above is not None and above.share is not None and above.share < below.share:
        text += f" More is lost above the model. {above.text}"
    return Limit(first.cause, first.share, first.parameter, text)


def _largest_loss(bounds: Sequence[Bound], names: Sequence[str]) -> Step | None:
    steps = [
        Step(upper, lower)
        for upper, lower in itertools.pairwise(bounds)
        if lower.name in names and lower.highest_rps < upper.lowest_rps
    ]
    return min(steps, key=lambda step: step.share, default=None)


def _above(result: Result, step: Step, ceilings: Mapping[str, Any]) -> Limit:
    """The loss from the datasheet to the roofline, or from there to the model in-process."""
    precision, model = result.serve.precision, result.model
    bound, batch = (ceilings[f"roofline_{precision}_{key}"] for key in ("bound", "batch"))
    where = f"compute-bound from batch size {batch} on" if bound == "compute" else "memory-bound"
    half_rps = ceilings["roofline_half_rps"]
    gains = precision == "full" and half_rps > ceilings["roofline_full_rps"]
    parameter = "precision" if gains else None
    advice = f"`precision` moves it: in half the roofline is {half_rps:,.1f}" if gains else NO_KEY
    if step.lower.name == ROOFLINE:
        rate = step.of("the datasheet's")
        text = f"Hardware: the roofline measured here is {rate} ({where}); {advice}."
        return Limit("hardware", step.share, parameter, text)
    roofline = step.of("the roofline's")
    rate = f"the model in-process does {roofline} ({where})"
    if step.share >= CLOSE_TO_ROOFLINE:
        return Limit("hardware", step.share, parameter, f"Hardware: {rate}; {advice}.")
    if gains:
        advice = f"`precision` may move it: in half the roofline is {half_rps:,.1f}"
    elif not result.serve.compiled:
        parameter, advice = "compiled", "`compiled` may move it"
    elif _still_growing(result):
        advice = "larger batches than `baseline.batch_sizes` has may be faster: the rate still grows"
    else:
        advice = NO_KEY
    text = f"Kernels: {rate}, at its best batch size, {model.batch_size}; {advice}."
    return Limit("kernels", step.share, parameter, text)


def _still_growing(result: Result) -> bool:
    """Whether the largest batch size measured beats the next smaller one by more than the intervals."""
    rows = sorted(result.baseline, key=lambda row: row.batch_size)
    return len(rows) > 1 and rows[-1].model_low_rps > rows[-2].model_high_rps


def _preprocessing(result: Result, step: Step) -> Limit:
    pipeline = result.pipeline
    extra_ms = 1000 / step.lower.rate_rps - 1000 / step.upper.rate_rps
    used_percent = pipeline.pipeline_rps * pipeline.pipeline_cpu_ms / 10 / result.run["cores"]
    busy_percent = min(used_percent, 100.0)  # two means, of a machine that may have changed between them
    text = (
        f"Preprocessing: with decode and preprocess the model in-process does {step.of('its own')}, "
        f"{extra_ms:.1f} ms more for an image, with {busy_percent:.0f}% of the CPU in use"
    )
    if busy_percent < CPU_FULL_PERCENT and pipeline.workers == result.serve.workers_per_device:
        return Limit("preprocessing", step.share, "workers_per_device", f"{text}; {more_workers(result)}.")
    if result.serve.preprocess != "torchvision":
        return Limit(
            "preprocessing", step.share, "preprocess", f"{text}; `preprocess` (torchvision) moves it."
        )
    return Limit("preprocessing", step.share, None, f"{text}; {NO_KEY}, a faster decoder would.")


def _transport(result: Result, step: Step) -> Limit:
    run = result.run
    stock = result.serve.transport == "litserve"
    parameter, advice = ("transport", "`transport` (direct) moves it") if stock else (None, NO_KEY)
    if step.lower.rate_rps < run["null_rps"]:
        text = (
            f"Transport: with server and load generator on the same {pluralise(run['cores'], 'core')} the "
            f"pipeline keeps {step.of('its')}: they take {run['null_cpu_ms']:.1f} and "
            f"{run['null_client_cpu_ms']:.1f} of a request's {budget_ms(result):.1f} ms of CPU; {advice}."
        )
        return Limit("transport", step.share, parameter, text)
    server, client = (run["null_rps"] * run[key] / 1000 for key in ("null_cpu_ms", "null_client_cpu_ms"))
    rate = step.of("the pipeline's", "req/s")
    text = (
        f"even with a model that does nothing the server answers {rate}, "
        f"with {server:.2f} cores in use and {client:.2f} by its client"
    )
    if result.serve.max_batch_size > 1 and max(server, client) < CORE_BUSY:
        advice = f"a shorter `batch_timeout_s` than {result.serve.batch_timeout_s:g} s moves it"
        return Limit("batch window", step.share, "batch_timeout_s", f"Batch window: {text}; {advice}.")
    return Limit("transport", step.share, parameter, f"Transport: {text}; {advice}.")
