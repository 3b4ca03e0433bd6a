"""The table of results, and words for settings and capacities, as commands, stages and pages have them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from litmeter.measure.capacity import CapacityMetrics
from litmeter.measure.rows import ComparisonRow
from litmeter.model.device import dtype_name
from litmeter.params import Params, ServeSettings
from litmeter.report.results import fastest_first
from litmeter.system.tables import markdown_table, number_cell, pluralise, text_table
from litmeter.tune.rows import ratio_cell

if TYPE_CHECKING:
    from litmeter.measure.comparison_rows import Pair

P95_ANSWERS = 130
"""Answers that a 95th percentile needs."""


def describe(serve: ServeSettings, device: str) -> str:
    """The settings of ``serve`` on ``device`` (cpu or cuda) in words; LitServe's defaults are left out."""
    workers = pluralise(serve.workers_per_device, "worker")
    if serve.threads_per_worker:
        workers += f" of {pluralise(serve.threads_per_worker, 'thread')}"
    parts = [
        dtype_name(serve.precision, device),
        f"max_batch_size {serve.max_batch_size}",
        f"batch_timeout {serve.batch_timeout_s:g} s" if serve.batch_timeout_s else "",
        workers,
        "direct" if serve.transport == "direct" else "",
        "compiled" if serve.compiled else "",
        serve.preprocess if serve.preprocess != "timm" else "",
        "freed memory kept" if serve.keep_freed_memory else "",
    ]
    return ", ".join(filter(None, parts))


def changed_keys(before: ServeSettings, after: ServeSettings) -> list[tuple[str, str, str]]:
    """Each key that differs, with its values as params.yaml has them."""
    old, new = before.model_dump(mode="json"), after.model_dump(mode="json")
    texts = [{key: json.dumps(value).strip('"') for key, value in own.items()} for own in (old, new)]
    return [(key, texts[0][key], texts[1][key]) for key in new if old[key] != new[key]]


def changed_settings(before: ServeSettings, after: ServeSettings) -> str:
    """What differs, as "max_batch_size 4 -> 8, precision full -> half"; empty where nothing does."""
    return ", ".join(f"{key} {old} -> {new}" for key, old, new in changed_keys(before, after))


def share_cell(share: float) -> str:
    """A share in percent, with a decimal below a tenth."""
    return f"{share:.0%}" if share >= 0.1 else f"{share:.1%}"


def comparison_table(
    rows: Sequence[ComparisonRow],
    params: Params,
    causes: Mapping[str, str] | None = None,
    device: str | None = None,
) -> str:
    """The table of results, the fastest first.

    Args:
        causes: what holds each back; without them this column is left out.
        device: cpu or cuda: for a page, in Markdown, with the settings as they run on it; None: for a
            terminal, without the settings, whose column is wider than all others.
    """
    reference, configurations = params.comparison.reference, params.configurations()
    ordered = fastest_first(rows)
    head = ["configuration", "settings", "req/s", f"times {reference}", "of the fastest", "rank", "p95"]
    cells = []
    for row in ordered:
        share, p95 = row.share_of_fastest, f"n/a ({row.answers} of {P95_ANSWERS} answers)"
        cells.append(
            [
                f"`{row.experiment}`" if device else row.experiment,
                describe(configurations[row.experiment], device or ""),
                number_cell(row.rate_rps, 1),
                ratio_text(row, reference),
                "-" if share is None else share_cell(share),
                f"earlier, {row.earlier}" if row.earlier else number_cell(row.rank, 0),
                p95 if row.p95_ms is None else f"{row.p95_ms:,.0f} ms",
            ]
        )
    if device:
        table = markdown_table(head, cells, text_columns=2)
    else:
        head, *cells = ([line[0], *line[2:]] for line in (head, *cells))
        table = text_table(head, cells)
    if not causes:
        return table
    # The last column is text, to the left.
    last = ["held back by", "---", *(causes.get(row.experiment, "") for row in ordered)]
    return "\n".join(f"{line} {cell} |" for line, cell in zip(table.splitlines(), last, strict=True))


def ratio_text(row: ComparisonRow, reference: str) -> str:
    """The ratio to the reference with its interval or bound; a dash where it is unknown."""
    if row.experiment == reference and row.ratio:
        return "1"
    if row.ratio is None and row.ratio_high is not None:
        return f"below {row.ratio_high:.2f}"
    return ratio_cell(row.ratio, row.ratio_low, row.ratio_high)


def pairs_table(found: Sequence[Pair]) -> str:
    """What `litmeter compare` found, a row per pair."""
    rows = [
        [
            f"{pair.name} / {pair.other}",
            ratio_cell(pair.ratio, pair.low, pair.high),
            pair.verdict,
            f"{number_cell(pair.p95_ms, 0)} / {number_cell(pair.other_p95_ms, 0)}",
            ratio_cell(pair.p95_ratio, pair.p95_low, pair.p95_high),
            pair.p95_verdict,
        ]
        for pair in found
    ]
    return text_table(["pair", "times the rate", "", "p95 ms", "times the p95", ""], rows)


def capacity_text(metrics: CapacityMetrics) -> str:
    """What follows the server's name in a sentence of its capacity."""
    within = f"with {100 * (1 - metrics.miss):.4g}% of them within {metrics.slo_ms:g} ms"
    if metrics.status == "above_range":
        return f"takes at least {metrics.low_rps:.1f} requests a second {within}: {metrics.reason}"
    if metrics.status == "slo_unreachable":
        return f"has no rate of requests {within}: {metrics.reason}"
    if metrics.capacity_rps is None:
        return f"has an unknown rate of requests {within}: {metrics.reason}"
    interval = "" if metrics.low_rps is None else f" ({metrics.low_rps:.1f} to {metrics.high_rps:.1f})"
    text = f"takes {metrics.capacity_rps:.1f} requests a second{interval} {within}"
    return f"{text}; {metrics.reason}" if metrics.reason else text
