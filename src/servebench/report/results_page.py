"""``servebench results``: write docs/results.md, and the table of results in README.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from servebench.benchmark.capacity_rows import CapacityMetrics
from servebench.benchmark.describe import describe
from servebench.benchmark.rows import ComparisonRow, LevelRow
from servebench.errors import ModelError, ReportError
from servebench.params import CANDIDATE, Params, load_params
from servebench.paths import CEILINGS, COMPARISON, MACHINE, README, RESULTS_PAGE, TRAIN_METRICS
from servebench.report.accuracy_tables import accuracy_table, precision_table
from servebench.report.bounds import BOUND_NAMES, Bound
from servebench.report.capacity import capacity_sentence, read_capacity
from servebench.report.comparison import compared_rows, verdict
from servebench.report.explain import Explanation, explain
from servebench.report.results import Result, read_results
from servebench.report.tables import remarks
from servebench.report.tune import tune_section
from servebench.system.documents import write_section, write_text
from servebench.system.files import all_or_nothing, read_json
from servebench.system.machine import describe_machine
from servebench.system.rows import read_rows
from servebench.system.tables import markdown_table, number_cell, pluralise

BEGIN = "<!-- results: written by `servebench results` -->"
END = "<!-- end of results -->"
PICTURES = "../assets/results"


def write_results() -> None:
    """Write the page, and replace what stands between the markers in README.md.

    Raises:
        ReportError: README.md lacks a marker, or a result is missing.
    """
    params = load_params()
    results = read_results(params)
    compared = compared_rows(read_rows(COMPARISON, ComparisonRow), params)
    explanation = explain(results, read_json(CEILINGS))
    with all_or_nothing():
        write_section(README, BEGIN, END, readme_section(params, results, compared, explanation))
        write_text(RESULTS_PAGE, page(params, results, compared, explanation))
    print(f"{README}, {RESULTS_PAGE}: results written")


def readme_section(
    params: Params, results: Sequence[Result], compared: Sequence[ComparisonRow], explanation: Explanation
) -> str:
    """The machine, a row per configuration, and which is fastest."""
    machine = read_json(MACHINE)
    rows = [
        [
            f"`{result.name}`",
            describe(result.serve, result.run["device"]),
            number_cell(row.rate_rps, 1),
            _ratio_cell(row, params.comparison.reference),
            number_cell(row.rank, 0),
            number_cell(row.p95_ms, 0),
            explanation.diagnoses[result.name].cause,
        ]
        for result, row in zip(results, compared, strict=True)
    ]
    times = f"times {params.comparison.reference}"
    head = ["configuration", "settings", "req/s", times, "rank", "p95 ms", "held back by"]
    setting = (
        f"{machine['cpu']}, {pluralise(machine['cores'], 'core')}, {machine['gpu'] or 'no GPU'}; "
        f"{read_json(CEILINGS)['architecture']} at {params.model.image_size} px. All configurations served "
        f"at once and loaded in turn, at {pluralise(params.comparison.users[0], 'user')} (95% intervals; the "
        "same rank where no difference is resolved):"
    )
    table = markdown_table(head, rows, text_columns=2)
    sentences = [*verdict(compared, params), *emulated(results, machine)]
    capacity = [capacity_sentence(*item) for item in capacities(params).items() if item[0] == CANDIDATE]
    return "\n\n".join([setting, table, " ".join(sentences), *capacity])


def capacities(params: Params) -> dict[str, CapacityMetrics]:
    """The capacity of each configuration of the objective, where it has been measured."""
    found = {}
    for name in params.objective.configurations:
        with suppress(ReportError, ModelError):  # `make capacity` is asked for by name
            found[name] = read_capacity(params, name)
    return found


def emulated(results: Sequence[Result], machine: Mapping[str, Any]) -> list[str]:
    """A sentence if the CPU has no instructions for a format that configurations compute in."""
    names = [result.name for result in results if result.run["dtype"] == "bfloat16"]
    if not names or any("bf16" in flag for flag in machine["cpu_flags"]):
        return []
    return [
        f"This CPU has no instructions for bfloat16 and emulates it, many times slower and not compiled: "
        f"{', '.join(names)}."
    ]


def page(
    params: Params, results: Sequence[Result], compared: Sequence[ComparisonRow], explanation: Explanation
) -> str:
    """The whole page in Markdown."""
    ceilings = read_json(CEILINGS)
    doubts = [*remarks(results), *explanation.errors]
    parts = [
        "# Results",
        "`make run` writes this page. How each number is measured: [measuring.md](measuring.md); what the "
        "bounds and causes mean: [bounds-and-diagnosis.md](bounds-and-diagnosis.md).",
        _provenance(params, results, ceilings),
        "## Compared in turn",
        " ".join([*verdict(compared, params), *emulated(results, read_json(MACHINE))]),
        _comparison_table(compared, params.comparison.reference),
        f"![Times the rate of the reference, with intervals]({PICTURES}/ratios.png)",
        *_capacity_section(capacities(params)),
        *tune_section(),
        "## Each by itself",
        "One after the other, on a machine that may have changed between them: for bounds and latencies, "
        "not for comparing. The number of users is the one that was fastest in the first runs, and fewer "
        "users where the difference lies within the interval; the figures are those of a later run. A "
        "dash: too few answers (a p95 needs 130).",
        _rates_table(results),
        *(["\n".join(f"- {line}" for line in doubts)] if doubts else []),
        f"![Served rate, throughput and latency of all configurations]({PICTURES}/comparison.png)",
        f"![p95 latency over throughput]({PICTURES}/latency.png)",
        "## Accuracy through the served path",
        accuracy_table(results),
        "## What a precision costs, and what it brings",
        "Answers without a server, compared with timm's model in full precision on the same photos: share "
        "with the same label (with 95% certainty it is at least the next figure), the share with the right "
        "label and its change in points, the changes of probabilities, and the divergence of Kullback and "
        "Leibler in nats. `test` are photos that the model has not seen; `ms an image` is the time of the "
        "compiled model on one thread. More: [tuning.md](tuning.md#int8).",
        precision_table(),
        "## What holds each back",
        "From the hardware's peak down to the served rate, in images/s = requests/s; × is the share of the "
        "bound to the left. A share above 1 is the machine's noise, unless it is listed above as an error of "
        "measuring.",
        _bounds_table(results, explanation),
        f"![From each bound to the next, what is lost]({PICTURES}/waterfall.png)",
        "\n".join(f"- `{name}`: {diagnosis.text}" for name, diagnosis in explanation.diagnoses.items()),
        "## Where a request's time goes",
        f"![Stages of a request at the best level]({PICTURES}/stages.png)",
        f"![Sizes of batches by concurrency]({PICTURES}/batch_sizes.png)",
        "## Each configuration",
        "\n\n".join(f"![{result.name}]({PICTURES}/{result.name}.png)" for result in results),
    ]
    return "\n\n".join(parts) + "\n"


def _capacity_section(measured: Mapping[str, CapacityMetrics]) -> list[str]:
    """What each can take, with a picture of its probes; empty where nothing was measured."""
    if not measured:
        return []
    sentences = [f"- {capacity_sentence(name, metrics)}" for name, metrics in measured.items()]
    pictures = [
        f"![{name}: late requests and latencies by rate](../assets/capacity/{name}.png)"
        for name, metrics in measured.items()
        if metrics.probes
    ]
    return ["## How much traffic it takes", "\n".join(sentences), *pictures]


def _comparison_table(compared: Sequence[ComparisonRow], reference: str) -> str:
    rows = [
        [
            f"`{row.experiment}`",
            number_cell(row.rank, 0),
            number_cell(row.rate_rps, 1),
            "-" if row.lowest_rps is None else f"{row.lowest_rps:.1f} to {row.highest_rps:.1f}",
            _ratio_cell(row, reference),
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
        "p50 ms",
        "p95 ms",
        "p95's 95% interval",
        "rounds",
    ]
    return markdown_table(head, rows)


def _ratio_cell(row: ComparisonRow, reference: str) -> str:
    if row.ratio is None:
        return "-"
    if row.experiment == reference:
        return "1"
    interval = "" if row.ratio_low is None else f" ({row.ratio_low:.2f} to {row.ratio_high:.2f})"
    return f"{row.ratio:.2f}{interval}"


def _provenance(params: Params, results: Sequence[Result], ceilings: Mapping[str, Any]) -> str:
    machine, train = read_json(MACHINE), read_json(TRAIN_METRICS)
    return (
        f"Measured on {describe_machine(machine)}. {ceilings['architecture']} at "
        f"{params.model.image_size} px, {params.data.task}: accuracy {train['test_accuracy']:.3f} on "
        f"{train['test_images']} test photos (95% interval {train['test_accuracy_low']:.3f} to "
        f"{train['test_accuracy_high']:.3f}). One image costs {ceilings['macs'] / 1e9:.3f} GMACs, "
        f"{ceilings['flops'] / 1e9:.3f} GFLOPs; the peak is {ceilings['peak_full_tflops']:.3f} TFLOP/s in "
        f"full and {ceilings['peak_half_tflops']:.3f} in half precision ({ceilings['peak_source']}), the "
        f"memory's bandwidth {ceilings['bandwidth_gbs']:.1f} GB/s (measured). A worker has "
        f"{pluralise(results[0].run['threads_per_worker'], 'thread')} where no other number stands. "
        f"Every user sends {'image files' if params.load.request_body == 'image' else 'base64 in JSON'}."
    )


def _rates_table(results: Sequence[Result]) -> str:
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
    return markdown_table(head, rows)


def _interval(best: LevelRow | None, digits: int, low: str, high: str) -> str:
    """The interval between two columns of the best level's row."""
    ends = [getattr(best, column) for column in (low, high)] if best else [None, None]
    return "-" if None in ends else " to ".join(number_cell(end, digits) for end in ends)


def _bounds_table(results: Sequence[Result], explanation: Explanation) -> str:
    """A row per configuration: its diagnosis, and every bound with its share of the one before."""
    rows = []
    for result in results:
        bounds = {bound.name: bound for bound in explanation.bounds[result.name]}
        diagnosis = explanation.diagnoses[result.name]
        parameter = f"`{diagnosis.parameter}`" if diagnosis.parameter else "-"
        cells = [_bound_cell(bounds[name]) if name in bounds else "-" for name in BOUND_NAMES]
        null_rps = number_cell(result.run["null_rps"], 0)
        rows.append([f"`{result.name}`", diagnosis.cause, parameter, *cells, null_rps])
    head = [
        "configuration",
        "held back by",
        "key for the first cause",
        *BOUND_NAMES,
        "model that does nothing",
    ]
    return markdown_table(head, rows, text_columns=3)


def _bound_cell(bound: Bound) -> str:
    share = "" if bound.share is None else f" (×{bound.share:.2f})"
    return f"{number_cell(bound.rate_rps, 1)}{share}"
