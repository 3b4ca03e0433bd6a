"""Diagnosis of what limits a configuration, with the figures that are evidence of it.

A loss counts where a bound lies below the one before it by more than their intervals, or, of two that were
measured in the same rounds, where their ratio's interval lies below 1.
The largest loss (the smallest share) from the model in-process down to the served rate is what serving costs:

================  =======================================================================================
cause             the largest loss in serving is ...
================  =======================================================================================
preprocessing     from model to pipeline
transport         from pipeline to pipeline + transport
batch window      the same, where that bound is the server with a model that does nothing, it collects
                  batches, and neither it nor the load generator uses 90% of a core
...               from pipeline + transport to served: the first rule that holds in ``served_causes.py``
not resolved      nowhere
================  =======================================================================================

Above the model: ``hardware`` where the model reaches 70% of the roofline or the larger loss is from the
datasheet to the roofline, else ``kernels``, and both where the interval of its rate contains those 70%. It is
named too where its loss is the larger one, or where serving loses nothing.

Losses whose shares' intervals overlap are a tie: all of them are named.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from litmeter.benchmark.rows import LevelRow
from litmeter.report.bounds import MODEL, PIPELINE, ROOFLINE, SERVED, TRANSPORT, Bound, budget_ms
from litmeter.report.losses import CORE_BUSY, CPU_FULL_PERCENT, Diagnosis, Loss, more_workers_advice
from litmeter.report.results import Result
from litmeter.report.served_causes import diagnose_served, other_load
from litmeter.system.tables import pluralise

CLOSE_TO_ROOFLINE = 0.7
"""The roofline counts convolutions and matrix products only, so no model reaches 1."""
NO_KEY = "no key of `serve:` moves it"


def diagnose(result: Result, bounds: Sequence[Bound], ceilings: Mapping[str, Any]) -> Diagnosis:
    """Diagnose one configuration; cause, share and parameter are those of the loss named first.

    Args:
        bounds: from ``bounds_of``.
        ceilings: metrics/ceilings.json.
    """
    best = result.best
    if best is None:
        levels = [f"{pluralise(level.users, 'user')}: {level.invalid_reason}" for level in result.levels]
        text = f"Requests failed at every level ({'; '.join(levels)})."
        return Diagnosis("failed requests", None, None, text)
    serving = (PIPELINE, TRANSPORT, SERVED)
    serving_losses = _largest_losses(bounds, serving)
    model_losses = _largest_losses(bounds, (ROOFLINE, MODEL))[:1]
    least_share = serving_losses[0].share if serving_losses else 1.0
    unresolved = [loss for loss in _losses(bounds, serving) if not loss.resolved and loss.share < least_share]
    doubts = [_doubt(min(unresolved, key=lambda loss: loss.share))] if unresolved else []
    doubts += [] if best.valid else [f"Its best level is not valid: {best.invalid_reason}."]
    if (load := other_load(best)) and not any(loss.lower.name == SERVED for loss in serving_losses):
        doubts.append(f"At its best level {load}: measure again.")
    if not serving_losses:
        if not model_losses:
            text = "Not resolved: no bound lies below the one above it by more than their intervals."
            return Diagnosis("not resolved", None, None, " ".join([text, *doubts]))
        model = _diagnose_loss(result, best, model_losses[0], ceilings)
        no_loss = "From the model in-process down to served, no loss is larger than the intervals."
        return replace(model, text=" ".join([model.text, no_loss, *doubts]))
    named = [
        loss
        for loss in model_losses
        if loss.share < serving_losses[0].share or loss.ties_with(serving_losses[0])
    ]
    losses = sorted([*named, *serving_losses], key=lambda loss: loss.share)
    diagnosis = _joined(losses, [_diagnose_loss(result, best, loss, ceilings) for loss in losses])
    return replace(diagnosis, text=" ".join([diagnosis.text, *doubts]))


def _losses(bounds: Sequence[Bound], names: Sequence[str]) -> list[Loss]:
    """The losses down to each of the bounds ``names``."""
    losses = itertools.starmap(Loss, itertools.pairwise(bounds))
    return [loss for loss in losses if loss.lower.name in names]


def _doubt(loss: Loss) -> str:
    """A loss that may be none, with what is known of its share."""
    highest = f"to {loss.highest_share:.2f}" if math.isfinite(loss.highest_share) else "or more"
    share = f"{loss.share:.2f} ({loss.lowest_share:.2f} {highest})"
    return f"Whether {loss.lower.name} is slower than {loss.upper.name} is not resolved: {share} of it."


def _largest_losses(bounds: Sequence[Bound], names: Sequence[str]) -> list[Loss]:
    """The largest loss down to one of the bounds ``names``, and those that tie with it."""
    losses = sorted((loss for loss in _losses(bounds, names) if loss.resolved), key=lambda loss: loss.share)
    return [loss for loss in losses if loss.ties_with(losses[0])]


def _diagnose_loss(result: Result, best: LevelRow, loss: Loss, ceilings: Mapping[str, Any]) -> Diagnosis:
    if loss.lower.name == PIPELINE:
        return _diagnose_preprocessing(result, loss)
    if loss.lower.name == TRANSPORT:
        return _diagnose_transport(result, loss)
    if loss.lower.name == SERVED:
        return diagnose_served(result, best, loss)
    return _diagnose_model(result, loss, ceilings)


def _joined(losses: Sequence[Loss], diagnoses: Sequence[Diagnosis]) -> Diagnosis:
    """One diagnosis of several losses, the largest first."""
    tied = [[diagnoses[0].cause]]
    for (loss, smaller), diagnosis in zip(itertools.pairwise(losses), diagnoses[1:], strict=True):
        if loss.ties_with(smaller):
            tied[-1].append(diagnosis.cause)
        else:
            tied.append([diagnosis.cause])
    tied = [list(dict.fromkeys(names)) for names in tied]
    cause = ", then ".join(" or ".join(names) for names in tied)
    sentences = [diagnosis.text for diagnosis in diagnoses]
    sentences += [
        f"Which of these losses is larger is not resolved: {', '.join(names)}."
        for names in tied
        if len(names) > 1
    ]
    return replace(diagnoses[0], cause=cause, text=" ".join(sentences))


def _diagnose_model(result: Result, loss: Loss, ceilings: Mapping[str, Any]) -> Diagnosis:
    """Diagnose the loss from the datasheet to the roofline, or from the roofline to the model in-process."""
    precision, model = result.serve.precision, result.model
    bound, batch = (ceilings[f"roofline_{precision}_{key}"] for key in ("bound", "batch"))
    binding = f"compute-bound from batch size {batch} on" if bound == "compute" else "memory-bound"
    faster = _faster_precisions(result, ceilings)
    parameter = "precision" if faster else None
    advice = f"`precision` moves it: {faster}" if faster else NO_KEY
    if loss.lower.name == ROOFLINE:
        rate = loss.describe("the datasheet's")
        text = f"Hardware: the roofline measured here is {rate} ({binding}); {advice}."
        return Diagnosis("hardware", loss.share, parameter, text)
    roofline = loss.describe("the roofline's")
    rate = f"the model in-process does {roofline} ({binding})"
    if loss.lowest_share >= CLOSE_TO_ROOFLINE:
        return Diagnosis("hardware", loss.share, parameter, f"Hardware: {rate}; {advice}.")
    if not result.serve.compiled:
        parameter, advice = "compiled", "`compiled` may move it"
        advice += f", and `precision`: {faster}" if faster else ""
    elif faster:
        advice = f"`precision` may move it: {faster}"
    elif _still_growing(result):
        advice = "larger batches than `baseline.batch_sizes` has may be faster: the rate still grows"
    else:
        advice = NO_KEY
    rate += f", at its best batch size, {model.batch_size}"
    if loss.highest_share >= CLOSE_TO_ROOFLINE:
        rate += f". Whether that is at least {CLOSE_TO_ROOFLINE:.0%} is not resolved"
        text = f"Hardware or kernels: {rate}; {advice}."
        return Diagnosis("hardware or kernels", loss.share, parameter, text)
    return Diagnosis("kernels", loss.share, parameter, f"Kernels: {rate}; {advice}.")


def _faster_precisions(result: Result, ceilings: Mapping[str, Any]) -> str:
    """Precisions with a higher roofline, as "the roofline is 220.0 in half"; empty where there is none."""
    own_rps = ceilings[f"roofline_{result.serve.precision}_rps"]
    allowed = ["half", "int8"] if result.serve.compiled and result.run["device"] == "cpu" else ["half"]
    rooflines = {name: ceilings.get(f"roofline_{name}_rps") for name in allowed}
    faster = [f"{rps:,.1f} in {name}" for name, rps in rooflines.items() if rps and rps > own_rps]
    return f"the roofline is {', '.join(faster)}" if faster else ""


def _still_growing(result: Result) -> bool:
    """Whether the largest measured batch size is faster than the next smaller one beyond the intervals."""
    rows = sorted(result.baseline, key=lambda row: row.batch_size)
    return len(rows) > 1 and rows[-1].model_low_rps > rows[-2].model_high_rps


def _diagnose_preprocessing(result: Result, loss: Loss) -> Diagnosis:
    pipeline = result.pipeline
    extra_ms = 1000 / loss.lower.rate_rps - 1000 / loss.upper.rate_rps
    used_percent = pipeline.pipeline_rps * pipeline.pipeline_cpu_ms / 10 / result.run["cores"]
    busy_percent = min(used_percent, 100.0)  # rate and CPU time are means of different moments
    text = (
        f"Preprocessing: with decode and preprocess the model in-process does {loss.describe('its own')}, "
        f"{extra_ms:.1f} ms more for an image, with {busy_percent:.0f}% of the CPU in use"
    )
    a_core_each = result.run["device"] == "cpu" and pipeline.workers >= result.run["cores"]
    all_busy = pipeline.workers == result.serve.workers_per_device
    if busy_percent < CPU_FULL_PERCENT and all_busy and not a_core_each:
        parameter, advice = "workers_per_device", more_workers_advice(result)
    elif result.serve.preprocess == "timm":
        parameter, advice = "preprocess", "`preprocess` (torchvision) moves it"
    else:
        parameter, advice = None, f"{NO_KEY}, a faster decoder would"
    return Diagnosis("preprocessing", loss.share, parameter, f"{text}; {advice}.")


def _diagnose_transport(result: Result, loss: Loss) -> Diagnosis:
    run = result.run
    litserve = result.serve.transport == "litserve"
    parameter, advice = ("transport", "`transport` (direct) moves it") if litserve else (None, NO_KEY)
    if loss.lower.rate_rps < run["null_rps"]:
        text = (
            f"Transport: with server and load generator on the same {pluralise(run['cores'], 'core')} the "
            f"pipeline keeps {loss.describe('its')}: they take {run['null_cpu_ms']:.1f} and "
            f"{run['null_client_cpu_ms']:.1f} of a request's {budget_ms(result):.1f} ms of CPU; {advice}."
        )
        return Diagnosis("transport", loss.share, parameter, text)
    server_cores = run["null_rps"] * run["null_cpu_ms"] / 1000
    client_cores = run["null_rps"] * run["null_client_cpu_ms"] / 1000
    rate = loss.describe("the pipeline's", "req/s")
    text = (
        f"even with a model that does nothing the server answers {rate}, "
        f"with {server_cores:.2f} cores in use and {client_cores:.2f} by its client"
    )
    if result.serve.max_batch_size > 1 and max(server_cores, client_cores) < CORE_BUSY:
        advice = f"a shorter `batch_timeout_s` than {result.serve.batch_timeout_s:g} s moves it"
        return Diagnosis("batch window", loss.share, "batch_timeout_s", f"Batch window: {text}; {advice}.")
    return Diagnosis("transport", loss.share, parameter, f"Transport: {text}; {advice}.")
