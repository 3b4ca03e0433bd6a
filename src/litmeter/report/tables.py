"""Tables for terminal and pages, rows of the files that DVC plots, and texts in both."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from litmeter.classifier.model.rows import PackageRow, PrecisionRow, image_ms
from litmeter.kinds.configuration import Configuration
from litmeter.kinds.costs import CostCeiling
from litmeter.measure.capacity import CapacityMetrics
from litmeter.measure.comparison_rows import Counted, Pair, counted
from litmeter.measure.levels import by_users, reported
from litmeter.measure.rows import ComparisonRow, TurnRow
from litmeter.params import changed_settings
from litmeter.report.diagnosis import BOUND_NAMES, Bound, share_cell
from litmeter.report.results import Result, fastest_first, mean
from litmeter.say.tables import (
    markdown_cell,
    markdown_table,
    number_cell,
    p95_name,
    pluralise,
    rate_cell,
    rate_name,
    ratio_cell,
    significant,
    stream_columns,
    text_table,
    with_texts,
    without_empty,
)
from litmeter.settings import CANDIDATE
from litmeter.stats.ratios import Ratio
from litmeter.system.files import rounded
from litmeter.tune.rows import KnobRow, TuneRow

P95_ANSWERS = 130
"""Fewest answers for a 95th percentile."""
Row = dict[str, Any]
BUSY = ("cpu_percent", "gpu_percent")
BEST = "best req/s (users)"
ALONE = {
    "ready_s": ("ready s", 1),
    "memory_mib": ("memory MiB", 0),
    "lone_p50_ms": ("p50 ms, 1 user", 1),
    "throughput_rps": (BEST, 1),
    "null_rps": ("null server req/s", 0),
    "cpu_percent": ("CPU %", 0),
    "gpu_percent": ("GPU %", 0),
    "photos": ("test photos", 0),
    "agreement": ("agreement", 3),
    "accuracy": ("accuracy", 3),
    "failed": ("failed", 0),
}
"""Heads and decimals of a configuration's figures alone: BUSY at its most users, else metrics/benchmark."""


def changes_text(changes: Mapping[str, Sequence[Any]]) -> str:
    """Each key with its values before and after, as "max_batch_size 4 -> 8"."""
    return ", ".join(f"{key} {value_text(old)} -> {value_text(new)}" for key, (old, new) in changes.items())


def value_text(value: Any) -> str:
    """A value as params.yaml has it."""
    return json.dumps(value).strip('"')


def differences(settings: Mapping[str, Configuration], device: str) -> list[str]:
    """A line for each configuration: the first in full, the others by what differs from it.

    A configuration of another kind, or without knobs, is shown in full, too.
    """
    (reference, first), *others = settings.items()

    def whole(serve: Configuration) -> str:
        return serve.describe(device) if serve.knobs else serve.spec

    lines = [f"{reference}: {whole(first)}"]
    for name, serve in others:
        changes = changed_settings(first, serve)
        keys = ", ".join(f"{key} {value_text(new)}" for key, (_, new) in changes.items())
        alike = type(serve) is type(first) and serve.knobs
        lines.append(f"{name}: {(keys or f'the same as {reference}') if alike else whole(serve)}")
    return lines


def comparison_table(
    rows: Sequence[ComparisonRow],
    reference: str,
    configurations: Mapping[str, Configuration],
    causes: Mapping[str, str] | None = None,
    device: str | None = None,
    ran: Mapping[str, str] = {},
) -> str:
    """The table of results, the fastest first.

    Args:
        configurations: as they run.
        causes: by configuration, what holds it back, or why that is unknown; without them, no such column.
        device: cpu or cuda for a page in Markdown, with the settings on that device; None for a terminal,
            where a column of settings would be too wide.
        ran: by configuration, further settings, which its server has chosen.
    """

    def cells(row: ComparisonRow) -> list[str]:
        name, share = row.experiment, row.share_of_fastest
        settings = configurations[name].describe(device or "cpu")
        if name != CANDIDATE and configurations[name] == configurations.get(CANDIDATE):
            settings = f"same as `{CANDIDATE}`"
        if name in ran:
            settings += f": {ran[name]}"
        return [
            *([f"`{name}`", settings] if device else [name]),
            rate_cell(row.rate_rps),
            ratio_text(row, reference),
            "-" if share is None else share_cell(Ratio(share, row.share_low, row.share_high)),
            f"earlier, {row.earlier}" if row.earlier else number_cell(row.rank, 0),
            f"n/a ({'requests fail' if row.fails else f'{row.answers} of {P95_ANSWERS} answers'})"
            if row.p95_ms is None
            else f"{row.p95_ms:,.0f} ms",
        ]

    ordered, second = fastest_first(rows), ["settings"] if device else []
    unit = counted(rows)
    of = "" if unit in (None, "requests") else f" ({unit})"
    head = ["configuration", *second, "req/s", f"times {reference}{of}", "of the fastest", "rank", "p95"]
    heads, streams = stream_columns([row.stream for row in ordered])
    head += heads
    lines = [cells(row) + stream for row, stream in zip(ordered, streams, strict=True)]
    table = markdown_table(head, lines, text_columns=2) if device else text_table(head, lines)
    if not causes:
        return table
    texts = [" ".join(causes[row.experiment].split()) for row in ordered]
    return with_texts(table, "held back by", list(map(markdown_cell, texts)) if device else texts)


def ratio_text(row: ComparisonRow, reference: str) -> str:
    """The ratio to the reference with its interval, or its upper bound; a dash where it is unknown."""
    if row.experiment == reference and row.ratio:
        return "1"
    if row.ratio is None and row.ratio_high is not None:
        return f"below {row.ratio_high:.2f}"
    return ratio_cell(row.ratio, row.ratio_low, row.ratio_high)


def pairs_table(found: Sequence[Pair], unit: Counted | None, streams: bool) -> str:
    """The pairs of `litmeter compare`, a row each; ``unit`` is what their rates count."""
    rows = [
        [
            f"{pair.name} / {pair.other}",
            ratio_cell(pair.ratio, pair.low, pair.high),
            "not compared" if pair.ratio is None else pair.verdict,
            f"{number_cell(pair.p95_ms, 0)} / {number_cell(pair.other_p95_ms, 0)}",
            ratio_cell(pair.p95_ratio, pair.p95_low, pair.p95_high),
            f"n/a (below {P95_ANSWERS} answers)" if pair.p95_ratio is None else pair.p95_verdict,
        ]
        for pair in found
    ]
    p95 = p95_name(streams)
    return text_table(["pair", f"times the {rate_name(unit)}", "", f"{p95} ms", f"times the {p95}", ""], rows)


def capacity_text(metrics: CapacityMetrics) -> str:
    """The part of a sentence about a server's capacity that follows its name."""
    within = f"{100 * (1 - metrics.miss):.4g}% of them {metrics.limits.text}"
    ends = (metrics.low_rps, metrics.capacity_rps, metrics.high_rps)
    low, rate, high = (value and significant(value) for value in ends)
    if metrics.status == "slo_unreachable":
        text = f"has no rate of requests with {within}"
    elif metrics.status == "resolved":
        text = f"takes {low} to {high} requests a second (90% certain), {within}"
    elif high:
        text = f"takes {rate} requests a second (90% certain: {low} to {high}), {within}"
    elif low:
        text = f"takes at least {low} requests a second, {within}"
    else:
        text = f"takes {f'about {rate}' if rate else 'an unknown number of'} requests a second, {within}"
    if metrics.mean_s and rate and (metrics.first_ms or metrics.piece_ms):
        readers = [end and significant(end * metrics.mean_s) for end in ends]
        spread = f" ({readers[0]} to {readers[2]})" if all(readers) else ""
        text += f": {readers[1]} answers{spread} under way at once, {significant(metrics.mean_s)} s each"
    unresolved = "unresolved: " if metrics.status == "unresolved" else ""
    return f"{text}; {unresolved}{metrics.reason}" if metrics.reason else text


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Each name up to its first underscore, where that is unique: e1 for e1_baseline."""
    prefixes = {name: name.split("_")[0] for name in names}
    counts = Counter(prefixes.values())
    return {name: prefix if counts[prefix] == 1 else name for name, prefix in prefixes.items()}


def summary(compared: Sequence[ComparisonRow]) -> dict[str, float]:
    """Requests per second of each configuration by its short name, with three significant digits.

    0 where nothing was answered: DVC would leave out a column without a value.
    """
    short = short_names([row.experiment for row in compared])
    by_name = {short[row.experiment]: float(f"{row.rate_rps or 0.0:.3g}") for row in compared}
    # The candidate, which `-S serve.…` changes, comes first: a terminal cuts off the last columns.
    return dict(sorted(by_name.items(), key=lambda item: item[0] != CANDIDATE))


LEVEL_COLUMNS = {
    "throughput_rps": "rate_rps",
    **{name: name for name in ("p50_ms", "p95_ms", "p99_ms", "batch_size")},
}


def level_rows(results: Sequence[Result]) -> list[Row]:
    """Each configuration alone, by number of users: means of turns, None where a turn lacks the figure."""

    def value(rows: Sequence[TurnRow], column: str) -> float | None:
        known = all(getattr(row, column) is not None for row in rows)
        return rounded(mean(rows, column), 2) if known else None

    return [
        {"experiment": result.name, "users": users}
        | {name: value(rows, column) for name, column in LEVEL_COLUMNS.items()}
        for result in results
        for users, rows in sorted(by_users(result.alone, result.name).items())
    ]


def bound_rows(bounds: Mapping[str, Sequence[Bound]]) -> list[Row]:
    """Every bound of every configuration, with its share of the bound before."""
    return [
        {
            "experiment": name,
            "bound": bound.name,
            "rate_rps": round(bound.rate_rps, 2),
            "share": round(bound.share.ratio, 3) if bound.upper else None,
            "share_low": rounded(bound.share.low, 3),
            "share_high": rounded(bound.share.high, 3),
        }
        for name, own in bounds.items()
        for bound in own
    ]


def levels_table(results: Sequence[Result]) -> str:
    """Each configuration alone: start, memory, accuracy, a lone user's latency, the best level's rate."""
    rows = []
    for result in results:
        levels = by_users(result.alone, result.name)
        figures = {**vars(result.metrics), **{column: mean(levels[max(levels)], column) for column in BUSY}}
        cells = {head: number_cell(figures[key], digits) for key, (head, digits) in ALONE.items()}
        if best := reported(levels):
            cells[BEST] += f" ({best.users})"
        rows.append([f"`{result.name}`", *cells.values()])
    return markdown_table(*without_empty(["configuration", *(head for head, _ in ALONE.values())], rows))


def bounds_table(bounds: Mapping[str, Sequence[Bound]]) -> str:
    """A row per configuration: every bound with its share of the bound before."""
    rows = []
    for name, own in bounds.items():
        cells = {
            bound.name: rate_cell(bound.rate) + (f" ({share_cell(bound.share)})" if bound.upper else "")
            for bound in own
        }
        rows.append([f"`{name}`", *(cells.get(bound, "-") for bound in BOUND_NAMES)])
    return markdown_table(*without_empty(["configuration", *BOUND_NAMES], rows))


def costs_table(ceilings: Mapping[str, CostCeiling]) -> str:
    """A row per configuration: the costs of an answer, and the peaks by which its roofline is found."""
    head = ["configuration", "numbers", "weights MB", "read at GB/s", "TFLOP/s", "at once", "bound by"]
    rows = [
        [
            f"`{name}`",
            one.costs.dtype,
            significant(one.costs.weights_bytes / 1e6),
            significant(one.reading_gbs),
            significant(one.peak_tflops),
            str(one.at_once),
            one.roofline_bound or "-",
        ]
        for name, one in ceilings.items()
    ]
    return markdown_table(head, rows, 2)


PRECISION_CELLS: Mapping[str, Callable[[PrecisionRow, Sequence[PackageRow]], str]] = {
    "precision": lambda row, _: row.precision,
    "preprocess": lambda row, _: row.preprocess,
    "ms an image": lambda row, packages: number_cell(image_ms(packages, row.precision), 1),
    "photos": lambda row, _: f"{row.photos} {row.split}",
    "same label": lambda row, _: f"{row.agreement:.1%}",
    "at least": lambda row, _: f"{row.agreement_low:.1%}",
    "accuracy": lambda row, _: f"{row.accuracy:.1%}",
    "change": lambda row, _: f"{100 * row.accuracy_change:+.1f}",
    "probability, mean change": lambda row, _: f"{row.mean_change:.4f}",
    "largest": lambda row, _: f"{row.largest_change:.3f}",
    "divergence": lambda row, _: f"{row.divergence:.5f}",
}


def precision_table(
    changes: Sequence[PrecisionRow], packages: Sequence[PackageRow]
) -> tuple[list[str], list[list[str]]]:
    """Head and rows: what each precision costs and brings."""
    return [*PRECISION_CELLS], [[cell(row, packages) for cell in PRECISION_CELLS.values()] for row in changes]


def fate(row: TuneRow) -> str:
    """What became of a configuration in the search, and when it left."""
    left = row.status == "slower" and row.eliminated_after_rounds is not None
    return row.reason or row.status + (f", left in round {row.eliminated_after_rounds}" if left else "")


def at_users(users: int) -> str:
    """The number of users for which a search holds."""
    return f"fastest at {pluralise(users, 'user')}; with more or fewer others may be"


TUNE_CELLS: dict[str, Callable[[TuneRow], str]] = {
    "configuration": lambda row: row.name + (" (serve:)" if row.incumbent else ""),
    "result": fate,
    "req/s": lambda row: rate_cell(row.rate_rps),
    "times serve:": lambda row: ratio_cell(row.over_serve, row.over_serve_low, row.over_serve_high),
    "p95 ms": lambda row: number_cell(row.p95_ms, 0),
    "MiB": lambda row: number_cell(row.memory_mib, 0),
    "agreement": lambda row: "-" if row.agreement is None else f"{row.agreement:.1%}",
    "rounds": lambda row: str(row.rounds),
}


def tune_table(rows: Sequence[TuneRow]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a search, without columns that have no content."""
    return without_empty(list(TUNE_CELLS), [[cell(row) for cell in TUNE_CELLS.values()] for row in rows], 2)


def searched_tables(rows: Sequence[TuneRow], knobs: Sequence[KnobRow]) -> tuple[str, str]:
    """Tables of the finalists, and of what another value of one key would be worth."""
    finalists = [row for row in rows if row.status in ("winner", "equal", "not resolved")]
    worth = [
        [f"`{row.knob}`", row.value, ratio_cell(row.ratio, row.ratio_low, row.ratio_high)] for row in knobs
    ]
    head = ["key", "value", "times the winner's rate"]
    return markdown_table(*tune_table(finalists), 2), markdown_table(head, worth, 2)
