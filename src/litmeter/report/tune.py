"""What the last search has found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from litmeter.inference.card import exported_weights
from litmeter.paths import MACHINE, MODEL, TUNE_KNOBS, TUNE_METRICS, TUNE_TABLE
from litmeter.system.files import read_json, read_rows
from litmeter.system.tables import markdown_table, number_cell, pluralise
from litmeter.tune.rows import HEAD, NOT_SLOWER, KnobRow, TuneRow, ratio_cell, tune_cells


@dataclass(frozen=True)
class Tuned:
    """What a search has found; the winner is the first row."""

    metrics: Mapping[str, Any]
    rows: Sequence[TuneRow]
    knobs: Sequence[KnobRow]


def read_tuned() -> Tuned | None:
    """What was found for this model on this machine; None where nothing was searched."""
    try:
        metrics = read_json(TUNE_METRICS)
        rows, knobs = read_rows(TUNE_TABLE, TuneRow), read_rows(TUNE_KNOBS, KnobRow)
        weights = exported_weights(MODEL.exported)
        belongs = metrics["machine"] == read_json(MACHINE)["id"] and weights in (
            None,
            metrics["weights_sha256"],
        )
    except (OSError, KeyError, ValueError):
        return None
    return Tuned(metrics, rows, knobs) if belongs else None


def tune_text(tuned: Tuned) -> str:
    """What was found, in Markdown."""
    finalists = [row for row in tuned.rows if row.status in NOT_SLOWER]
    paragraphs = [
        " ".join(sentences(tuned.metrics, tuned.rows)),
        markdown_table(HEAD, tune_cells(finalists), 2),
        "What another value of one key would be worth, all others as the winner's:",
        knob_table(tuned.knobs),
    ]
    return "\n\n".join(paragraphs)


def sentences(metrics: Mapping[str, Any], rows: Sequence[TuneRow]) -> list[str]:
    """Who won, how much it gains, what cannot be told from it, and how well rates were predicted."""
    winner, incumbent = rows[0], next(row for row in rows if row.incumbent)
    found = [
        f"Of {metrics['combinations']:,} combinations {metrics['raced']} raced, for "
        f"{pluralise(metrics['rounds'], 'round')} at {pluralise(metrics['users'], 'user')}.",
        f"`{winner.name}` won with {number_cell(winner.rate_rps, 1)} req/s, "
        f"{ratio_cell(winner.over_serve, winner.over_serve_low, winner.over_serve_high)} times `serve:`, "
        f"which was `{incumbent.name}` then.",
    ]
    for status, text in (("equal", "As fast within 3%"), ("not resolved", "Not resolved from the fastest")):
        names = [f"`{row.name}`" for row in rows if row.status == status]
        found += [f"{text}: {', '.join(names)}."] if names else []
    if metrics["capacity"]:
        found.append(f"The winner {metrics['capacity']}.")
    found.append(f"Predicted ratios were off by {metrics['model_error']:.0%} (standard deviation).")
    return found


def knob_table(knobs: Sequence[KnobRow]) -> str:
    """A row per knob and value."""
    rows = [
        [f"`{row.knob}`", row.value, ratio_cell(row.ratio, row.ratio_low, row.ratio_high), row.source]
        for row in knobs
    ]
    return markdown_table(["key", "value", "times the winner's rate", "source"], rows, 2)
