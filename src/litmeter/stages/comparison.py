"""Stage ``comparison``: compare all configurations in rounds; unchanged ones keep their rows.

If ``serve:`` has changed since the last results, the settings before are measured in the same rounds, as
``before``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from importlib.util import find_spec
from typing import Any

from pydantic import ValidationError

from litmeter import paths
from litmeter.errors import ModelError
from litmeter.kinds.configuration import Checked, Configuration
from litmeter.kinds.costs import CostCeiling, roofline
from litmeter.kinds.registry import read
from litmeter.load import load_generator
from litmeter.load.bodies import Bodies
from litmeter.measure.checks import check_all, refuse_faulty
from litmeter.measure.comparison_rows import ComparisonResult, comparison_rows, over_before, read_comparison
from litmeter.measure.log import Log, unfinished_log
from litmeter.measure.rounds import comparison
from litmeter.measure.rows import ComparisonRow
from litmeter.measure.run import progress, run
from litmeter.measure.subjects import Served, pipelines_of
from litmeter.measure.turn import Work, WorkKind, configuration_of
from litmeter.params import Params, changed_settings, params_on
from litmeter.say.progress import print_wrapped
from litmeter.settings import CANDIDATE
from litmeter.system import files
from litmeter.system.cores import allowed_cpus, available_cores, whole_cores
from litmeter.system.dvc_file import code_digest
from litmeter.system.processes import LOG_END, json_lines_process

BEFORE = "before"
"""Name of the subject with the candidate's settings of the last results."""
CANNOT_BE_SERVED = "the settings before cannot be served, and are not compared"
OUTPUTS = (
    *(paths.COMPARISON, paths.COMPARISON_TURNS, paths.COMPARISON_SAMPLES),
    *(paths.COMPARISON_TABLE, paths.OVER_BEFORE),  # for DVC's plots and metrics; nothing here reads them
)
MORE_USERS = 4
"""Times as many users as there are could still come; batches beyond that, as of 4096 photos, are not probed:
they take minutes, and memory by the gigabyte."""
FEW, FEW_S = 4, 90.0
"""After a change of one configuration FEW are compared, in FEW_S; more take longer in proportion."""


def main() -> tuple[Log, ComparisonResult]:
    """Measure the changed configurations, the reference and the fastest; compare all."""
    params, device = params_on(files.read_json(paths.MACHINE))
    bodies = params.bodies()
    signatures = signatures_of(params, device, bodies)
    reference, users, load = params.comparison.reference, params.comparison.users, params.load
    last, candidate = read_last(), params.configurations().get(CANDIDATE)
    chosen, kept, budget_s = planned(params, device, signatures, last)
    for name, serve in chosen.items():
        if note := serve.note(device):
            print_wrapped(f"{name}: {note}")
    files.check_writable(OUTPUTS)
    found = checked(chosen, bodies, device, load.timeout_s, users)
    unavailable = {name: one.unavailable for name, one in found.items() if one.unavailable}
    ceilings = ceilings_of(chosen, found, params, device)
    print_wrapped(f"comparison: {', '.join(chosen)} in turn, about {budget_s:.0f} s")
    before = chosen.get(BEFORE)
    key = {"signatures": signatures, "names": list(chosen), "before": before and before.identity(device)}
    log = unfinished_log("comparison", files.json_digest(key | {"seconds": budget_s}))
    beside = {name: serve.in_process for name, serve in chosen.items() if name not in unavailable}
    schedule = comparison(
        list(chosen),
        reference,
        largest_batch={name: min(serve.largest_batch, users) for name, serve in beside.items()},
        probed={name: probes_of(serve, users, device, found[name].cores) for name, serve in beside.items()},
        users=users,
        seconds=budget_s,
        seed=load.seed,
        timeout_s=load.timeout_s,
    )
    with load_generator(*bodies) as sender, progress(budget_s, "comparison") as show:
        served = {name: Served(name, serve, sender, device, load.timeout_s) for name, serve in chosen.items()}
        pipelines = pipelines_of(beside, device, bodies, users)
        run(schedule, {**served, **pipelines}, log, budget_s, show)
    timed = {row.subject for row in log.rows if row.work == "pipeline" and row.round >= 0}
    for name, why in ((configuration_of(name), why) for name, why in log.left_out.items()):
        unavailable |= {} if name in timed else {name: why.partition(LOG_END)[0]}
    earlier = {row.experiment for row in kept}
    unavailable |= {name: why for name, why in last.unavailable.items() if name in earlier} if last else {}
    ran = {name: one for name, one in last.ran.items() if name in earlier} if last else {}
    ceilings |= {name: one for name, one in last.ceilings.items() if name in earlier} if last else {}
    miss = params.objective.miss
    changes = changed_settings(before, params.serve) if before else {}
    result = ComparisonResult(
        date=date.today().isoformat(),
        model=params.served_digest(),
        candidate=candidate and candidate.model_dump(),
        signatures=signatures,
        rows=comparison_rows(
            list(signatures),
            reference,
            log.rows,
            log.latencies_ms(),
            miss,
            kept,
            log.stream_times_ms(),
            log.short_answers(reference),
        ),
        over_before=over_before(log.rows, log.first_ms(), reference, BEFORE, CANDIDATE, changes),
        unavailable=unavailable,
        batch_ms={name: one.batch_ms for name, one in found.items() if one.batch_ms},
        ready_s={name: files.rounded(one.ready_s, 2) for name, one in served.items()},
        ran=ran | {name: one.ran for name, one in found.items() if one.ran},
        ceilings=ceilings,
    )
    with files.all_or_nothing():
        log.write(paths.COMPARISON_TURNS, paths.COMPARISON_SAMPLES)
        files.write_json(paths.COMPARISON, result.model_dump(mode="json"))
        files.write_rows(paths.COMPARISON_TABLE, ComparisonRow, result.rows)
        # DVC shows each number and flag as a column.
        files.write_json(paths.OVER_BEFORE, result.over_before.model_dump(mode="json", exclude={"streams"}))
    log.remove_unfinished()
    return log, result


def checked(
    measured: dict[str, Configuration], bodies: Bodies, device: str, timeout_s: float, users: int
) -> dict[str, Checked]:
    """Check ``measured``, and add the settings that run; raise ApiError if one cannot be served.

    If only ``before`` cannot be served, it is removed from ``measured``.
    """
    own = {name: serve for name, serve in measured.items() if name != BEFORE}
    found = refuse_faulty(check_all(own, bodies, device, timeout_s, users))
    if before := measured.get(BEFORE):
        found |= check_all({BEFORE: before}, bodies, device, timeout_s)
        if fault := found[BEFORE].fault:
            print_wrapped(f"{CANNOT_BE_SERVED}: {fault}")
            del measured[BEFORE]
    for name in measured:
        if (ran := found[name].ran) is not None:
            measured[name] = measured[name].as_ran(ran.keys)
    return found


def ceilings_of(
    measured: Mapping[str, Configuration], found: Mapping[str, Checked], params: Params, device: str
) -> dict[str, CostCeiling]:
    """What this machine, measured by torch, allows each configuration whose costs are known; where batches
    are not known, with as many answers at once as users."""
    known = {name: found[name].costs or params.costs.get(name) for name in measured}
    costs = {name: own for name, own in known.items() if own is not None}
    if costs and find_spec("torch") is None:
        print_wrapped("no bounds by costs: they are measured by torch, which is not installed")
        return {}
    if not costs:
        return {}
    print_wrapped(f"peaks of the machine for {', '.join(costs)}")
    users, at_once, overlap = params.comparison.users, {}, {}
    for name, own in costs.items():
        serve, ran = measured[name], found[name].ran
        is_known = bool(serve.levers) and (ran is None or bool(ran.keys))
        at_once[name] = min(own.at_once or (serve.largest_batch if is_known else users), users)
        overlap[name] = own.at_once is not None or not is_known or serve.workers != 1
    read_bytes = {name: own.read_bytes(at_once[name]) for name, own in costs.items()}
    dtypes = sorted({own.dtype for own in costs.values()})
    sizes = sorted({*read_bytes.values()})
    job = {"device": device, "cores": whole_cores(), "dtypes": dtypes, "sizes": sizes}
    with json_lines_process("litmeter.peaks", job, os.environ, "measuring peaks") as talk:
        flops, rates, datasheet = talk.answer()
    reading = dict(zip(sizes, rates, strict=True))
    ceilings = {}
    for name, own in costs.items():
        peak, read = flops[own.dtype], reading[read_bytes[name]]
        bound = roofline(own, peak, read, at_once[name], overlap=overlap[name])
        best = datasheet and datasheet.get(own.dtype)
        by_datasheet = best and roofline(own, best, math.inf, at_once[name], overlap=True)
        ceilings[name] = CostCeiling(
            costs=own,
            at_once=at_once[name],
            peak_tflops=round(peak / 1e12, 3),
            reading_gbs=round(read / 1e9, 2),
            datasheet_rps=by_datasheet and files.rounded(by_datasheet.rps, 3),
            roofline_rps=bound and files.rounded(bound.rps, 3),
            roofline_bound=bound and bound.bound,
            operators={part: round(share, 3) for part, share in found[name].operators.items()},
        )
    return ceilings


def probes_of(serve: Configuration, users: int, device: str = "cpu", used: float | None = None) -> list[Work]:
    """What is run in-process once: where users are too few to fill all batches; and on a CPU where threads
    outnumber the cores, or users, or workers that have ``used`` so many cores each, leave cores idle."""
    size = min(serve.largest_batch, MORE_USERS * users)
    filled = [Work("filled", size, 0.0)] if serve.workers * serve.largest_batch > users else []
    return filled + (_probes_on_cpu(serve, users, used) if device == "cpu" else [])


def _probes_on_cpu(serve: Configuration, users: int, used: float | None) -> list[Work]:
    workers, threads, cores = serve.workers, serve.threads or len(allowed_cpus()), available_cores()
    twice = 2 * workers
    if used is not None and twice * round(used, 1) <= cores and twice * serve.largest_batch <= users:
        return [_probe("more", twice)]
    if workers > 1 and workers * threads > cores:
        return [_probe("crowded", workers), _probe("one_thread", workers, 1)]
    each = int(cores) // users
    return (
        [_probe("lone", users), _probe("spread", users, each)] if users <= workers and each > threads else []
    )


def _probe(kind: WorkKind, busy: int, threads: int | None = None) -> Work:
    return Work(kind, 1, 0.0, busy, threads)


def signatures_of(params: Params, device: str, bodies: Bodies) -> dict[str, str]:
    """By configuration, a hash of all that its row depends on; ``bodies``: what users send."""
    common: dict[str, Any] = {
        "machine": files.read_json(paths.MACHINE),
        "model": params.served_card(),
        "code": code_digest(paths.DVC_FILE, "comparison"),
        "device": device,
        "bodies": bodies.digest,
        "headers": dict(params.load.headers),
        "request_body": params.load.request_body,
        "timeout_s": params.load.timeout_s,
        "users": params.comparison.users,
        "miss": params.objective.miss,
        "reference_name": params.comparison.reference,
        "reference": params.configuration(params.comparison.reference).identity(device),
    }
    return {
        name: files.json_digest(common | serve.identity(device) | {"costs": str(params.costs.get(name))})
        for name, serve in params.configurations().items()
    }


def read_last() -> ComparisonResult | None:
    """The last comparison; None if it cannot be read."""
    try:
        return read_comparison()
    except (OSError, ValueError):
        return None


def planned(
    params: Params, device: str, signatures: Mapping[str, str], last: ComparisonResult | None
) -> tuple[dict[str, Configuration], list[ComparisonRow], float]:
    """Configurations to measure (with ``before`` if the candidate changed), rows to keep, and the budget."""
    names, kept = names_to_measure(signatures, params.comparison.reference, last)
    measured = {name: params.configuration(name) for name in names}
    if (before := settings_before(params, device, last)) is not None:
        measured[BEFORE] = before
    budget_s = params.comparison.seconds
    if len(names) < len(signatures):
        budget_s = min(budget_s, max(FEW_S, FEW_S / FEW * len(measured)))
    return measured, kept, budget_s


def names_to_measure(
    signatures: Mapping[str, str], reference: str, last: ComparisonResult | None
) -> tuple[list[str], list[ComparisonRow]]:
    """Names of configurations to measure, and the last run's rows of all others.

    The reference, the fastest unchanged and all changed configurations are measured; if none has changed, or
    none is unchanged, all are: a repetition replaces the last results.
    """
    unchanged = {
        row.experiment: dated(row, last.date)
        for row in (last.rows if last else ())
        if last and last.signatures.get(row.experiment) == signatures.get(row.experiment)
    }
    changed = [name for name in signatures if name not in unchanged]
    others = {name: row for name, row in unchanged.items() if name != reference}
    if not others or not set(changed) - {reference}:
        return list(signatures), []
    fastest = max(others, key=lambda name: others[name].ratio or 0.0)
    names = list(dict.fromkeys([reference, fastest, *changed]))
    return names, [row for name, row in others.items() if name not in names]


def settings_before(params: Params, device: str, last: ComparisonResult | None) -> Configuration | None:
    """The candidate's settings of the last results, if they differ and can run with the same model."""
    candidate = params.configurations().get(CANDIDATE)
    if candidate is None or last is None or last.candidate is None or last.model != params.served_digest():
        return None
    try:
        before = read(last.candidate)
        if before.model_dump() == candidate.model_dump():  # without keys that no figure depends on
            return None
        before.note(device)
    except (KeyError, ValidationError):  # of code that had other settings
        return None
    except ModelError as error:
        print_wrapped(f"{CANNOT_BE_SERVED}: {error}")
        return None
    return before


def dated(row: ComparisonRow, date: str) -> ComparisonRow:
    """A kept row with the date of its run, without the rank and shares among that run's rows."""
    return replace(
        row, earlier=row.earlier or date, rank=None, share_of_fastest=None, share_low=None, share_high=None
    )
