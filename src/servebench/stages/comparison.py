"""Stage ``comparison``: all configurations served at once and loaded in turn; unchanged ones are kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from servebench.benchmark.comparison import compare
from servebench.benchmark.comparison_rows import comparison_rows, metrics_of, table
from servebench.benchmark.rows import ComparisonRow, TurnRow
from servebench.data.index import read_index
from servebench.inference.card import read_card
from servebench.inference.device import resolve_device
from servebench.params import Params, load_params
from servebench.paths import COMPARISON, COMPARISON_RUN, COMPARISON_TURNS, MACHINE, MODEL, BenchmarkPaths
from servebench.serving.client import request_bodies
from servebench.system.files import all_or_nothing, check_writable, read_json, rounded, write_json
from servebench.system.machine_lock import exclusive_machine
from servebench.system.progress import print_wrapped
from servebench.system.rows import read_rows, write_rows

LEAST_S = 90.0
"""Of the budget, however few configurations have changed."""


def main() -> None:
    """Measure what has changed beside the reference and the fastest, and compare all.

    Raises:
        ServebenchError: a server or the load generator failed, or results cannot be written.
    """
    params = load_params()
    device = resolve_device(params.device, read_json(MACHINE)["gpu"] is not None)
    signatures = signatures_of(params, device)
    kept = [row for row in earlier_rows(signatures) if row.experiment != params.comparison.reference]
    names = names_to_measure(list(signatures), params.comparison.reference, kept)
    budget_s = max(
        min(LEAST_S, params.comparison.seconds), params.comparison.seconds * len(names) / len(signatures)
    )
    outputs = [COMPARISON, COMPARISON_TURNS, COMPARISON_RUN]
    check_writable([*outputs, *(BenchmarkPaths(name).comparison for name in signatures)])
    print_wrapped(f"comparison: {', '.join(names)} in turn, {budget_s:.0f} s")
    photos = [Path(photo.path) for photo in read_index().photos]
    with exclusive_machine():
        comparison = compare(
            {name: params.configuration(name) for name in names},
            MODEL,
            device,
            request_bodies(photos, params.load.request_body),
            params.load,
            params.comparison,
            budget_s,
        )
    turns = earlier_turns({row.experiment for row in kept} | {params.comparison.reference}) if kept else []
    first = 1 + max((turn.round for turn in turns), default=-1)
    turns += [
        TurnRow(first + turn.round, turn.users, turn.name, rounded(turn.rate_rps, 3), len(turn.latency_ms))
        for turn in comparison.turns
    ]
    rows = comparison_rows(params.comparison, list(signatures), turns, comparison.latencies(), kept)
    with all_or_nothing():
        write_rows(COMPARISON_TURNS, TurnRow, turns)
        write_rows(COMPARISON, ComparisonRow, rows)
        write_json(COMPARISON_RUN, {"signatures": signatures, "left_after_round": comparison.left})
        for row in rows:
            if row.users == params.comparison.users[0]:
                write_json(BenchmarkPaths(row.experiment).comparison, metrics_of(row))
    print(table([row for row in rows if row.rank is not None]))


def signatures_of(params: Params, device: str) -> dict[str, str]:
    """By configuration, a hash of all that its rows depend on: what has the same was measured already."""
    common: dict[str, Any] = {
        "machine": read_json(MACHINE)["id"],
        "model": read_card(MODEL.exported).weights_sha256,
        "code": code_digest(),
        "device": device,
        "request_body": params.load.request_body,
        "users": params.comparison.users,
        "reference": params.configuration(params.comparison.reference).model_dump(),
    }
    return {
        name: digest(json.dumps({**common, "serve": serve.model_dump()}, sort_keys=True).encode())
        for name, serve in params.configurations().items()
    }


def code_digest() -> str:
    """Of all of the package's source files."""
    files = sorted(Path(__file__).resolve().parents[1].rglob("*.py"))
    return digest(b"".join(file.read_bytes() for file in files))


def digest(content: bytes) -> str:
    """The first digits of a SHA-256 hash."""
    return hashlib.sha256(content).hexdigest()[:16]


def earlier_rows(signatures: dict[str, str]) -> list[ComparisonRow]:
    """The last run's rows of those that have not changed since; nothing where it cannot be told."""
    try:
        known = read_json(COMPARISON_RUN)["signatures"]
        rows = read_rows(COMPARISON, ComparisonRow)
    except (OSError, KeyError, ValueError):
        return []
    return [row for row in rows if known.get(row.experiment) == signatures.get(row.experiment, "")]


def earlier_turns(names: set[str]) -> list[TurnRow]:
    """The last run's turns of ``names``."""
    return [turn for turn in read_rows(COMPARISON_TURNS, TurnRow) if turn.experiment in names]


def names_to_measure(names: Sequence[str], reference: str, kept: Sequence[ComparisonRow]) -> list[str]:
    """The reference, the fastest of those that are kept, and all that are not; all, where nothing changed."""
    changed = [name for name in names if name not in {reference, *(row.experiment for row in kept)}]
    if not changed or not kept:
        return list(names)
    fastest = max(kept, key=lambda row: row.ratio or 0.0).experiment
    return [reference, fastest, *changed]
