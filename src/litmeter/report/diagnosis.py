"""Diagnosis of what limits a configuration at the comparison's load, with the figures that are evidence.

docs/bounds-and-diagnosis.md has all rules. The largest losses from one bound to the next name the causes:
those in serving (from the model in-process down to the served rate), and one above the model where it is as
large. A loss to the served rate has the cause of the first rule that holds, in the order of ``_served``, or
none.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from litmeter.report.bounds import (
    MODEL,
    PIPELINE,
    ROOFLINE,
    SERVED,
    TRANSPORT,
    Bound,
    bounds_of,
    transport_ms,
)
from litmeter.report.results import Result, mean
from litmeter.system.tables import pluralise

CORE_BUSY = 0.9
"""Cores in use above which a process with one busy thread is at its limit."""
CLIENT_LIMIT_SHARE = 0.8
"""Of the load generator's own limit, above which it may be what limits the rate."""
CPU_FULL_PERCENT = 80.0
"""Of the machine: even a saturated server leaves cores idle between one batch and the next."""
GPU_FULL_PERCENT = 90.0
CLOSE_TO_ROOFLINE = 0.7
"""The roofline counts convolutions and matrix products only, so no model reaches 1."""
WAITING_SHARE = 1 / 3
"""Of the latency and of batch_timeout_s, above which waiting counts: a request that arrives at a random
time of an idle worker's batch window waits half of the window on average."""
LEFT_BY_CROWDED = 0.5
"""Of the rate in-process: less is left than where caches and clock rates are shared."""
NO_KEY = "no key of `serve:` moves it"


@dataclass(frozen=True)
class Diagnosis:
    """What limits a configuration.

    Attributes:
        cause: the name of a cause; of several, "A, then B" for the larger loss first, "A or B" where it
            is not resolved which; empty where no rule fits.
        parameter: the key of params.yaml that would change the rate, None where there is none; of the first
            cause.
        text: sentences with the figures that are evidence of the cause.
        loss: the lower bound of the first loss.
    """

    cause: str
    parameter: str | None
    text: str
    loss: Bound | None = None


class Cause(NamedTuple):
    """A cause that a rule has found, with the key that would change it and the evidence."""

    name: str
    parameter: str | None
    evidence: str


def explain(
    results: Sequence[Result], ceilings: Mapping[str, Any]
) -> tuple[dict[str, list[Bound]], dict[str, Diagnosis]]:
    """The bounds and the diagnosis of every configuration; ``ceilings`` is metrics/ceilings.json."""
    bounds = {result.name: bounds_of(result, ceilings) for result in results}
    return bounds, {result.name: diagnose(result, bounds[result.name], ceilings) for result in results}


def diagnose(result: Result, bounds: Sequence[Bound], ceilings: Mapping[str, Any]) -> Diagnosis:
    """Diagnose one configuration; parameter and loss are those of the loss named first."""
    if result.emulated:
        text = "Emulated: this CPU has no instructions for bfloat16; `precision` (full) moves it."
        return Diagnosis("bfloat16 is emulated", "precision", text)
    if not result.served:
        return Diagnosis("", None, "There are no turns of this run to explain its rate by.")
    serving = _largest(bounds, (PIPELINE, TRANSPORT, SERVED))
    model = _largest(bounds, (ROOFLINE, MODEL))[:1]
    if serving:
        model = [loss for loss in model if _share(loss) < _share(serving[0]) or loss.ties_with(serving[0])]
    losses = sorted([*model, *serving], key=_share)
    if not losses:
        return Diagnosis("", None, "No bound lies below the one above it by more than their interval.")
    return _joined(losses, [_diagnose_loss(result, loss, ceilings) for loss in losses])


def _share(loss: Bound) -> float:
    assert loss.share is not None
    return loss.share.ratio


def _largest(bounds: Sequence[Bound], names: Sequence[str]) -> list[Bound]:
    """The largest loss down to one of the bounds ``names``, and those that tie with it."""
    losses = sorted((bound for bound in bounds if bound.is_loss and bound.name in names), key=_share)
    return [loss for loss in losses if loss.ties_with(losses[0])]


def _joined(losses: Sequence[Bound], causes: Sequence[Cause]) -> Diagnosis:
    """One diagnosis of several losses, the largest first."""
    tied = [[causes[0].name]]
    for (loss, smaller), cause in zip(itertools.pairwise(losses), causes[1:], strict=True):
        if loss.ties_with(smaller):
            tied[-1].append(cause.name)
        else:
            tied.append([cause.name])
    groups = [list(filter(None, dict.fromkeys(names))) for names in tied]
    text = " ".join(cause.evidence for cause in causes)
    named = ", then ".join(" or ".join(names) for names in groups if names)
    return Diagnosis(named, causes[0].parameter, text, losses[0])


def _diagnose_loss(result: Result, loss: Bound, ceilings: Mapping[str, Any]) -> Cause:
    if loss.name == PIPELINE:
        return _preprocessing(result, loss)
    if loss.name == TRANSPORT:
        return _transport(result, loss)
    if loss.name == SERVED:
        return _served(result, loss, ceilings)
    return _model(result, loss, ceilings)


def _rates(loss: Bound, owner: str, unit: str = "images/s") -> str:
    """Rate and share, as "50.0 images/s, 0.50 of the model's 100.0" for the owner "the model's"."""
    return f"{loss.rate_rps:,.1f} {unit}, {_share(loss):.2f} of {owner} {loss.upper_rps:,.1f}"


def _model(result: Result, loss: Bound, ceilings: Mapping[str, Any]) -> Cause:
    """The loss from the datasheet to the roofline, or from the roofline to the model in-process."""
    precision = result.serve.precision
    binding = "compute" if ceilings[f"roofline_{precision}_bound"] == "compute" else "memory"
    faster = _faster_precisions(result, ceilings)
    parameter, advice = ("precision", f"`precision` moves it: {faster}") if faster else (None, NO_KEY)
    if loss.name == ROOFLINE:
        rate = _rates(loss, "the datasheet's")
        text = f"Hardware: the roofline measured here is {rate} ({binding}-bound); {advice}."
        return Cause("hardware", parameter, text)
    assert loss.share is not None
    share = _rates(loss, "the roofline's")
    rate = f"the model in-process does {share} ({binding}-bound)"
    if (loss.share.low or 0.0) >= CLOSE_TO_ROOFLINE:
        return Cause("hardware", parameter, f"Hardware: {rate}; {advice}.")
    if not result.serve.compiled:
        parameter, advice = "compiled", "`compiled` may move it"
        advice += f", and `precision`: {faster}" if faster else ""
    elif faster:
        advice = f"`precision` may move it: {faster}"
    if (loss.share.high or 1.0) >= CLOSE_TO_ROOFLINE:
        doubt = f"whether that is at least {CLOSE_TO_ROOFLINE:.0%} is not resolved"
        return Cause("hardware or kernels", parameter, f"Hardware or kernels: {rate}; {doubt}; {advice}.")
    return Cause("kernels", parameter, f"Kernels: {rate}; {advice}.")


def _faster_precisions(result: Result, ceilings: Mapping[str, Any]) -> str:
    """Precisions with a higher roofline, as "the roofline is 220.0 in half"; empty where there is none."""
    own_rps = ceilings[f"roofline_{result.serve.precision}_rps"]
    native = result.device != "cpu" or any("bf16" in flag for flag in result.machine["cpu_flags"])
    allowed = (["half"] if native else []) + (
        ["int8"] if result.serve.compiled and result.device == "cpu" else []
    )
    rooflines = {name: ceilings.get(f"roofline_{name}_rps") for name in allowed}
    faster = [f"{rps:,.1f} in {name}" for name, rps in rooflines.items() if rps and rps > own_rps]
    return f"the roofline is {', '.join(faster)}" if faster else ""


def _preprocessing(result: Result, loss: Bound) -> Cause:
    assert loss.upper_rps is not None
    extra_ms = 1000 / loss.rate_rps - 1000 / loss.upper_rps
    text = (
        f"Preprocessing: with decode and preprocess the model in-process does {_rates(loss, 'its own')}, "
        f"{extra_ms:.1f} ms more for an image"
    )
    idle = (mean(result.in_process("pipeline"), "cpu_percent") or 100.0) < CPU_FULL_PERCENT
    if idle and result.serve.workers_per_device < result.cores:
        parameter, advice = "workers_per_device", _more_workers(result)
    elif result.serve.preprocess == "timm":
        parameter, advice = "preprocess", "`preprocess` (torchvision) moves it"
    else:
        parameter, advice = None, f"{NO_KEY}, a faster decoder would"
    return Cause("preprocessing", parameter, f"{text}; {advice}.")


def _more_workers(result: Result) -> str:
    """Advice to start more workers, with fewer threads each where they would outnumber the cores."""
    text, threads = "more `workers_per_device` move it", result.threads
    if (
        result.device == "cpu"
        and threads > 1
        and threads * (result.serve.workers_per_device + 1) > result.cores
    ):
        text += f", with fewer threads than {threads} in each (`threads_per_worker`)"
    return text


def _transport(result: Result, loss: Bound) -> Cause:
    parameter, advice = _direct(result)
    server_ms, null = transport_ms(result), result.null
    if null is not None and null.rate_rps is not None and loss.rate_rps >= 0.999 * null.rate_rps:
        rate = _rates(loss, "the pipeline's", "req/s")
        text = f"even with a model that does nothing the server answers {rate}"
    else:
        text = (
            f"with server and load generator on the same {pluralise(result.cores, 'core')} the pipeline "
            f"keeps {_rates(loss, 'its')}: they take {server_ms or 0.0:.1f} and "
            f"{mean(result.served, 'client_cpu_ms') or 0.0:.1f} ms of CPU for a request"
        )
    return Cause("transport", parameter, f"Transport: {text}; {advice}.")


def _direct(result: Result) -> tuple[str | None, str]:
    """The key that takes LitServe's transport away, and the advice."""
    litserve = result.serve.transport == "litserve"
    return ("transport", "`transport` (direct) moves it") if litserve else (None, NO_KEY)


def _served(result: Result, loss: Bound, ceilings: Mapping[str, Any]) -> Cause:
    """The loss from what pipeline and transport allow to the served rate."""
    cause = (
        _load_generator(result, ceilings)
        or _busy_process(result)
        or _wrong_batch_size(result, loss)
        or _batch_window(result, loss)
        or _too_few_workers(result)
        or _too_many_workers(result, loss)
        or _unexplained(result)
    )
    users = result.compared.users
    rate = f"{pluralise(users, 'user')} get{'s' if users == 1 else ''} {_rates(loss, 'the', 'req/s')}"
    head = f"{cause.name[:1].upper()}{cause.name[1:]}: " if cause.name else ""
    return cause._replace(evidence=f"{head}{rate} that pipeline and transport allow. {cause.evidence}.")


def _cores(result: Result, column: str) -> float:
    """Cores that a process uses, from its CPU time per request; 0 where it is unknown."""
    return (mean(result.served, column) or 0.0) * (result.compared.rate_rps or 0.0) / 1000


def _is_idle(result: Result) -> bool:
    """Whether CPU and GPU (where there is one) are known to be used below their thresholds."""
    cpu, gpu = mean(result.served, "cpu_percent"), mean(result.served, "gpu_percent")
    return cpu is not None and cpu < CPU_FULL_PERCENT and (gpu is None or gpu < GPU_FULL_PERCENT)


def _load_generator(result: Result, ceilings: Mapping[str, Any]) -> Cause | None:
    cores, limit_rps = _cores(result, "client_cpu_ms"), ceilings.get("client_limit_rps")
    share = (result.compared.rate_rps or 0.0) / limit_rps if limit_rps else 0.0
    if cores < CORE_BUSY and share <= CLIENT_LIMIT_SHARE:
        return None
    return Cause("load generator", None, f"It uses {cores:.2f} of its one core, and {share:.0%} of its limit")


def _busy_process(result: Result) -> Cause | None:
    for name, column in (("HTTP process", "http_cpu_ms"), ("manager process", "manager_cpu_ms")):
        if (cores := _cores(result, column)) >= CORE_BUSY:
            parameter, advice = _direct(result)
            used = (
                f"It needs {mean(result.served, column):.1f} ms of CPU per request, {cores:.2f} of one core"
            )
            return Cause(name, parameter, f"{used}; {advice}")
    return None


def _wrong_batch_size(result: Result, loss: Bound) -> Cause | None:
    """Batches smaller or larger than the pipeline's fastest, which explain half of the loss."""
    size, fastest, serve = mean(result.served, "batch_size"), result.in_process_size, result.serve
    rate_rps = result.pipeline_rps(size) if size else None
    if not size or not fastest or not rate_rps or round(size) == fastest or rate_rps > _halfway_rps(loss):
        return None
    parameter: str = "max_batch_size"
    if larger := size > fastest:
        advice = f"a smaller `max_batch_size` than {serve.max_batch_size} moves it"
    elif size >= 0.9 * serve.max_batch_size:
        advice = f"a larger `max_batch_size` than {serve.max_batch_size} moves it"
    elif size >= 0.9 * result.compared.users:
        parameter, advice = "comparison.users", "only more users (`comparison.users`) fill them"
    else:
        parameter = "batch_timeout_s"
        advice = f"a longer `batch_timeout_s` than {serve.batch_timeout_s:g} s fills them"
    return Cause(
        "large batches" if larger else "small batches",
        parameter,
        f"Batches hold {size:.1f} images; the pipeline in-process does {rate_rps:.1f} images/s at that "
        f"size and {result.compared.pipeline_rps:.1f} at {fastest}; {advice}",
    )


def _waiting_ms(result: Result) -> tuple[float, float] | None:
    """Time that a request waits for its batch to fill, and for a free worker; None where it is unknown."""
    stages = result.stage_ms
    if "queue" not in stages:
        return None
    waiting_ms = stages["queue"] + stages.get("batch_wait", 0.0)
    timeout_ms = 1000 * result.serve.batch_timeout_s if result.serve.max_batch_size > 1 else 0.0
    return min(waiting_ms, timeout_ms), max(0.0, waiting_ms - timeout_ms)


def _batch_window(result: Result, loss: Bound) -> Cause | None:
    waiting, mean_ms, users = _waiting_ms(result), mean(result.served, "mean_ms"), result.compared.users
    timeout_s = result.serve.batch_timeout_s
    if waiting is None or mean_ms is None or not _is_idle(result):
        return None
    window_ms, _ = waiting
    if window_ms == 0 or window_ms < WAITING_SHARE * 1000 * timeout_s:
        return None
    without_window_rps = 1000 * users / max(mean_ms - window_ms, 1e-3)
    if window_ms < WAITING_SHARE * mean_ms and without_window_rps < _halfway_rps(loss):
        return None
    return Cause(
        "batch window",
        "batch_timeout_s",
        f"Of its {mean_ms:.0f} ms a request waits {window_ms:.0f} ms for a batch that does not fill, while "
        f"{mean(result.served, 'cpu_percent'):.0f}% of the CPU is in use; a shorter `batch_timeout_s` than "
        f"{timeout_s:g} s moves it",
    )


def _too_few_workers(result: Result) -> Cause | None:
    waiting, mean_ms = _waiting_ms(result), mean(result.served, "mean_ms")
    if waiting is None or mean_ms is None or not _is_idle(result) or waiting[1] < WAITING_SHARE * mean_ms:
        return None
    return Cause(
        "too few workers",
        "workers_per_device",
        f"Of its {mean_ms:.0f} ms a request waits {waiting[1]:.0f} ms for a free one of "
        f"{pluralise(result.serve.workers_per_device, 'worker')}, while "
        f"{mean(result.served, 'cpu_percent'):.0f}% of the CPU is in use; {_more_workers(result)}",
    )


def _too_many_workers(result: Result, loss: Bound) -> Cause | None:
    workers = result.serve.workers_per_device
    crowded = result.device == "cpu" and workers > 1 and result.threads * workers > result.cores
    if not crowded or _is_idle(result) or _share(loss) >= LEFT_BY_CROWDED:
        return None
    return Cause(
        "too many workers",
        "workers_per_device",
        f"{workers} workers x {pluralise(result.threads, 'thread')} share {pluralise(result.cores, 'core')}, "
        "and take them from each other; fewer `workers_per_device`, or `threads_per_worker`, move it",
    )


def _unexplained(result: Result) -> Cause:
    stages, cpu_percent = result.stage_ms, mean(result.served, "cpu_percent")
    longest = max(stages, key=lambda stage: stages[stage], default=None)
    figures = [f"its longest stage is {longest}, {stages[longest]:.0f} ms"] if longest else []
    figures += [f"{cpu_percent:.0f}% of the CPU is in use"] if cpu_percent is not None else []
    return Cause("", None, "; ".join(["No rule explains it", *figures]))


def _halfway_rps(loss: Bound) -> float:
    """The rate at which half of the loss is explained."""
    assert loss.upper_rps is not None
    return (loss.rate_rps + loss.upper_rps) / 2
