"""Stage ``comparison``: compare all configurations in rounds; results of unchanged ones are reused."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from litmeter.data.index import read_index
from litmeter.measure.comparison import compare, running_pipelines
from litmeter.measure.comparison_rows import (
    comparison_metrics,
    comparison_rows,
)
from litmeter.measure.rows import ComparisonRow, TurnRow
from litmeter.model.card import read_card
from litmeter.model.compiled.manifest import MANIFEST_NAME, split_note
from litmeter.model.device import resolve_device
from litmeter.params import ComparisonSettings, Params, ServeSettings, load_params
from litmeter.paths import (
    COMPARISON,
    COMPARISON_METRICS,
    COMPARISON_RUN,
    COMPARISON_TURNS,
    DVC_FILE,
    MACHINE,
    MODEL,
    BenchmarkPaths,
)
from litmeter.report.printed import comparison_table, errors_of_measuring
from litmeter.serve.client import request_bodies
from litmeter.system.files import (
    all_or_nothing,
    check_writable,
    code_digest,
    digest,
    read_json,
    read_rows,
    rounded,
    write_json,
    write_rows,
)
from litmeter.system.machine import exclusive_machine
from litmeter.system.progress import print_wrapped

MIN_BUDGET_S = 90.0
"""However few configurations have changed."""


def main() -> None:
    """Measure the changed configurations, the reference and the fastest; compare all.

    Metrics of configurations that params.yaml no longer has are removed.

    Raises:
        LitmeterError: a server or the load generator failed, or results cannot be written.
    """
    params = load_params()
    device = resolve_device(params.device, read_json(MACHINE)["gpu"] is not None)
    photos = [Path(photo.path) for photo in read_index().photos]
    bodies = request_bodies(photos, params.load.request_body)
    signatures = signatures_of(params, device, bodies)
    reference = params.comparison.reference
    unchanged, last_turns = read_unchanged(signatures, reference)
    names = names_to_measure(list(signatures), params.comparison, unchanged)
    kept = [row for row in unchanged if row.experiment not in names]
    earlier_turns = turns_of_kept(last_turns, {row.experiment for row in kept}, reference)
    earlier_left = read_left({row.experiment for row in kept})
    full_s = params.comparison.seconds
    budget_s = max(min(MIN_BUDGET_S, full_s), full_s * len(names) / len(signatures))
    outputs = [COMPARISON, COMPARISON_TURNS, COMPARISON_RUN]
    check_writable([*outputs, *(BenchmarkPaths(name).comparison for name in signatures)])
    print_wrapped(f"comparison: {', '.join(names)} in turn, {budget_s:.0f} s")
    with exclusive_machine():
        configurations = {name: params.configuration(name) for name in names}
        for name, serve in configurations.items():
            if note := split_note(MODEL, device, serve):
                print_wrapped(f"{name}: {note}")
        comparison = compare(
            configurations,
            MODEL,
            device,
            bodies,
            params.load,
            params.comparison,
            budget_s,
            partial(
                running_pipelines,
                configurations=configurations,
                folders=MODEL,
                device=device,
                photos=photos,
                settings=params.baseline,
            ),
        )
    first_round = 1 + max((turn.round for turn in earlier_turns), default=-1)
    turns = [
        TurnRow(
            first_round + turn.round,
            turn.users,
            turn.name,
            rounded(turn.rate_rps, 3),
            len(turn.latency_ms),
            turn.failed,
            rounded(turn.bound_rps, 3),
            rounded(turn.pipeline_rps, 3),
        )
        for turn in comparison.turns
    ]
    left = {name: first_round + rounds for name, rounds in comparison.dropped.items()}
    rows = comparison_rows(
        params.comparison, list(signatures), turns, comparison.latencies(), kept, earlier_turns
    )
    with all_or_nothing():
        write_rows(COMPARISON_TURNS, TurnRow, [*earlier_turns, *turns])
        write_rows(COMPARISON, ComparisonRow, rows)
        write_json(COMPARISON_RUN, {"signatures": signatures, "left_after_round": earlier_left | left})
        for row in rows:
            if row.users == params.comparison.users[0]:
                write_json(BenchmarkPaths(row.experiment).comparison, comparison_metrics(row))
    for path in COMPARISON_METRICS.glob("*.json"):
        if path.stem not in signatures:
            path.unlink()
    print(comparison_table([row for row in rows if row.ratio or row.ratio_high]))
    for sentence in errors_of_measuring(rows):
        print_wrapped(sentence)


def signatures_of(params: Params, device: str, bodies: Sequence[bytes]) -> dict[str, str]:
    """Hash of all that a configuration's rows depend on, by configuration.

    Args:
        bodies: what users send.
    """
    common: dict[str, Any] = {
        "machine": read_json(MACHINE)["id"],
        "model": read_card(MODEL.exported).model_dump(),
        "code": code_digest(DVC_FILE, "comparison"),
        "device": device,
        "bodies": digest(b"".join(bodies)),
        "request_body": params.load.request_body,
        "timeout_s": params.load.timeout_s,
        "users": params.comparison.users,
        "batch_sizes": params.baseline.batch_sizes,
        "reference_name": params.comparison.reference,
        "reference": own_inputs(params.configuration(params.comparison.reference)),
    }
    return {
        name: digest(json.dumps({**common, **own_inputs(serve)}, sort_keys=True).encode())
        for name, serve in params.configurations().items()
    }


def own_inputs(serve: ServeSettings) -> dict[str, Any]:
    """What only this configuration depends on: its settings, and the hashes of the packages that it runs."""
    packages = read_json(MODEL.compiled / MANIFEST_NAME)["packages"] if serve.compiled else []
    used = [one for one in packages if one["precision"] == serve.precision and not one["skipped_reason"]]
    return {"serve": serve.model_dump(), "packages": [one["sha256"] for one in used]}


def read_unchanged(signatures: dict[str, str], reference: str) -> tuple[list[ComparisonRow], list[TurnRow]]:
    """The last run's rows of configurations with the same signature, the reference apart, and all its turns.

    Neither where its files cannot be read.
    """
    try:
        last_signatures = read_json(COMPARISON_RUN)["signatures"]
        rows, turns = read_rows(COMPARISON, ComparisonRow), read_rows(COMPARISON_TURNS, TurnRow)
    except (OSError, KeyError, ValueError):
        return [], []
    unchanged = {name for name, signature in signatures.items() if last_signatures.get(name) == signature}
    return [row for row in rows if row.experiment in unchanged - {reference}], turns


def turns_of_kept(turns: Sequence[TurnRow], kept: Collection[str], reference: str) -> list[TurnRow]:
    """Those of ``kept``, and of the reference in the same rounds.

    What is measured again has none: rounds that add up until a difference is resolved would find one by
    chance.
    """
    rounds = {(turn.users, turn.round) for turn in turns if turn.experiment in kept}
    return [
        turn
        for turn in turns
        if turn.experiment in kept or (turn.experiment == reference and (turn.users, turn.round) in rounds)
    ]


def read_left(names: Collection[str]) -> dict[str, int]:
    """Those of ``names`` that left in an earlier run, with the number of rounds by then."""
    left: dict[str, int] = read_json(COMPARISON_RUN).get("left_after_round", {}) if names else {}
    return {name: rounds for name, rounds in left.items() if name in names}


def names_to_measure(
    names: Sequence[str], settings: ComparisonSettings, reused: Sequence[ComparisonRow]
) -> list[str]:
    """The reference, the fastest reused configuration and the changed ones; all, where none has changed."""
    reference = settings.reference
    changed = [name for name in names if name not in {reference, *(row.experiment for row in reused)}]
    if not changed or not reused:
        return list(names)
    at_first_load = [row for row in reused if row.users == settings.users[0]]
    fastest = max(at_first_load, key=lambda row: row.ratio or 0.0).experiment
    return [reference, fastest, *changed]
