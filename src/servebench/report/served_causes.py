"""Why a served rate stays below what pipeline and transport allow on the same cores.

The first rule that holds at the best level names the cause. A level is idle when it leaves the CPU
below 80% and the GPU, where there is one, below 90%. A request's waiting is its time in the stages
queue and batch_wait; the batch window explains no more of it than batch_timeout_s.

================  =======================================================================================
load generator    at more than 80% of its own limit, or at 90% of a core
other load        other processes, or the hypervisor, take more than 10% of the machine
drift             the pipeline in-process did over 10% more or less after the load than before it, and the
                  slower of the two explains half of the loss; or the level did over 10% less when it was
                  measured again, and its first rate makes up for half of the loss
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

from servebench.benchmark.levels import DRIFT_SHARE
from servebench.benchmark.rows import LevelRow
from servebench.benchmark.validity import CLIENT_LIMIT_SHARE, OTHER_LOAD_PERCENT
from servebench.report.limit import CORE_BUSY, Limit, Step, idle, more_workers
from servebench.report.results import Result
from servebench.system.tables import pluralise

WAITING_SHARE = 1 / 3
"""Of the latency, from where waiting matters as much as work; and of batch_timeout_s: a request that
comes at any moment of an idle worker's window waits half of it on average."""
SLOWDOWN = 2.0
"""Of the model's run: more than caches and clock rates that are shared with another process explain."""

Cause = tuple[str, str | None, str]
"""Cause, parameter and evidence."""


@dataclass(frozen=True)
class Oversubscription:
    """A level at which more threads than cores make the model's run slower than in-process."""

    level: LevelRow
    served_ms: float
    in_process_ms: float

    @property
    def slowdown(self) -> float:
        """How many times longer the run takes."""
        return self.served_ms / self.in_process_ms


def below_transport(result: Result, best: LevelRow, step: Step) -> Limit:
    """The cause of a loss from pipeline + transport to the best level's rate."""
    cause, parameter, evidence = (
        _load_generator(best)
        or _other_load(best)
        or _drift(result, best, step)
        or _busy_process(best, result.serve.transport)
        or _batch_size_off(result, best, step)
        or _batch_window(result, best, step)
        or _too_few_workers(result, best)
        or _too_many_workers(result, best)
        or _unexplained(result, best)
    )
    rate = step.of("the", "req/s")
    who = f"{pluralise(best.users, 'user')} {'gets' if best.users == 1 else 'get'}"
    head = f"{cause[0].upper()}{cause[1:]}: {who} {rate} that pipeline and transport allow"
    return Limit(cause, step.share, parameter, f"{head}. {evidence}.")


def _load_generator(best: LevelRow) -> Cause | None:
    cores, share = _cores(best.client_cpu_ms, best), best.client_limit_share
    if (cores is None or cores < CORE_BUSY) and (share is None or share <= CLIENT_LIMIT_SHARE):
        return None
    figures = [f"{cores:.2f} of its one core"] if cores is not None else []
    figures += [f"{share:.0%} of what it can send"] if share is not None else []
    return "load generator", None, f"It is the client that is at its end ({', '.join(figures)})"


def _other_load(best: LevelRow) -> Cause | None:
    takers = (("Other processes", best.other_percent), ("The hypervisor", best.steal_percent))
    for who, percent in takers:
        if percent is not None and percent > OTHER_LOAD_PERCENT:
            return "other load", None, f"{who} took {percent:.0f}% of the machine: it is to be measured again"
    return None


def _drift(result: Result, best: LevelRow, step: Step) -> Cause | None:
    pipeline, halfway_rps = result.pipeline, (step.lower.rate_rps + step.upper.rate_rps) / 2
    before, after = pipeline.pipeline_before_rps, pipeline.pipeline_after_rps
    slower_rps = step.upper.rate_rps * min(before, after) / pipeline.pipeline_rps
    figures = []
    if abs(after / before - 1) > DRIFT_SHARE and slower_rps <= halfway_rps:
        figures.append(f"in-process it did {before:.1f} images/s before the load and {after:.1f} after it")
    first_rps, again_rps = best.first_rps, best.throughput_rps
    if first_rps is not None and again_rps < (1 - DRIFT_SHARE) * first_rps and first_rps >= halfway_rps:
        served = f"{first_rps:.1f} req/s when first measured and {again_rps:.1f} when measured again"
        figures.append(f"the same level served {served}")
    if not figures:
        return None
    evidence = f"The machine itself changed: {' and '.join(figures)}; it is to be measured again"
    return "drift", None, evidence


def _busy_process(best: LevelRow, transport: str) -> Cause | None:
    for cause, cpu_ms in (("HTTP process", best.http_cpu_ms), ("manager process", best.manager_cpu_ms)):
        cores = _cores(cpu_ms, best)
        if cores is not None and cores >= CORE_BUSY:
            used = f"It needs {cpu_ms:.1f} ms of CPU per request, {cores:.2f} of the one core it can use"
            if transport == "litserve":
                return cause, "transport", f"{used}; `transport` (direct) moves it"
            return cause, None, f"{used}; no key of `serve:` moves it"
    return None


def _batch_size_off(result: Result, best: LevelRow, step: Step) -> Cause | None:
    """Batches that are smaller or larger than what the pipeline does fastest, and cost half of the loss."""
    size, pipeline = _batch_size(result, best), result.pipeline
    if size is None or round(size) == pipeline.batch_size:
        return None
    rate_rps = result.pipeline_at(size)
    if rate_rps > (step.lower.rate_rps + step.upper.rate_rps) / 2:
        return None
    larger, given = size > pipeline.batch_size, result.serve.max_batch_size
    if larger:
        parameter, why = "max_batch_size", f"a smaller `max_batch_size` than {given} moves it"
    elif size >= 0.9 * given:
        parameter, why = "max_batch_size", f"a larger `max_batch_size` than {given} moves it"
    elif size >= 0.9 * best.users:
        parameter, why = "load.users", "only more users (`load.users`) fill them"
    else:
        timeout = f"{result.serve.batch_timeout_s:g} s"
        parameter, why = "batch_timeout_s", f"a longer `batch_timeout_s` than {timeout} fills them"
    return (
        "large batches" if larger else "small batches",
        parameter,
        f"Batches hold {size:.1f} images; the pipeline in-process does {rate_rps:.1f} images/s at that "
        f"size and {pipeline.pipeline_rps:.1f} at {pipeline.batch_size}; {why}",
    )


def _batch_window(result: Result, best: LevelRow, step: Step) -> Cause | None:
    waiting = _waiting_ms(result, best)
    if waiting is None or best.mean_ms is None or not idle(best):
        return None
    timeout_ms = _window_ms(result)
    window_ms = min(waiting, timeout_ms)
    if timeout_ms == 0 or window_ms < WAITING_SHARE * timeout_ms:
        return None
    without_rps = 1000 * best.users / max(best.mean_ms - window_ms, 1e-3)
    halfway_rps = (step.lower.rate_rps + step.upper.rate_rps) / 2
    if window_ms < WAITING_SHARE * best.mean_ms and without_rps < halfway_rps:
        return None
    size = "" if best.batch_size is None else f" and holds {best.batch_size:.1f} images"
    timeout = f"a shorter `batch_timeout_s` than {result.serve.batch_timeout_s:g} s moves it"
    evidence = (
        f"Of its {best.mean_ms:.0f} ms a request waits {waiting:.0f} ms for a batch that does not "
        f"fill{size}, while {best.cpu_percent:.0f}% of the CPU is in use; {timeout}"
    )
    worst = _oversubscription(result, best)
    if worst is not None and worst.level.users > best.users:
        why = _oversubscription_text(result, worst)
        evidence += f". More users do not fill it, for too many `workers_per_device`: {why}"
    return "batch window", "batch_timeout_s", evidence


def _too_few_workers(result: Result, best: LevelRow) -> Cause | None:
    waiting = _waiting_ms(result, best)
    if waiting is None or best.mean_ms is None or not idle(best):
        return None
    queue_ms = waiting - min(waiting, _window_ms(result))
    workers = result.serve.workers_per_device
    if queue_ms < WAITING_SHARE * best.mean_ms or result.pipeline.workers < workers:
        return None
    return (
        "too few workers",
        "workers_per_device",
        f"Of its {best.mean_ms:.0f} ms a request waits {queue_ms:.0f} ms for a free one of "
        f"{pluralise(workers, 'worker')}, while {best.cpu_percent:.0f}% of the CPU is in use; "
        f"{more_workers(result)}",
    )


def _too_many_workers(result: Result, best: LevelRow) -> Cause | None:
    worst = _oversubscription(result, best)
    if worst is None:
        return None
    evidence = _oversubscription_text(result, worst)
    if result.pipeline.workers < result.serve.workers_per_device:
        evidence += f"; in-process it is fastest with {result.pipeline.workers} of them busy"
    return (
        "too many workers",
        "workers_per_device",
        f"{evidence[0].upper()}{evidence[1:]}; fewer `workers_per_device`, or `threads_per_worker`, move it",
    )


def _unexplained(result: Result, best: LevelRow) -> Cause:
    stages = result.stage_ms(best.users)
    longest = max(stages, key=lambda stage: stages[stage], default=None)
    figures = [f"its longest stage is {longest}, {stages[longest]:.0f} ms"] if longest else []
    size = _batch_size(result, best)
    if longest == "model" and size is not None:
        figures[0] += f" against {result.model_ms(size):.0f} ms in-process"
    figures += [f"{best.cpu_percent:.0f}% of the CPU is in use"] if best.cpu_percent is not None else []
    return "unexplained", None, "; ".join(["No rule says why", *figures])


def _oversubscription(result: Result, best: LevelRow) -> Oversubscription | None:
    """The level, from the best one up, with the largest slowdown; None where that is below SLOWDOWN."""
    threads = result.run["threads_per_worker"] * result.serve.workers_per_device
    if result.run["device"] != "cpu" or threads <= result.run["cores"]:
        return None
    found: list[Oversubscription] = []
    for level in result.levels:
        served_ms, size = result.stage_ms(level.users).get("model"), _batch_size(result, level)
        if served_ms is None or size is None or level.cpu_percent is None:
            continue
        if level.users >= best.users and not idle(level):
            found.append(Oversubscription(level, served_ms, result.model_ms(size)))
    worst = max(found, key=lambda one: one.slowdown, default=None)
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


def _waiting_ms(result: Result, level: LevelRow) -> float | None:
    stages = result.stage_ms(level.users)
    return stages["queue"] + stages.get("batch_wait", 0.0) if "queue" in stages else None


def _window_ms(result: Result) -> float:
    """The longest that a batch waits to fill; without batches there is no such wait."""
    return 1000 * result.serve.batch_timeout_s if result.serve.max_batch_size > 1 else 0.0


def _batch_size(result: Result, level: LevelRow) -> float | None:
    return 1.0 if result.serve.max_batch_size == 1 else level.batch_size


def _cores(cpu_ms: float | None, level: LevelRow) -> float | None:
    """Cores that a process uses, from its CPU time per request."""
    return None if cpu_ms is None else cpu_ms * level.throughput_rps / 1000
