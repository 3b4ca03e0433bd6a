"""Stage ``comparison``: compare all configurations in rounds; what has not changed keeps its row.

Where ``serve:`` differs from what the last results were measured with, the settings before are measured in
the same rounds, as ``before``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from typing import Any

from pydantic import ValidationError

from litmeter import paths
from litmeter.errors import ModelError
from litmeter.kinds.configuration import Checked, Configuration
from litmeter.kinds.registry import read
from litmeter.load import load_generator
from litmeter.load.bodies import Bodies
from litmeter.measure.checks import check_all, refuse_faulty
from litmeter.measure.comparison_rows import comparison_metrics, comparison_rows, over_before
from litmeter.measure.log import Log, unfinished_log
from litmeter.measure.rounds import comparison
from litmeter.measure.rows import ComparisonRow
from litmeter.measure.run import progress, run
from litmeter.measure.subjects import Served, pipelines_of
from litmeter.params import Params, changed_settings, params_on
from litmeter.say.progress import print_wrapped
from litmeter.settings import CANDIDATE
from litmeter.system import files
from litmeter.system.cores import allowed_cpus, available_cores
from litmeter.system.dvc_file import code_digest
from litmeter.system.machine import recorded_machine

BEFORE = "before"
"""The subject with the candidate's settings of the last results."""
CANNOT_BE_SERVED = "the settings before cannot be served, and are not compared"
FEW, FEW_S = 4, 90.0
"""A comparison of so many configurations, as after a change of one, takes so long; of more, in proportion."""


@dataclass(frozen=True)
class Last:
    """What the last results were measured with.

    Attributes:
        signatures: by configuration, a hash of all that its row depends on.
        model: the served digest.
        settings: of the candidate; None where they are of code that had other ones.
        rows: of its comparison, those that it kept from an earlier one with that one's date.
        unavailable: why some were not run in-process.
    """

    signatures: Mapping[str, str]
    model: str | None
    settings: Configuration | None
    rows: Sequence[ComparisonRow]
    unavailable: Mapping[str, str]


def main() -> tuple[Log, list[ComparisonRow], dict[str, Any]]:
    """Measure the changed configurations, the reference and the fastest; compare all.

    Metrics of configurations that params.yaml no longer has are removed. Return what was measured, the rows,
    and what a change of the candidate did: metrics/over_before.json.
    """
    params, device = params_on(files.read_json(paths.MACHINE))
    bodies = params.bodies()
    signatures = signatures_of(params, device, bodies.contents)
    reference, users, load = params.comparison.reference, params.comparison.users, params.load
    last, candidate = read_last(), params.configurations().get(CANDIDATE)
    chosen, kept, budget_s = planned(params, device, signatures, last)
    for name, serve in chosen.items():
        if note := serve.note(device):
            print_wrapped(f"{name}: {note}")
    tables = [paths.COMPARISON, paths.COMPARISON_TURNS, paths.COMPARISON_SAMPLES]
    facts = [paths.COMPARISON_RUN, paths.OVER_BEFORE]
    files.check_writable([*tables, *facts, *(paths.BenchmarkPaths(name).comparison for name in signatures)])
    found = checked(chosen, bodies, device, load.timeout_s, users)
    unavailable = {name: one.unavailable for name, one in found.items() if one.unavailable}
    print_wrapped(f"comparison: {', '.join(chosen)} in turn, about {budget_s:.0f} s")
    before = chosen.get(BEFORE)
    key = {"signatures": signatures, "names": list(chosen), "before": before and before.identity(device)}
    log = unfinished_log("comparison", files.digest(json.dumps([key, budget_s]).encode()))
    beside = {name: serve for name, serve in chosen.items() if name not in unavailable}
    schedule = comparison(
        list(chosen),
        reference,
        largest_batch={name: min(serve.largest_batch, users) for name, serve in beside.items()},
        crowded=[name for name, serve in beside.items() if device == "cpu" and crowds(serve)],
        users=users,
        seconds=budget_s,
        seed=load.seed,
        timeout_s=load.timeout_s,
    )
    with load_generator(*bodies) as sender, progress(budget_s, "comparison") as show:
        served = {name: Served(name, serve, sender, device, load.timeout_s) for name, serve in chosen.items()}
        pipelines = pipelines_of(beside, device, bodies)
        run(schedule, {**served, **pipelines}, log, budget_s, show)
    earlier = {row.experiment for row in kept}
    unavailable |= {name: why for name, why in last.unavailable.items() if name in earlier} if last else {}
    miss = params.objective.miss
    rows = comparison_rows(list(signatures), reference, log.rows, log.latencies_ms(), miss, kept)
    changes = changed_settings(before, params.serve) if before else {}
    found_over = over_before(log.rows, log.latencies_ms(), reference, BEFORE, CANDIDATE, changes)
    with files.all_or_nothing():
        log.write(paths.COMPARISON_TURNS, paths.COMPARISON_SAMPLES)
        files.write_rows(paths.COMPARISON, ComparisonRow, rows)
        files.write_json(paths.OVER_BEFORE, found_over)
        files.write_json(
            paths.COMPARISON_RUN,
            {
                "date": date.today().isoformat(),
                "model": params.served_digest(),
                "candidate": candidate and candidate.model_dump(),
                "signatures": signatures,
                "rows": rows_digest(rows),
                "unavailable": unavailable,
                "batch_ms": {name: one.batch_ms for name, one in found.items() if one.batch_ms},
                "ready_s": {name: files.rounded(one.ready_s, 2) for name, one in served.items()},
            },
        )
        for row in rows:
            files.write_json(paths.BenchmarkPaths(row.experiment).comparison, comparison_metrics(row))
    log.remove_unfinished()
    for path in paths.COMPARISON_METRICS.glob("*.json"):
        if path.stem not in signatures:
            path.unlink()
    return log, rows, found_over


def checked(
    measured: dict[str, Configuration], bodies: Bodies, device: str, timeout_s: float, users: int
) -> dict[str, Checked]:
    """What was found of those ``measured``, by name; raise ApiError where one must not be served.

    Where that is only the one before, it is taken out of ``measured``.
    """
    own = {name: serve for name, serve in measured.items() if name != BEFORE}
    found = refuse_faulty(check_all(own, bodies, device, timeout_s, users))
    if before := measured.get(BEFORE):
        found |= check_all({BEFORE: before}, bodies, device, timeout_s)
        if fault := found[BEFORE].fault:
            print_wrapped(f"{CANNOT_BE_SERVED}: {fault}")
            del measured[BEFORE]
    return found


def crowds(serve: Configuration) -> bool:
    """Whether its workers have more threads together than there are cores."""
    threads = serve.threads or len(allowed_cpus())
    return serve.workers > 1 and serve.workers * threads > available_cores()


def signatures_of(params: Params, device: str, bodies: Sequence[bytes]) -> dict[str, str]:
    """Hash of all that a configuration's row depends on, by configuration; ``bodies``: what users send."""
    common: dict[str, Any] = {
        **recorded_machine(),
        "model": params.served_card(),
        "code": code_digest(paths.DVC_FILE, "comparison"),
        "device": device,
        "bodies": files.digest(b"".join(bodies)),
        "request_body": params.load.request_body,
        "timeout_s": params.load.timeout_s,
        "users": params.comparison.users,
        "miss": params.objective.miss,
        "reference_name": params.comparison.reference,
        "reference": params.configuration(params.comparison.reference).identity(device),
    }
    return {
        name: files.digest(json.dumps({**common, **serve.identity(device)}, sort_keys=True).encode())
        for name, serve in params.configurations().items()
    }


def read_last() -> Last | None:
    """What the last results were measured with; None where there are none that can be read.

    Nor where they do not belong together: git may take a file of the same size and second for unchanged.
    """
    try:
        facts, rows = files.read_json(paths.COMPARISON_RUN), files.read_rows(paths.COMPARISON, ComparisonRow)
        signatures, model, measured_on = facts["signatures"], facts["model"], facts["date"]
        unavailable = facts.get("unavailable", {})
        if facts["rows"] != rows_digest(rows):
            return None
    except (OSError, KeyError, ValueError):
        return None
    try:
        settings = facts["candidate"] and read(facts["candidate"])
    except (KeyError, ValidationError):  # of code that had other settings, or without a candidate
        settings = None
    of_then: dict[str, Any] = {"rank": None, "share_of_fastest": None, "share_low": None, "share_high": None}
    dated = [replace(row, earlier=row.earlier or measured_on, **of_then) for row in rows]
    return Last(signatures, model, settings, dated, unavailable)


def rows_digest(rows: Sequence[ComparisonRow]) -> str:
    """Hash of a comparison's rows."""
    return files.digest(json.dumps([asdict(row) for row in rows]).encode())


def planned(
    params: Params, device: str, signatures: Mapping[str, str], last: Last | None
) -> tuple[dict[str, Configuration], list[ComparisonRow], float]:
    """Who is measured, ``before`` among them where the candidate changed; rows that are kept; the seconds."""
    names, kept = names_to_measure(signatures, params.comparison.reference, last)
    measured = {name: params.configuration(name) for name in names}
    if (before := settings_before(params, device, last)) is not None:
        measured[BEFORE] = before
    budget_s = params.comparison.seconds
    if len(names) < len(signatures):
        budget_s = min(budget_s, max(FEW_S, FEW_S / FEW * len(measured)))
    return measured, kept, budget_s


def names_to_measure(
    signatures: Mapping[str, str], reference: str, last: Last | None
) -> tuple[list[str], list[ComparisonRow]]:
    """The configurations that are measured, and the last run's rows of all others.

    Measured are the reference, the fastest of the unchanged ones, and the changed ones; all, where none has
    changed or none is as it was: a repetition replaces.
    """
    known = last.signatures if last else {}
    unchanged = {
        row.experiment: row
        for row in (last.rows if last else ())
        if known.get(row.experiment) == signatures.get(row.experiment)
    }
    changed = [name for name in signatures if name not in unchanged]
    others = {name: row for name, row in unchanged.items() if name != reference}
    if not others or not set(changed) - {reference}:
        return list(signatures), []
    fastest = max(others, key=lambda name: others[name].ratio or 0.0)
    names = list(dict.fromkeys([reference, fastest, *changed]))
    return names, [row for name, row in others.items() if name not in names]


def settings_before(params: Params, device: str, last: Last | None) -> Configuration | None:
    """The candidate's settings of the last results, where they changed and can run with the same model."""
    candidate = params.configurations().get(CANDIDATE)
    if last is None or last.settings is None or candidate in (None, last.settings):
        return None
    if last.model != params.served_digest():
        return None
    try:
        last.settings.note(device)
    except ModelError as error:
        print_wrapped(f"{CANNOT_BE_SERVED}: {error}")
        return None
    return last.settings
