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
...               from pipeline + transport to served: the first rule that holds in the second table
not resolved      nowhere
================  =======================================================================================

Above the model: ``hardware`` where the model reaches 70% of the roofline or the larger loss is from the
datasheet to the roofline, else ``kernels``, and both where the interval of its rate contains those 70%. It is
named too where its loss is the larger one, or where serving loses nothing.

Losses whose shares' intervals overlap are a tie: all of them are named.

From pipeline + transport to the served rate, the first rule that holds at the best level names the cause. A
level is idle when it uses less than 80% of the CPU and, where there is one, less than 90% of the GPU. A
request's waiting time is that in the stages queue and batch_wait; the batch window accounts for at most
batch_timeout_s of it.

================  =======================================================================================
load generator    at more than 80% of its own limit, or at 90% of a core
other load        other processes, or the hypervisor, take more than 10% of the machine
drift             the pipeline's rates in-process before, amid and after the load differ by over 10%, and the
                  slowest explains half of the loss; or the level did over 10% less when it was measured
                  again, and its rate before makes up for half of the loss
HTTP process      its CPU time per request x rate is 90% of a core
manager process   the same
small batches,    the pipeline in-process at the served batch size, between those measured, explains
large batches     half of the loss
batch window      idle; the window's part of waiting is a third of batch_timeout_s, and it is a third of the
                  latency, or without it the users would make up for half of the loss
too few workers   idle; the rest of waiting is a third of the latency; in-process, all workers together
                  do most
too many workers  on a CPU, threads x workers outnumber the cores, and at the best level or one with more
                  users, not idle, the model's run on a batch takes twice its time in-process or longer
unexplained       none of these
================  =======================================================================================
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from litmeter.measure.levels import CLIENT_LIMIT_SHARE, DRIFT_SHARE, OTHER_LOAD_PERCENT
from litmeter.measure.rows import LevelRow
from litmeter.report.bounds import (
    MODEL,
    PIPELINE,
    ROOFLINE,
    SERVED,
    TRANSPORT,
    Bound,
    bounds_of,
    budget_ms,
    measuring_errors,
)
from litmeter.report.results import Result
from litmeter.system.tables import pluralise

CORE_BUSY = 0.9
"""Cores in use above which a process with one busy thread is at its limit."""
CPU_FULL_PERCENT = 80.0
"""Of the machine: even a saturated server leaves cores idle between one batch and the next."""
GPU_FULL_PERCENT = 90.0


@dataclass(frozen=True)
class Diagnosis:
    """What limits a configuration.

    Attributes:
        cause: the name of a cause; of several, "A, then B" for the larger loss first, "A or B" where it
            is not resolved which.
        share: the lower bound over the upper one, at the loss that the first cause explains.
        parameter: the key of params.yaml that would change the rate, None where there is none; of the first
            cause.
        text: sentences with the figures that are evidence of the cause.
    """

    cause: str
    share: float | None
    parameter: str | None
    text: str


@dataclass(frozen=True)
class Loss:
    """The loss from a bound to the next.

    Attributes:
        upper, lower: the two, of which the lower one knows its share of the upper one.
    """

    upper: Bound
    lower: Bound

    @property
    def share(self) -> float:
        """The lower rate over the upper one."""
        return self.lower.rate_rps / self.upper.rate_rps if self.lower.share is None else self.lower.share

    @property
    def resolved(self) -> bool:
        """Whether there is a loss beyond the intervals."""
        return self.highest_share < 1

    def ties_with(self, other: Loss) -> bool:
        """Whether the intervals of the two shares overlap, so that neither loss is known to be larger."""
        return self.lowest_share <= other.highest_share and other.lowest_share <= self.highest_share

    @property
    def lowest_share(self) -> float:
        """The share's lower end."""
        if self.lower.share_low is not None:
            return self.lower.share_low
        return self.lower.lowest_rps / self.upper.highest_rps

    @property
    def highest_share(self) -> float:
        """The share's upper end; infinite where the upper bound's interval begins at 0."""
        if self.lower.share_high is not None:
            return self.lower.share_high
        return self.lower.highest_rps / self.upper.lowest_rps if self.upper.lowest_rps > 0 else math.inf

    def describe(self, owner: str, unit: str = "images/s") -> str:
        """Rate and share, as "50.0 images/s, 0.50 of the model's 100.0" for the owner "the model's"."""
        return f"{self.lower.rate_rps:,.1f} {unit}, {self.share:.2f} of {owner} {self.upper.rate_rps:,.1f}"


def has_idle_hardware(level: LevelRow) -> bool:
    """Whether CPU and GPU (where there is one) are known to be used below their thresholds."""
    cpu, gpu = level.cpu_percent, level.gpu_percent
    return cpu is not None and cpu < CPU_FULL_PERCENT and (gpu is None or gpu < GPU_FULL_PERCENT)


def more_workers_advice(result: Result) -> str:
    """Advice to start more workers, with fewer threads each where they would outnumber the cores."""
    threads, workers = result.run["threads_per_worker"], result.serve.workers_per_device
    text = "more `workers_per_device` move it"
    if result.run["device"] == "cpu" and threads > 1 and threads * (workers + 1) > result.run["cores"]:
        text += f", with fewer threads than {threads} in each (`threads_per_worker`)"
    return text


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


WAITING_SHARE = 1 / 3
"""Of the latency and of batch_timeout_s, above which waiting counts: a request that arrives at a random
time of an idle worker's batch window waits half of the window on average."""
SLOWDOWN = 2.0
"""Of the model's run: more than caches and clock rates that are shared with another process explain."""


class Cause(NamedTuple):
    """A cause that a rule has found, with the key that would change it and the evidence."""

    name: str
    parameter: str | None
    evidence: str


@dataclass(frozen=True)
class Oversubscription:
    """A level at which more threads than cores make the model's run slower than in-process."""

    level: LevelRow
    served_ms: float
    in_process_ms: float

    @property
    def slowdown(self) -> float:
        """The run's time over its time in-process."""
        return self.served_ms / self.in_process_ms


def diagnose_served(result: Result, best: LevelRow, loss: Loss) -> Diagnosis:
    """Diagnose the loss from pipeline + transport to the best level's rate."""
    cause = (
        _load_generator(best)
        or _other_load(best)
        or _drift(result, best, loss)
        or _busy_process(best, result.serve.transport)
        or _wrong_batch_size(result, best, loss)
        or _batch_window(result, best, loss)
        or _too_few_workers(result, best)
        or _too_many_workers(result, best)
        or _unexplained(result, best)
    )
    rate = loss.describe("the", "req/s")
    users = f"{pluralise(best.users, 'user')} {'gets' if best.users == 1 else 'get'}"
    head = f"{_capitalise(cause.name)}: {users} {rate} that pipeline and transport allow"
    return Diagnosis(cause.name, loss.share, cause.parameter, f"{head}. {cause.evidence}.")


def _load_generator(best: LevelRow) -> Cause | None:
    cores, share = _cores(best.client_cpu_ms, best), best.client_limit_share
    if (cores is None or cores < CORE_BUSY) and (share is None or share <= CLIENT_LIMIT_SHARE):
        return None
    figures = [f"{cores:.2f} of its one core"] if cores is not None else []
    figures += [f"{share:.0%} of what it can send"] if share is not None else []
    return Cause("load generator", None, f"The load generator is at its limit ({', '.join(figures)})")


def other_load(level: LevelRow) -> str | None:
    """Who else took more than OTHER_LOAD_PERCENT, as "the hypervisor took 17% of the machine"; else None."""
    loads = (("other processes", level.other_percent), ("the hypervisor", level.steal_percent))
    for source, percent in loads:
        if percent is not None and percent > OTHER_LOAD_PERCENT:
            return f"{source} took {percent:.0f}% of the machine"
    return None


def _other_load(best: LevelRow) -> Cause | None:
    load = other_load(best)
    return Cause("other load", None, f"{_capitalise(load)}; measure again") if load else None


def _drift(result: Result, best: LevelRow, loss: Loss) -> Cause | None:
    pipeline, halfway_rps = result.pipeline, _halfway_rps(loss)
    slowest, fastest = pipeline.pipeline_slowest_rps, pipeline.pipeline_fastest_rps
    slower_rps = loss.upper.rate_rps * slowest / pipeline.pipeline_rps
    figures = []
    if fastest / slowest - 1 > DRIFT_SHARE and slower_rps <= halfway_rps:
        figures.append(f"in-process it did between {slowest:.1f} and {fastest:.1f} images/s")
    first_rps, again_rps = best.first_rps, best.throughput_rps
    if first_rps is not None and again_rps < (1 - DRIFT_SHARE) * first_rps and first_rps >= halfway_rps:
        served = f"{first_rps:.1f} req/s before and {again_rps:.1f} when measured again"
        figures.append(f"the same level served {served}")
    if not figures:
        return None
    evidence = f"The machine itself changed: {' and '.join(figures)}; measure again"
    return Cause("drift", None, evidence)


def _busy_process(best: LevelRow, transport: str) -> Cause | None:
    for name, cpu_ms in (("HTTP process", best.http_cpu_ms), ("manager process", best.manager_cpu_ms)):
        cores = _cores(cpu_ms, best)
        if cores is not None and cores >= CORE_BUSY:
            used = f"It needs {cpu_ms:.1f} ms of CPU per request, {cores:.2f} of the one core it can use"
            if transport == "litserve":
                return Cause(name, "transport", f"{used}; `transport` (direct) moves it")
            return Cause(name, None, f"{used}; no key of `serve:` moves it")
    return None


def _wrong_batch_size(result: Result, best: LevelRow, loss: Loss) -> Cause | None:
    """Batches smaller or larger than the pipeline's fastest, which explain half of the loss."""
    size, pipeline = _batch_size(result, best), result.pipeline
    if size is None or round(size) == pipeline.batch_size:
        return None
    rate_rps = result.pipeline_rps(size)
    if rate_rps > _halfway_rps(loss):
        return None
    larger, max_size = size > pipeline.batch_size, result.serve.max_batch_size
    if larger:
        parameter, advice = "max_batch_size", f"a smaller `max_batch_size` than {max_size} moves it"
    elif size >= 0.9 * max_size:
        parameter, advice = "max_batch_size", f"a larger `max_batch_size` than {max_size} moves it"
    elif size >= 0.9 * best.users:
        parameter, advice = "load.users", "only more users (`load.users`) fill them"
    else:
        timeout = f"{result.serve.batch_timeout_s:g} s"
        parameter, advice = "batch_timeout_s", f"a longer `batch_timeout_s` than {timeout} fills them"
    return Cause(
        "large batches" if larger else "small batches",
        parameter,
        f"Batches hold {size:.1f} images; the pipeline in-process does {rate_rps:.1f} images/s at that "
        f"size and {pipeline.pipeline_rps:.1f} at {pipeline.batch_size}; {advice}",
    )


def _batch_window(result: Result, best: LevelRow, loss: Loss) -> Cause | None:
    waiting_ms = _waiting_ms(result, best)
    if waiting_ms is None or best.mean_ms is None or not has_idle_hardware(best):
        return None
    timeout_ms = _batch_timeout_ms(result)
    window_ms = min(waiting_ms, timeout_ms)
    if timeout_ms == 0 or window_ms < WAITING_SHARE * timeout_ms:
        return None
    without_window_rps = 1000 * best.users / max(best.mean_ms - window_ms, 1e-3)
    if window_ms < WAITING_SHARE * best.mean_ms and without_window_rps < _halfway_rps(loss):
        return None
    size = "" if best.batch_size is None else f" and holds {best.batch_size:.1f} images"
    advice = f"a shorter `batch_timeout_s` than {result.serve.batch_timeout_s:g} s moves it"
    evidence = (
        f"Of its {best.mean_ms:.0f} ms a request waits {waiting_ms:.0f} ms for a batch that does not "
        f"fill{size}, while {best.cpu_percent:.0f}% of the CPU is in use; {advice}"
    )
    worst = _oversubscription(result, best)
    if worst is not None and worst.level.users > best.users:
        figures = _oversubscription_text(result, worst)
        evidence += f". More users do not fill it, for too many `workers_per_device`: {figures}"
    return Cause("batch window", "batch_timeout_s", evidence)


def _too_few_workers(result: Result, best: LevelRow) -> Cause | None:
    waiting_ms = _waiting_ms(result, best)
    if waiting_ms is None or best.mean_ms is None or not has_idle_hardware(best):
        return None
    queue_ms = waiting_ms - min(waiting_ms, _batch_timeout_ms(result))
    workers = result.serve.workers_per_device
    if queue_ms < WAITING_SHARE * best.mean_ms or result.pipeline.workers < workers:
        return None
    return Cause(
        "too few workers",
        "workers_per_device",
        f"Of its {best.mean_ms:.0f} ms a request waits {queue_ms:.0f} ms for a free one of "
        f"{pluralise(workers, 'worker')}, while {best.cpu_percent:.0f}% of the CPU is in use; "
        f"{more_workers_advice(result)}",
    )


def _too_many_workers(result: Result, best: LevelRow) -> Cause | None:
    worst = _oversubscription(result, best)
    if worst is None:
        return None
    evidence = _oversubscription_text(result, worst)
    tried = min(result.serve.workers_per_device, result.run["cores"])
    if result.pipeline.workers < tried:
        evidence += f"; in-process it is fastest with {result.pipeline.workers} of them busy"
    return Cause(
        "too many workers",
        "workers_per_device",
        f"{_capitalise(evidence)}; fewer `workers_per_device`, or `threads_per_worker`, move it",
    )


def _unexplained(result: Result, best: LevelRow) -> Cause:
    stages = result.stage_ms(best.users)
    longest = max(stages, key=lambda stage: stages[stage], default=None)
    figures = [f"its longest stage is {longest}, {stages[longest]:.0f} ms"] if longest else []
    size = _batch_size(result, best)
    if longest == "model" and size is not None:
        figures[0] += f" against {result.model_ms(size):.0f} ms in-process"
    figures += [f"{best.cpu_percent:.0f}% of the CPU is in use"] if best.cpu_percent is not None else []
    return Cause("unexplained", None, "; ".join(["No rule explains it", *figures]))


def _oversubscription(result: Result, best: LevelRow) -> Oversubscription | None:
    """The level with the largest slowdown among the best and those with more users.

    None where the threads do not outnumber the cores, or the slowdown is below SLOWDOWN.
    """
    threads = result.run["threads_per_worker"] * result.serve.workers_per_device
    if result.run["device"] != "cpu" or threads <= result.run["cores"]:
        return None
    candidates: list[Oversubscription] = []
    for level in result.levels:
        served_ms, size = result.stage_ms(level.users).get("model"), _batch_size(result, level)
        if served_ms is None or size is None or level.cpu_percent is None:
            continue
        if level.users >= best.users and not has_idle_hardware(level):
            candidates.append(Oversubscription(level, served_ms, result.model_ms(size)))
    worst = max(candidates, key=lambda candidate: candidate.slowdown, default=None)
    return worst if worst is not None and worst.slowdown >= SLOWDOWN else None


def _oversubscription_text(result: Result, worst: Oversubscription) -> str:
    level, run = worst.level, result.run
    doubt = "" if level.valid else ", not valid"
    return (
        f"with {pluralise(level.users, 'user')} ({level.throughput_rps:.1f} req/s{doubt}, "
        f"{level.cpu_percent:.0f}% of the CPU in use) the model's run on a batch takes "
        f"{worst.served_ms:.0f} ms, {worst.slowdown:.1f} times its {worst.in_process_ms:.0f} ms in-process, "
        f"as {pluralise(result.serve.workers_per_device, 'worker')} x {run['threads_per_worker']} threads "
        f"share {pluralise(run['cores'], 'core')}"
    )


def _halfway_rps(loss: Loss) -> float:
    """The rate at which half of the loss is explained."""
    return (loss.lower.rate_rps + loss.upper.rate_rps) / 2


def _waiting_ms(result: Result, level: LevelRow) -> float | None:
    """Time that a request waits for a worker and for its batch to fill."""
    stages = result.stage_ms(level.users)
    return stages["queue"] + stages.get("batch_wait", 0.0) if "queue" in stages else None


def _batch_timeout_ms(result: Result) -> float:
    """How long a batch waits to fill, at most; 0 without batching."""
    return 1000 * result.serve.batch_timeout_s if result.serve.max_batch_size > 1 else 0.0


def _batch_size(result: Result, level: LevelRow) -> float | None:
    return 1.0 if result.serve.max_batch_size == 1 else level.batch_size


def _cores(cpu_ms: float | None, level: LevelRow) -> float | None:
    """Cores that a process uses, from its CPU time per request."""
    return None if cpu_ms is None else cpu_ms * level.throughput_rps / 1000


def _capitalise(text: str) -> str:
    """``text`` with its first letter in upper case; the others stay as they are."""
    return text[0].upper() + text[1:]


@dataclass(frozen=True)
class Explanation:
    """Bounds and diagnosis, by configuration.

    Attributes:
        errors: a line for each bound that lies above the one before it.
    """

    bounds: Mapping[str, Sequence[Bound]]
    diagnoses: Mapping[str, Diagnosis]
    errors: Sequence[str]


def explain(results: Sequence[Result], ceilings: Mapping[str, Any]) -> Explanation:
    """Compute the bounds and diagnose every configuration; ``ceilings`` is metrics/ceilings.json."""
    bounds_by_name = {result.name: bounds_of(result, ceilings) for result in results}
    return Explanation(
        bounds=bounds_by_name,
        diagnoses={
            result.name: diagnose(result, bounds_by_name[result.name], ceilings) for result in results
        },
        errors=[error for name, bounds in bounds_by_name.items() for error in measuring_errors(name, bounds)],
    )
