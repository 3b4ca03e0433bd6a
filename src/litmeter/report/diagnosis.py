"""What limits a configuration: bounds of its rate, and causes of the losses from one bound to the next.

Bounds are in images/s = requests/s, from the hardware's peak down to the served rate. Each limits the next;
its share of the one before it is what is left of the rate. A share above 1 by more than its interval is an
error of measuring.

docs/bounds-and-diagnosis.md has all rules of the causes. The largest losses name them: those in serving (from
the model in-process down to the served rate), and one above the model where it is as large. A loss to the
served rate has the cause of the first rule that holds, in the order of ``_served``, else it is unexplained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from litmeter.report.results import Result, mean
from litmeter.stats.comparison import Ratio, ratio
from litmeter.system.tables import pluralise

BOUND_NAMES = ("datasheet", "roofline", "model", "pipeline", "pipeline + transport", "served")
DATASHEET, ROOFLINE, MODEL, PIPELINE, TRANSPORT, SERVED = BOUND_NAMES
Rates = list[float | None]
"""A rate by round, None where it is unknown."""
UNKNOWN = Ratio(1.0, None, None)
CORE_BUSY = 0.9
"""Cores in use above which a process with one busy thread is at its limit."""
CLIENT_LIMIT_SHARE = 0.8
"""Share of the load generator's own limit above which it may be what limits the rate."""
CPU_FULL_PERCENT = 80.0
"""CPU in use of a full machine: even a saturated server leaves cores idle between one batch and the next."""
GPU_FULL_PERCENT = 90.0
CLOSE_TO_ROOFLINE = 0.7
"""The roofline counts convolutions and matrix products only, so no model reaches 1."""
WAITING_SHARE = 1 / 3
"""Share of the latency and of batch_timeout_s above which waiting counts: a request that arrives at a random
time of an idle worker's batch window waits half of the window on average."""
LEFT_BY_CROWDED = 0.5
"""Share of the rate in-process: less is left than where caches and clock rates are shared."""
NO_KEY = "no key of `serve:` moves it"
UNEXPLAINED, SMALL = "unexplained", 0.9
"""The cause of a loss that no rule fits; above this share it is not named."""


@dataclass(frozen=True)
class Bound:
    """One bound of the rate.

    Attributes:
        upper, upper_rps: name and rate of the bound before it; empty and 0 for the first.
        share: of the bound before it, with a 95% interval where one is known; 1 for the first.
    """

    name: str
    rate_rps: float
    upper: str = ""
    upper_rps: float = 0.0
    share: Ratio = UNKNOWN

    @property
    def is_loss(self) -> bool:
        """Whether it lies below the bound before it by more than the interval of their ratio."""
        return self.share.resolved and self.share.ratio < 1

    @property
    def is_error(self) -> bool:
        """Whether it lies above the bound before it by more than the interval of their ratio."""
        return self.share.resolved and self.share.ratio > 1


def bounds_of(result: Result, ceilings: Mapping[str, Any]) -> list[Bound]:
    """The bounds of one configuration, from the highest; bounds of unknown rate are left out.

    1. datasheet: the datasheet's peak over FLOPs per image, where the device is in the table;
    2. roofline: measured peak and memory bandwidth, at the best batch size;
    3. model in-process; 4. pipeline in-process: decode, preprocess and model, at the same batch size;
    5. pipeline and transport on the same cores: see ``_transport_rates``;
    6. served.

    The last four are of the comparison, their ratios within its rounds.
    """
    row, transport = result.compared, _transport_rates(result)
    constants = {name: ceilings.get(f"{name}_{result.serve.precision}_rps") for name in (DATASHEET, ROOFLINE)}
    left = _share(transport, result.rates("pipeline"))
    known: dict[str, tuple[float | None, Rates]] = {
        **{name: (rate_rps, [rate_rps] * len(transport)) for name, rate_rps in constants.items()},
        MODEL: (row.model_rps, result.rates("model")),
        PIPELINE: (row.pipeline_rps, result.rates("pipeline")),
        TRANSPORT: (row.pipeline_rps * left.ratio if row.pipeline_rps and left else None, transport),
        SERVED: (row.rate_rps, result.rates("served")),
    }
    bounds: list[Bound] = []
    for name, (rate_rps, rates) in known.items():
        if not rate_rps:
            continue
        bound = Bound(name, rate_rps)
        if bounds:
            upper = bounds[-1]
            share = _share(rates, known[upper.name][1]) or Ratio(rate_rps / upper.rate_rps, None, None)
            bound = Bound(name, rate_rps, upper.name, upper.rate_rps, share)
        bounds.append(bound)
    return bounds


def _share(rates: Rates, above: Rates) -> Ratio | None:
    """The ratio of two series; None where they have no common round."""
    if not any(a and b for a, b in zip(rates, above, strict=True)):
        return None
    return ratio({"rates": rates, "above": above}, "rates", "above", reference="above")


def _transport_ms(result: Result) -> float | None:
    """CPU time of the server's processes for a request to a model that does nothing; None where unknown."""
    null = result.null
    return 1000 * null.server_cores / null.rate_rps if null and null.server_cores and null.rate_rps else None


def _transport_rates(result: Result) -> Rates:
    """Rates by round of the pipeline where server and load generator take CPU time, too.

    The least of three: all cores over the CPU time of a request (pipeline, server and load generator), the
    null server's rate, and the pipeline's own, as transport costs nothing where the pipeline leaves cores
    idle. None where one is unknown.
    """
    server_ms, null = _transport_ms(result), result.null
    if server_ms is None or null is None:
        return result.by_round([])
    more_ms, null_rps = server_ms + (mean(result.served, "client_cpu_ms") or 0.0), null.rate_rps or 0.0
    cpu_ms = 1000.0 * result.cores  # a second has
    rows = [
        replace(row, rate_rps=min(row.rate_rps, null_rps, cpu_ms / (row.workers_cpu_ms + more_ms)))
        for row in result.in_process("pipeline")
        if row.rate_rps and row.workers_cpu_ms is not None
    ]
    return result.by_round(rows)


@dataclass(frozen=True)
class Diagnosis:
    """What limits a configuration, or explains one of its losses.

    Attributes:
        cause: the name of a cause; of several, "A, then B" for the larger loss first, "A or B" where it
            is not resolved which; empty where nothing is lost.
        parameter: the key of params.yaml that would change the rate, None where there is none; of the first
            cause.
        text: sentences with the figures that are evidence of the cause.
        loss: the lower bound of the first loss.
    """

    cause: str
    parameter: str | None
    text: str
    loss: Bound | None = None


def diagnose(result: Result, bounds: Sequence[Bound], ceilings: Mapping[str, Any]) -> Diagnosis:
    """Diagnose one configuration, by its bounds and metrics/ceilings.json."""
    if result.emulated:
        text = "Emulated: this CPU has no instructions for bfloat16; `precision` (full) moves it."
        return Diagnosis("bfloat16 is emulated", "precision", text)
    if not result.served:
        return Diagnosis("", None, "There are no turns of this run to explain its rate by.")
    by_size = sorted((bound for bound in bounds if bound.is_loss), key=lambda loss: loss.share.ratio)
    serving = [loss for loss in by_size if loss.name in (PIPELINE, TRANSPORT, SERVED)]
    serving = [loss for loss in serving if _tied(serving[0], loss)]
    above = [loss for loss in by_size if loss.name in (ROOFLINE, MODEL)][:1]
    if serving:
        largest = serving[0]
        above = [loss for loss in above if loss.share.ratio < largest.share.ratio or _tied(loss, largest)]
    losses = [loss for loss in by_size if loss in above + serving]
    if not losses:
        return Diagnosis("", None, "No bound lies below the one above it by more than their interval.")
    explain = {PIPELINE: _preprocessing, TRANSPORT: _transport, SERVED: _served}
    found = [explain.get(loss.name, _model)(result, loss, ceilings) for loss in losses]
    groups: list[list[str]] = []
    for before, loss, one in zip([None, *losses], losses, found, strict=False):
        if before is None or not _tied(before, loss):
            groups.append([])
        small = one.cause == UNEXPLAINED and loss.share.ratio > SMALL
        if one.cause and not small and one.cause not in groups[-1]:
            groups[-1].append(one.cause)
    cause = ", then ".join(" or ".join(names) for names in groups if names)
    return Diagnosis(cause, found[0].parameter, " ".join(one.text for one in found), losses[0])


def _tied(loss: Bound, other: Bound) -> bool:
    """Whether the intervals of two losses' shares overlap, so that neither is known to be larger."""
    a, b = loss.share, other.share
    return (a.low or 0.0) <= (b.high or 1.0) and (b.low or 0.0) <= (a.high or 1.0)


def share_cell(share: float) -> str:
    """A share in percent, with a decimal below a tenth."""
    return f"{share:.0%}" if share >= 0.1 else f"{share:.1%}"


def _rates(loss: Bound, owner: str, unit: str = "images/s") -> str:
    """Rate and share, as "50.0 images/s, 50% of the model's 100.0" for the owner "the model's"."""
    return f"{loss.rate_rps:,.1f} {unit}, {share_cell(loss.share.ratio)} of {owner} {loss.upper_rps:,.1f}"


def _model(result: Result, loss: Bound, ceilings: Mapping[str, Any]) -> Diagnosis:
    """The loss from the datasheet to the roofline, or from the roofline to the model in-process."""
    binding = ceilings[f"roofline_{result.serve.precision}_bound"]
    faster = _faster_precisions(result, ceilings)
    parameter, advice = ("precision", f"`precision` moves it: {faster}") if faster else (None, NO_KEY)
    reached = loss.name == ROOFLINE or (loss.share.low or 0.0) >= CLOSE_TO_ROOFLINE
    doubtful = not reached and (loss.share.high or 1.0) >= CLOSE_TO_ROOFLINE
    cause = "hardware" if reached else "hardware or kernels" if doubtful else "kernels"
    if not reached and not result.serve.compiled:
        parameter, advice = "compiled", "`compiled` may move it"
        advice += f", and `precision`: {faster}" if faster else ""
    elif not reached and faster:
        advice = f"`precision` may move it: {faster}"
    what = "the roofline measured here is" if loss.name == ROOFLINE else "the model in-process does"
    rate = _rates(loss, f"the {loss.upper}'s")
    doubt = f"whether that is at least {CLOSE_TO_ROOFLINE:.0%} is not resolved; " if doubtful else ""
    text = f"{cause.capitalize()}: {what} {rate} ({binding}-bound); {doubt}{advice}."
    return Diagnosis(cause, parameter, text)


def _faster_precisions(result: Result, ceilings: Mapping[str, Any]) -> str:
    """Precisions with a higher roofline, as "the roofline is 220.0 in half"; empty where there is none."""
    own_rps = ceilings[f"roofline_{result.serve.precision}_rps"]
    allowed = {"half": result.half_is_native, "int8": result.serve.compiled and result.device == "cpu"}
    rooflines = {name: ceilings.get(f"roofline_{name}_rps") for name, usable in allowed.items() if usable}
    faster = [f"{rps:,.1f} in {name}" for name, rps in rooflines.items() if rps and rps > own_rps]
    return f"the roofline is {', '.join(faster)}" if faster else ""


def _preprocessing(result: Result, loss: Bound, _: Mapping[str, Any]) -> Diagnosis:
    idle = (mean(result.in_process("pipeline"), "cpu_percent") or 100.0) < CPU_FULL_PERCENT
    parameter: str | None = None
    if idle and result.serve.workers_per_device < result.cores:
        parameter, advice = "workers_per_device", _more_workers(result)
    elif result.serve.preprocess == "timm":
        parameter, advice = "preprocess", "`preprocess` (torchvision) moves it"
    else:
        advice = f"{NO_KEY}, a faster decoder would"
    text = (
        f"Preprocessing: in-process, with decode and preprocess, it does {_rates(loss, 'the model alone,')}, "
        f"{1000 / loss.rate_rps - 1000 / loss.upper_rps:.1f} ms more for an image; {advice}."
    )
    return Diagnosis("preprocessing", parameter, text)


def _more_workers(result: Result) -> str:
    text, threads = "more `workers_per_device` move it", result.threads
    crowded = threads > 1 and threads * (result.serve.workers_per_device + 1) > result.cores
    if result.device == "cpu" and crowded:
        text += f", with fewer threads than {threads} in each (`threads_per_worker`)"
    return text


def _transport(result: Result, loss: Bound, _: Mapping[str, Any]) -> Diagnosis:
    parameter, advice = _direct(result)
    if result.null is not None and loss.rate_rps >= 0.999 * (result.null.rate_rps or 0.0):
        rate = _rates(loss, "the pipeline's", "req/s")
        text = f"even with a model that does nothing the server answers {rate}"
    else:
        text = (
            f"with server and load generator on the same {pluralise(result.cores, 'core')} the pipeline "
            f"keeps {_rates(loss, 'its')}: they take {_transport_ms(result) or 0.0:.1f} and "
            f"{mean(result.served, 'client_cpu_ms') or 0.0:.1f} ms of CPU for a request"
        )
    return Diagnosis("transport", parameter, f"Transport: {text}; {advice}.")


def _direct(result: Result) -> tuple[str | None, str]:
    litserve = result.serve.transport == "litserve"
    return ("transport", "`transport` (direct) moves it") if litserve else (None, NO_KEY)


def _served(result: Result, loss: Bound, ceilings: Mapping[str, Any]) -> Diagnosis:
    found = (
        _load_generator(result, ceilings)
        or _busy_process(result)
        or _wrong_batch_size(result, loss)
        or _waiting(result, loss)
        or _too_many_workers(result, loss)
        or _unexplained(result)
    )
    users = result.compared.users
    rate = f"{pluralise(users, 'user')} get{'s' if users == 1 else ''} {_rates(loss, 'the', 'req/s')}"
    head = f"{found.cause[:1].upper()}{found.cause[1:]}: " if found.cause else ""
    upper = "pipeline and transport allow" if loss.upper == TRANSPORT else f"the {loss.upper} allows"
    return replace(found, text=f"{head}{rate} that {upper}. {found.text}.")


def _cores(result: Result, column: str) -> float:
    return (mean(result.served, column) or 0.0) * (result.compared.rate_rps or 0.0) / 1000


def _is_idle(result: Result) -> bool:
    """Whether CPU and GPU (where there is one) are known to be used below their thresholds."""
    cpu, gpu = mean(result.served, "cpu_percent"), mean(result.served, "gpu_percent")
    return cpu is not None and cpu < CPU_FULL_PERCENT and (gpu is None or gpu < GPU_FULL_PERCENT)


def _load_generator(result: Result, ceilings: Mapping[str, Any]) -> Diagnosis | None:
    cores, limit_rps = _cores(result, "client_cpu_ms"), ceilings.get("client_limit_rps")
    share = (result.compared.rate_rps or 0.0) / limit_rps if limit_rps else 0.0
    if cores < CORE_BUSY and share <= CLIENT_LIMIT_SHARE:
        return None
    used = f"It uses {cores:.2f} of its one core, and {share:.0%} of its limit"
    return Diagnosis("load generator", None, used)


def _busy_process(result: Result) -> Diagnosis | None:
    for name, column in (("HTTP process", "http_cpu_ms"), ("manager process", "manager_cpu_ms")):
        if (cores := _cores(result, column)) >= CORE_BUSY:
            parameter, advice = _direct(result)
            used = f"{mean(result.served, column):.1f} ms of CPU per request, {cores:.2f} of one core"
            return Diagnosis(name, parameter, f"It needs {used}; {advice}")
    return None


def _wrong_batch_size(result: Result, loss: Bound) -> Diagnosis | None:
    """Batches smaller or larger than the pipeline's fastest, which explain half of the loss."""
    size, fastest, serve = mean(result.served, "batch_size"), result.in_process_size, result.serve
    rate_rps = result.pipeline_rps(size) if size else None
    if not size or not fastest or not rate_rps or round(size) == fastest or rate_rps > _halfway_rps(loss):
        return None
    cause, parameter = "small batches", "max_batch_size"
    if size > fastest:
        cause, advice = "large batches", f"a smaller `max_batch_size` than {serve.max_batch_size} moves it"
    elif size >= 0.9 * serve.max_batch_size:
        advice = f"a larger `max_batch_size` than {serve.max_batch_size} moves it"
    elif size >= 0.9 * result.compared.users:
        parameter, advice = "comparison.users", "only more users (`comparison.users`) fill them"
    else:
        parameter = "batch_timeout_s"
        advice = f"a longer `batch_timeout_s` than {serve.batch_timeout_s:g} s fills them"
    text = (
        f"Batches hold {size:.1f} images; the pipeline in-process does {rate_rps:.1f} images/s at that "
        f"size and {result.compared.pipeline_rps:.1f} at {fastest}; {advice}"
    )
    return Diagnosis(cause, parameter, text)


def _waiting(result: Result, loss: Bound) -> Diagnosis | None:
    """Waiting for a batch to fill, or for a free worker; on a busy machine all wait for that."""
    serve, stages, mean_ms = result.serve, result.stage_ms, mean(result.served, "mean_ms")
    if "queue" not in stages or mean_ms is None or not _is_idle(result):
        return None
    waiting_ms = stages["queue"] + stages.get("batch_wait", 0.0)
    timeout_ms = 1000 * serve.batch_timeout_s if serve.max_batch_size > 1 else 0.0
    window_ms, worker_ms = min(waiting_ms, timeout_ms), max(0.0, waiting_ms - timeout_ms)
    without_window_rps = 1000 * result.compared.users / max(mean_ms - window_ms, 1e-3)
    counts = window_ms >= WAITING_SHARE * mean_ms or without_window_rps >= _halfway_rps(loss)
    used = f"while {mean(result.served, 'cpu_percent'):.0f}% of the CPU is in use"
    if counts and 0 < window_ms >= WAITING_SHARE * timeout_ms:
        text = (
            f"Of its {mean_ms:.0f} ms a request waits {window_ms:.0f} ms for a batch that does not fill, "
            f"{used}; a shorter `batch_timeout_s` than {serve.batch_timeout_s:g} s moves it"
        )
        return Diagnosis("batch window", "batch_timeout_s", text)
    if worker_ms < WAITING_SHARE * mean_ms:
        return None
    text = (
        f"Of its {mean_ms:.0f} ms a request waits {worker_ms:.0f} ms for a free one of "
        f"{pluralise(serve.workers_per_device, 'worker')}, {used}; {_more_workers(result)}"
    )
    return Diagnosis("too few workers", "workers_per_device", text)


def _too_many_workers(result: Result, loss: Bound) -> Diagnosis | None:
    workers = result.serve.workers_per_device
    crowded = result.device == "cpu" and workers > 1 and result.threads * workers > result.cores
    if not crowded or _is_idle(result) or loss.share.ratio >= LEFT_BY_CROWDED:
        return None
    text = (
        f"{workers} workers x {pluralise(result.threads, 'thread')} share {pluralise(result.cores, 'core')}, "
        "and take them from each other; fewer `workers_per_device`, or `threads_per_worker`, move it"
    )
    return Diagnosis("too many workers", "workers_per_device", text)


def _unexplained(result: Result) -> Diagnosis:
    stages, cpu_percent = result.stage_ms, mean(result.served, "cpu_percent")
    text = "No rule explains it"
    if stages:
        longest = max(stages, key=stages.__getitem__)
        text += f"; its longest stage is {longest}, {stages[longest]:.0f} ms"
    if cpu_percent is not None:
        text += f"; {cpu_percent:.0f}% of the CPU is in use"
    return Diagnosis(UNEXPLAINED, None, text)


def _halfway_rps(loss: Bound) -> float:
    return (loss.rate_rps + loss.upper_rps) / 2
