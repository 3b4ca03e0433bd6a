"""What a served request costs beyond the model in-process: the causes of the loss, with shares.

In a closed loop, all cores together spend cores / rate on a request, whoever uses them: workers, HTTP process
and LitServe's manager, load generator, other processes, the hypervisor, or nobody. The same holds for an
image in-process. So the differences of these parts add up to the whole loss from the model to the served
rate, and each part has a share of it. The pipeline in-process counts as on an undisturbed machine. Of the
time that other processes use, as much is lost as threads that were ready waited for a core; the rest, and
idle time, is attributed to what a request waits for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from litmeter.measure.rows import TurnRow
from litmeter.report.results import Result, Taken, mean
from litmeter.say.tables import pluralise, rate_cell
from litmeter.stats.ratios import Ratio
from litmeter.stats.records import Floats

WORKERS, SERVER, CLIENT = "workers", "server", "client"
OTHERS, HYPERVISOR, IDLE = "others", "hypervisor", "idle"
PARTS = (WORKERS, SERVER, CLIENT, OTHERS, HYPERVISOR, IDLE)
"""Users of the cores; SERVER is the server's processes without a model."""
CORE_BUSY = 0.9
"""Cores in use above which a process with one busy thread is at its limit."""
ONE_THREAD = {
    "http_cpu_ms": "HTTP process",
    "manager_cpu_ms": "manager process",
    "client_cpu_ms": "load generator",
}
"""Processes with one busy thread, by the column of their CPU time for a request."""
WORTH = 1.05
"""Least gain of an advised key, as a factor of the rate."""
NO_KEY = "no key of `serve:` moves it"
USERS_KEY = "comparison.users"


class Why(NamedTuple):
    """A cause, the key of params.yaml that moves it, the evidence, and what to do with the key."""

    cause: str
    key: str | None
    evidence: str
    advice: str = ""

    @property
    def text(self) -> str:
        """Evidence and advice."""
        return f"{self.evidence}; {self.advice}" if self.advice else self.evidence


@dataclass(frozen=True)
class Loss:
    """The part of the loss that one cause explains.

    Attributes:
        core_ms: time of all cores for a request.
        share: of the whole loss, with a 95% interval; negative where serving spends less than the pipeline.
    """

    why: Why
    core_ms: float
    share: Ratio


def losses_of(result: Result, preprocessing: Why) -> list[Loss]:
    """The causes of the loss from the model to the served rate, the largest first.

    ``preprocessing`` describes the cause decoding and preprocessing. Empty where the served or the in-process
    rate was not measured, or nothing is lost.
    """
    served, alone, model = (
        [parts for row in rows if (parts := core_ms(row, result))]
        for rows in (result.served, result.in_process("pipeline"), result.in_process("model"))
    )
    if not served or not alone:
        return []
    in_process = {part: float(np.mean([each[part] for each in alone])) for part in PARTS}
    in_process |= {OTHERS: 0.0, HYPERVISOR: 0.0}
    excess = {part: np.array([each[part] for each in served]) - in_process[part] for part in PARTS}
    preprocess_ms = max(0.0, _undisturbed_ms(alone) - _undisturbed_ms(model)) if model else 0.0
    found: list[tuple[Why, Floats]] = [(preprocessing, np.full(len(served), preprocess_ms))]
    whole: Floats = sum(excess.values(), found[0][1])
    if whole.mean() <= 0:
        return []
    explained = [(why, {WORKERS: cpu_ms, IDLE: ms}) for why, cpu_ms, ms in filter(None, [_batches(result)])]
    if (crowding := _crowding(result)) is not None:
        explained.append((crowding, {WORKERS: math.inf}))
    for why, most in explained:  # at most the whole excess of a part
        own = {part: max(0.0, min(ms, float(excess[part].mean()))) for part, ms in most.items()}
        found.append((why, np.full(len(served), sum(own.values()))))
        excess |= {part: excess[part] - ms for part, ms in own.items()}
    found.append((_contention(result, in_process[WORKERS]), excess[WORKERS]))
    others: dict[str, Callable[[Result], Why]] = {
        SERVER: _transport,
        CLIENT: _load_generator,
        OTHERS: _others,
        HYPERVISOR: lambda _: Why("hypervisor", None, "the hypervisor takes the cores"),
        IDLE: _waiting,
    }
    found += [(explain(result), excess[part]) for part, explain in others.items()]
    losses = [Loss(why, float(ms.mean()), _share(ms, whole)) for why, ms in found]
    return sorted(losses, key=lambda loss: -loss.core_ms)


def core_ms(row: TurnRow, result: Result) -> dict[str, float] | None:
    """Time of all cores for a request of a turn, by PARTS; None where the turn has no rate or CPU time."""
    if not row.rate_rps or row.workers_cpu_ms is None:
        return None
    whole, lost = 1000 * result.cores / row.rate_rps, result.taken(row) or Taken()
    parts = {
        WORKERS: row.workers_cpu_ms,
        SERVER: (row.http_cpu_ms or 0.0) + (row.manager_cpu_ms or 0.0),
        CLIENT: row.client_cpu_ms or 0.0,
        OTHERS: whole * lost.others,
        HYPERVISOR: whole * lost.hypervisor,
    }
    return parts | {IDLE: whole - sum(parts.values())}


def server_share(result: Result) -> Ratio | None:
    """The share of HTTP process and manager in the cores' time for a request; None where it is unknown."""
    served = [parts for row in result.served if (parts := core_ms(row, result))]
    if not served:
        return None
    whole = np.array([sum(parts.values()) for parts in served])
    return _share(np.array([parts[SERVER] for parts in served]), whole)


def _undisturbed_ms(rows: Sequence[Mapping[str, float]]) -> float:
    return float(np.mean([sum(parts.values()) - parts[OTHERS] - parts[HYPERVISOR] for parts in rows]))


def _share(ms: Floats, whole: Floats) -> Ratio:
    """The ratio of two means over turns; from three turns on with Student's interval."""
    share, turns = float(ms.mean() / whole.mean()), len(ms)
    if turns < 3:
        return Ratio(share, None, None)
    error = float(np.std(ms - share * whole, ddof=1)) / math.sqrt(turns) / float(whole.mean())
    spread = float(stdtrit(turns - 1, 0.975)) * error
    return Ratio(share, share - spread, share + spread)


def _batches(result: Result) -> tuple[Why, float, float] | None:
    """Served batches that are smaller or larger than the pipeline's fastest; the workers' CPU time that they
    cost for a request, and time of idle cores."""
    serve, size, fastest = result.serve, mean(result.served, "batch_size"), result.in_process_size
    if not size or not fastest or round(size) == fastest or not (found := in_batches(result, size, fastest)):
        return None
    (own_cpu_ms, own_ms), (best_cpu_ms, best_ms) = found
    cause, key = "small batches", serve.lever("batch size")
    most = min(serve.largest_batch, result.compared.users / max(1, serve.workers))
    if size > fastest:
        cause, advice = "large batches", moves(f"a smaller `{key}` than {serve.largest_batch}", key)
    elif size >= 0.9 * serve.largest_batch:
        advice = moves(f"a larger `{key}` than {serve.largest_batch}", key)
    elif size >= 0.9 * most:
        key, advice = USERS_KEY, f"only more users (`{USERS_KEY}`) fill them"
    else:
        key = serve.lever("batch window")
        fills = f"fills them, for {own_ms / best_ms:.2f} times as many {result.item}s/s at most"
        advice = moves(f"a longer `{key}` than {serve.batch_window_s:g} s", key, fills)
    best_rps = result.compared.pipeline_rps or 1000 * result.cores / best_ms
    text = (
        f"batches hold {size:.1f} {result.item}s on average, not {fastest}: in-process "
        f"{rate_cell(best_rps * best_ms / own_ms)} {result.item}s/s, not {rate_cell(best_rps)}"
    )
    cpu_ms = own_cpu_ms - best_cpu_ms
    return Why(cause, key, text, advice), cpu_ms, own_ms - best_ms - cpu_ms


def in_batches(result: Result, *sizes: float) -> list[tuple[float, float]]:
    """By batch size, the pipeline's CPU time for a request in-process, and that of all cores, undisturbed;
    batches' times are interpolated between measured sizes, beyond these a request's is constant."""
    times: dict[float, list[tuple[float, float]]] = {}
    for row in result.turns:
        if row.work == "pipeline" and row.batch_size and (parts := core_ms(row, result)):
            times.setdefault(row.batch_size, []).append((parts[WORKERS], _undisturbed_ms([parts])))
    known = sorted(times)
    cpu_ms, all_ms = (
        np.array([size * np.mean(times[size], axis=0) for size in known]).T if known else ((), ())
    )
    inside = [float(np.clip(size, known[0], known[-1])) for size in sizes] if known else []
    return [(np.interp(size, known, cpu_ms) / size, np.interp(size, known, all_ms) / size) for size in inside]


def _crowding(result: Result) -> Why | None:
    """More workers than the cores can run, where fewer of them do more.

    The workers' whole excess is then attributed to it: their contention with the server has the same cause.
    """
    if not (crowded := result.crowded):
        return None
    workers, all_rps = pluralise(result.serve.workers, "worker"), mean(crowded, "rate_rps")
    fewer, threads = result.serve.lever("workers"), result.serve.lever("threads")
    fitting_rps = result.compared.pipeline_rps
    text = (
        f"the same pipeline in-process does {rate_cell(all_rps)} {result.item}s/s in all {workers} of "
        f"{pluralise(result.threads, 'thread')}, and {rate_cell(fitting_rps)} in as many as the "
        f"{pluralise(result.cores, 'core')} can run"
    )
    if (mean(result.one_thread, "low_rps") or 0.0) > (fitting_rps or 0.0):
        one_rps = rate_cell(mean(result.one_thread, "rate_rps"))
        advice = moves(f"`{threads}` (1)", threads, f"moves it: {one_rps} in all of them")
        return Why("too many workers", threads, text, advice)
    advice = moves(f"fewer `{fewer}` or `{threads}`", fewer)
    return Why("too many workers", fewer, text, advice)


def moves(what: str, key: str | None, verb: str = "may move it") -> str:
    """Advice to move ``key``; NO_KEY without one."""
    return f"{what} {verb}" if key else NO_KEY


def _contention(result: Result, in_process_ms: float) -> Why:
    text = (
        f"the workers take {mean(result.served, 'workers_cpu_ms') or 0.0:.1f} ms of CPU per {result.item}, "
        f"{in_process_ms:.1f} ms in-process, as server and load generator use the same cores and caches"
    )
    key = result.serve.lever("threads") if result.device == "cpu" and result.threads > 1 else None
    advice = moves(f"fewer `{key}`", key, "may move it: threads that share a batch wait for each other")
    return Why("contention", key, text, advice)


def _transport(result: Result) -> Why:
    columns = {"http_cpu_ms": "the HTTP process", "manager_cpu_ms": "LitServe's manager"}
    times = {name: mean(result.served, column) for column, name in columns.items()}
    used = " and ".join(f"{ms:.1f} ms of CPU in {name}" for name, ms in times.items() if ms)
    return _direct(result, "transport", f"a request takes {used}")


def _direct(result: Result, cause: str, text: str) -> Why:
    key = result.serve.lever("transport")
    return Why(cause, key, text, moves(f"`{key}` (direct)", key))


def _load_generator(result: Result) -> Why:
    ms = mean(result.served, "client_cpu_ms") or 0.0
    return Why("load generator", None, f"the load generator takes {ms:.1f} ms of CPU for a request")


def _others(result: Result) -> Why:
    waits = "threads that are ready to run wait for a core"
    if (percent := mean(result.served, "other_percent")) is None:
        text = f"{waits}, which others have or the quota withholds: it does not say"
        return Why("other processes or the quota", None, text)
    return Why("other processes", None, f"{waits}: other processes use {percent:.0f}% of the cores")


def _waiting(result: Result) -> Why:
    """What idle cores wait for: a process at the limit of its one thread, or a request's longest wait."""
    rows = [*result.served, *result.in_process("pipeline")]
    if any(row.rate_rps and result.taken(row) is None for row in rows):
        text = "others have the cores, or they are idle: what threads waited for them is not known here"
        return Why("other processes or idle cores", None, text)
    rate_rps, serve, stages = result.compared.rate_rps or 0.0, result.serve, result.stage_ms

    def cores(column: str) -> float:
        return (mean(result.served, column) or 0.0) * rate_rps / 1000

    for column, name in ONE_THREAD.items():
        if (used := cores(column)) < CORE_BUSY:
            continue
        text = f"the {name} uses {used:.2f} of one core"
        return Why(name, None, text) if name == "load generator" else _direct(result, name, text)
    if result.spread is not None:
        return _few_threads(result, result.spread)
    if not stages or not rate_rps:
        return Why("idle cores", None, "cores are idle")
    whole_ms = 1000 * result.compared.users / rate_rps
    waits_ms = stages["queue"] + stages.get("batch_wait", 0.0)
    window_ms = min(waits_ms, 1000 * serve.batch_window_s if serve.largest_batch > 1 else 0.0)
    waits = {
        "batch window": window_ms,
        "too few workers": waits_ms - window_ms,
        "transport": stages.get("transport", 0.0),
        "load generator": whole_ms - sum(stages.values()),
    }
    cause = max(waits, key=waits.__getitem__)
    text = f"cores are idle while of {whole_ms:.0f} ms a request waits {waits[cause]:.0f} ms "
    if cause == "batch window":
        key = serve.lever("batch window")
        advice = moves(f"a shorter `{key}` than {serve.batch_window_s:g} s", key)
        return Why(cause, key, f"{text}for a batch that does not fill", advice)
    if cause == "too few workers":
        key, free = serve.lever("workers"), f"for a free one of {pluralise(serve.workers, 'worker')}"
        return Why(cause, key, text + free, moves(f"more `{key}`", key))
    if cause == "transport":
        return _direct(result, cause, f"{text}between the server's processes")
    return Why(cause, None, f"{text}for the load generator")


def _few_threads(result: Result, gain: float) -> Why:
    """Users that leave cores idle, and what more threads for each of them bring in-process."""
    users, key = result.compared.users, result.serve.lever("threads")
    times = f"{int(result.cores) // users} do {gain:.2f} times as many {result.item}s/s in-process"
    advice = moves(f"`{key}`", key, f"moves it: {times}") if gain >= WORTH else f"more do not help: {times}"
    busy = pluralise(users * result.threads, "thread")
    text = f"{pluralise(users, 'user')} keep{'s' * (users == 1)} {busy} busy at most"
    return Why("too few threads", key, text, advice)


def limits_of_one_thread(result: Result) -> str:
    """The rates at which processes with one busy thread would be the limit, by their CPU for a request."""
    known = {name: mean(result.served, column) for column, name in ONE_THREAD.items()}
    return ", ".join(
        f"the {name} at {rate_cell(1000 / ms)} req/s ({ms:.2f} ms of CPU for a request)"
        for name, ms in known.items()
        if ms
    )
