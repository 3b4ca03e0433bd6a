"""Causes of a loss from pipeline + transport to the served rate.

The first rule that holds at the best level names the cause. A level is idle when it uses less than 80%
of the CPU and, where there is one, less than 90% of the GPU. A request's waiting time is that in the
stages queue and batch_wait; the batch window accounts for at most batch_timeout_s of it.

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

from dataclasses import dataclass
from typing import NamedTuple

from litmeter.benchmark.levels import CLIENT_LIMIT_SHARE, DRIFT_SHARE, OTHER_LOAD_PERCENT
from litmeter.benchmark.rows import LevelRow
from litmeter.report.losses import CORE_BUSY, Diagnosis, Loss, has_idle_hardware, more_workers_advice
from litmeter.report.results import Result
from litmeter.system.tables import pluralise

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
