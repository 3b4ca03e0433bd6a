"""The results in sections of Markdown, of which docs/results.md and report.html are made."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from litmeter.benchmark.rows import ComparisonRow, LevelRow
from litmeter.report.accuracy_tables import accuracy_table, precision_table
from litmeter.report.answer import cause_cell, finding
from litmeter.report.bounds import BOUND_NAMES, Bound
from litmeter.report.capacity import capacity_sentence
from litmeter.report.comparison import named, range_text, ratio_text, verdict
from litmeter.report.printed import describe, efficiency_text
from litmeter.report.results import Result
from litmeter.report.snapshot import Snapshot
from litmeter.report.tables import remarks
from litmeter.report.tune import tune_text
from litmeter.system.machine import describe_machine
from litmeter.system.tables import markdown_table, number_cell, pluralise, without_empty

CAUSES = (
    "Each by its own benchmark, at the number of users that was fastest there. The roofline is the rate that "
    "the measured peak of arithmetic and of memory allows. Hardware: the model reaches at least 70% of it. "
    "Kernels: it stays below. Preprocessing: decoding and preparing photos costs the rate. Batch window: "
    "requests wait for a batch that does not fill. Too many workers: they take the cores from each other. "
    "Other load: other processes or the hypervisor take more than 10% of the machine. Drift: the same work's "
    "rate changed meanwhile. Unexplained: no rule fits. A or B: it is not "
    "resolved which."
)

EFFICIENCY = (
    "Efficiency is the served rate over that of the same decode, preprocess and model in-process, in the "
    "same rounds. A dash: the configuration is far behind, or there was no time or memory for its pipeline."
)


@dataclass(frozen=True)
class Part:
    """A section.

    Attributes:
        text: in Markdown, without its pictures; empty where these say everything.
        pictures: what each shows, and its path below assets/.
        reasons: that follow the text, in HTML; report.html has them elsewhere.
    """

    title: str
    text: str
    pictures: Sequence[tuple[str, str]] = ()
    reasons: str = ""


def parts(snapshot: Snapshot) -> Iterator[Part]:
    """All sections."""
    yield Part(
        "Compared in turn",
        "\n\n".join(
            [
                " ".join([*verdict(snapshot.compared, snapshot.params), *emulated(snapshot)]),
                comparison_table(snapshot.compared, snapshot.reference),
                *([EFFICIENCY] if any(row.efficiency for row in snapshot.compared) else []),
            ]
        ),
        [
            ("Times the rate of the reference, with intervals", "results/comparison.png"),
            ("Latency over rate", "results/latency.png"),
        ],
    )
    if snapshot.capacities:
        lines = [
            f"- {capacity_sentence(name, result.metrics)}" for name, result in snapshot.capacities.items()
        ]
        yield Part(
            "How much traffic it takes",
            "\n".join(lines),
            [
                (f"{name}: late requests and latencies by rate", f"capacity/{name}.png")
                for name, result in snapshot.capacities.items()
                if result.metrics.probes
            ],
        )
    if snapshot.tuned:
        yield Part(
            "What the search found",
            tune_text(snapshot.tuned),
            [("All that raced: predicted and measured rates", "tune.png")],
        )
    doubts = [*remarks(snapshot.results), *snapshot.explanation.errors]
    yield Part(
        "Each by itself",
        "\n\n".join(
            [
                "One after the other, on a machine that may have changed between them: for bounds and "
                "latencies, not for comparing. The number of users is the one that was fastest in the "
                "runs that choose it, and fewer users where the difference lies within the interval; the "
                "figures are those of a later run. A dash: too few answers (a p95 needs 130). Efficiency: "
                "the rate over that of decode, preprocess and model in-process, with batches that the server "
                "can form.",
                rates_table(snapshot.results),
                *(["\n".join(f"- {line}" for line in doubts)] if doubts else []),
            ]
        ),
    )
    yield Part("Accuracy through the served path", accuracy_table(snapshot.results))
    yield Part(
        "What a precision costs, and what it brings",
        "Answers without a server, compared with timm's model in full precision on the same photos: share "
        "with the same label (with 95% certainty it is at least the next figure), the share with the right "
        "label and its change in points, the changes of probabilities, and the divergence of Kullback and "
        "Leibler in nats. `test` are photos that the model has not seen, `other` those of its training; "
        "`ms an image` is the compiled model's time on one thread. More: [tuning.md](tuning.md#int8).\n\n"
        + precision_table(snapshot.changes, snapshot.packages),
    )
    yield Part(
        "What holds each back",
        "From the hardware's peak down to the served rate, in images/s = requests/s; × is the share of the "
        'bound to the left. A share above 1 is the machine\'s noise, unless "Each by itself" lists it as an '
        f"error of measuring. Null server: with a model that does nothing.\n\n{bounds_table(snapshot)}",
        reasons=findings(snapshot),
    )
    yield Part(
        "Where a request's time goes",
        "",
        [
            ("Stages of a request at the best level", "results/stages.png"),
            ("Sizes of batches by concurrency", "results/batch_sizes.png"),
        ],
    )
    yield Part(
        "Each configuration",
        "",
        [(result.name, f"results/{result.name}.png") for result in snapshot.results],
    )


def configurations_table(snapshot: Snapshot) -> str:
    """A row per configuration: its settings, how fast it is, and what holds it back."""
    rows = [
        [
            named(row),
            describe(result.serve, result.run["device"]),
            number_cell(row.rate_rps, 1),
            ratio_text(row, snapshot.reference),
            number_cell(row.rank, 0),
            number_cell(row.p95_ms, 0),
            cause_cell(result, snapshot),
        ]
        for result, row in zip(snapshot.results, snapshot.compared, strict=True)
    ]
    times = f"times {snapshot.reference}"
    head = ["configuration", "settings", "req/s", times, "rank", "p95 ms", "held back by"]
    return markdown_table(head, rows, text_columns=2)


def findings(snapshot: Snapshot) -> str:
    """A sentence per configuration, its reasons folded behind it."""
    return "\n\n".join(
        f"<details><summary>{code(finding(name, snapshot))}</summary>\n\n{diagnosis.text}\n\n</details>"
        for name, diagnosis in snapshot.explanation.diagnoses.items()
    )


def code(text: str) -> str:
    """What stands between backticks as HTML's code, as Markdown looks for none within HTML."""
    return re.sub("`([^`]*)`", r"<code>\1</code>", text)


def emulated(snapshot: Snapshot) -> list[str]:
    """A sentence if the CPU has no instructions for a format that configurations compute in."""
    names = [result.name for result in snapshot.results if result.run["dtype"] == "bfloat16"]
    if not names or any("bf16" in flag for flag in snapshot.machine["cpu_flags"]):
        return []
    return [
        f"This CPU has no instructions for bfloat16 and emulates it, many times slower and not compiled: "
        f"{', '.join(names)}."
    ]


def provenance(snapshot: Snapshot) -> str:
    """The machine, the model with its accuracy and cost, and the peaks."""
    params, ceilings, train = snapshot.params, snapshot.ceilings, snapshot.train
    form = "image files" if params.load.request_body == "image" else "base64 in JSON"
    return (
        f"Measured on {describe_machine(snapshot.machine)}. {ceilings['architecture']} at "
        f"{params.model.image_size} px, {params.data.task}: accuracy {train['test_accuracy']:.3f} on "
        f"{train['test_images']} test photos (95% interval {train['test_accuracy_low']:.3f} to "
        f"{train['test_accuracy_high']:.3f}). One image costs {ceilings['macs'] / 1e9:.3f} GMACs, "
        f"{ceilings['flops'] / 1e9:.3f} GFLOPs; the peak is {ceilings['peak_full_tflops']:.3f} TFLOP/s in "
        f"full and {ceilings['peak_half_tflops']:.3f} in half precision ({ceilings['peak_source']}), the "
        f"memory's bandwidth {ceilings['bandwidth_gbs']:.1f} GB/s (measured). A worker has "
        f"{pluralise(snapshot.results[0].run['threads_per_worker'], 'thread')} unless its settings say "
        f"otherwise. Every user sends {form}."
    )


def comparison_table(compared: Sequence[ComparisonRow], reference: str) -> str:
    """A row per configuration."""
    rows = [
        [
            named(row),
            number_cell(row.rank, 0),
            number_cell(row.rate_rps, 1),
            range_text(row),
            ratio_text(row, reference),
            efficiency_text(row),
            number_cell(row.p50_ms, 0),
            number_cell(row.p95_ms, 0),
            "-" if row.p95_low_ms is None else f"{row.p95_low_ms:.0f} to {row.p95_high_ms:.0f}",
            str(row.rounds),
        ]
        for row in compared
    ]
    head = [
        "configuration",
        "rank",
        "req/s",
        "slowest to fastest round",
        f"times {reference}",
        "efficiency",
        "p50 ms",
        "p95 ms",
        "p95's 95% interval",
        "rounds",
    ]
    return markdown_table(*without_empty(head, rows))


def rates_table(results: Sequence[Result]) -> str:
    """What each configuration's own benchmark measured."""
    rows = [
        [
            f"`{result.name}`" + ("" if not result.best or result.best.valid else " (not valid)"),
            number_cell(result.rps, 1),
            _interval(result.best, 1, "low_rps", "high_rps"),
            number_cell(result.metrics["users"], 0),
            number_cell(result.metrics["p50_ms"], 0),
            number_cell(result.metrics["p95_ms"], 0),
            _interval(result.best, 0, "p95_low_ms", "p95_high_ms"),
            number_cell(result.metrics["p99_ms"], 0),
            number_cell(result.metrics["efficiency"], 2),
            number_cell(result.metrics["cpu_percent"], 0),
            number_cell(result.metrics["gpu_percent"], 0),
            number_cell(result.metrics["ready_s"], 1),
            number_cell(result.metrics["memory_mib"], 0),
            number_cell(result.metrics["failed"], 0),
        ]
        for result in results
    ]
    head = [
        "configuration",
        "req/s",
        "its 95% interval",
        "users",
        "p50 ms",
        "p95 ms",
        "p95's 95% interval",
        "p99 ms",
        "efficiency",
        "CPU %",
        "GPU %",
        "ready s",
        "memory MiB",
        "failed",
    ]
    return markdown_table(*without_empty(head, rows))


def _interval(best: LevelRow | None, digits: int, low: str, high: str) -> str:
    """The interval between two columns of the best level's row."""
    ends = [getattr(best, column) for column in (low, high)] if best else [None, None]
    return "-" if None in ends else " to ".join(number_cell(end, digits) for end in ends)


def bounds_table(snapshot: Snapshot) -> str:
    """A row per configuration: its diagnosis, and every bound with its share of the one before."""
    rows = []
    explanation = snapshot.explanation
    for result in snapshot.results:
        bounds = {bound.name: bound for bound in explanation.bounds[result.name]}
        diagnosis = explanation.diagnoses[result.name]
        parameter = f"`{diagnosis.parameter}`" if diagnosis.parameter else "-"
        cells = [_bound_cell(bounds[name]) if name in bounds else "-" for name in BOUND_NAMES]
        null_rps = number_cell(result.run["null_rps"], 0)
        rows.append([f"`{result.name}`", cause_cell(result, snapshot), parameter, *cells, null_rps])
    head = [
        "configuration",
        "held back by",
        "key for the first cause",
        *BOUND_NAMES,
        "null server",
    ]
    return markdown_table(*without_empty(head, rows, 3), text_columns=3)


def _bound_cell(bound: Bound) -> str:
    share = "" if bound.share is None else f" (×{bound.share:.2f})"
    return f"{number_cell(bound.rate_rps, 1)}{share}"
