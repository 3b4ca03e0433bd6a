"""The results section of README.md, made from the metrics between two markers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from servebench.benchmark.run import describe
from servebench.device import describe_machine
from servebench.errors import ReportError
from servebench.params import Params, load_params
from servebench.paths import CEILINGS, MACHINE, SUMMARY, TRAIN_METRICS
from servebench.report.collect import Level, Result, collect
from servebench.report.ladder import RUNGS, Rung
from servebench.report.limit import counted
from servebench.report.markdown import cell, markdown_table
from servebench.report.run import Explained, explain, verdict
from servebench.report.study import STUDY_NOTES, study_table
from servebench.report.tables import remarks
from servebench.results import read_json, replacing

README = Path("README.md")
BEGIN = "<!-- results: written by `servebench readme` from metrics/ and plots/ -->"
END = "<!-- end of results -->"


def write_results_section() -> None:
    """Replace what stands between the markers.

    Raises:
        ReportError: README.md lacks a marker, or a result is missing.
    """
    text = README.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ReportError(f"{README}: the marker {BEGIN if not begin else END!r} is missing")
    content = f"{before}{BEGIN}\n\n{results_section()}\n\n{END}{after}"
    with replacing(README) as temporary:
        temporary.write_text(content, encoding="utf-8")
    print(f"{README}: results written")


def results_section() -> str:
    """The section in Markdown, from the committed results alone."""
    params = load_params()
    results = collect(params)
    ceilings = read_json(CEILINGS)
    explained = explain(results, ceilings)
    doubts = [*remarks(results), *explained.errors]
    parts = [
        _provenance(params, results, ceilings),
        _table(results),
        *(["\n".join(f"- {line}" for line in doubts)] if doubts else []),
        verdict(read_json(SUMMARY), params.load.slo_p95_ms).replace("\n", ". ") + ".",
        "![Served rate, throughput and latency of all configurations](assets/results/comparison.png)",
        "What holds each back, from the hardware's peak down to the served rate, in images/s = requests/s:",
        _ladder_table(results, explained),
        "![From each rung of the ladder to the next, what is lost](assets/results/waterfall.png)",
        "\n".join(f"- `{name}`: {limit.text}" for name, limit in explained.limits.items()),
        "Where a request's time goes, from inside the server:",
        "![Stages of a request at the best level](assets/results/stages.png)",
        "![p95 latency over throughput](assets/results/latency.png)",
        "![Sizes of batches by concurrency](assets/results/batch_sizes.png)",
        "One row per configuration, as DVC shows them:",
        f"```\n$ dvc metrics show metrics/benchmark\n{_dvc_metrics()}\n```",
        "The study that this replaces, on a T4 (g4dn.xlarge), its best level of each experiment:",
        study_table(),
        STUDY_NOTES,
    ]
    return "\n\n".join(parts)


def _provenance(params: Params, results: Sequence[Result], ceilings: Mapping[str, Any]) -> str:
    machine, train = read_json(MACHINE), read_json(TRAIN_METRICS)
    meta = results[0].meta
    return (
        f"Measured on {describe_machine(machine)}. {ceilings['architecture']} at "
        f"{params.model.image_size} px, {params.data.task}: accuracy {train['test_accuracy']:.3f} on "
        f"{train['test_images']} test photos (95% interval {train['test_accuracy_low']:.3f} to "
        f"{train['test_accuracy_high']:.3f}). One image costs {ceilings['macs'] / 1e9:.3f} GMACs, "
        f"{ceilings['flops'] / 1e9:.3f} GFLOPs; the peak is {ceilings['peak_full_tflops']:.3f} TFLOP/s in "
        f"full and {ceilings['peak_half_tflops']:.3f} in half precision ({ceilings['peak_source']}), the "
        f"memory's bandwidth {ceilings['bandwidth_gbs']:.1f} GB/s (measured). A worker has "
        f"{counted(meta['threads_per_worker'], 'thread')} where no other number stands."
    )


def _table(results: Sequence[Result]) -> str:
    rows = [
        [
            f"`{result.name}`" + ("" if not result.best or result.best.valid else " (not valid)"),
            describe(result.serve, result.meta["device"]),
            cell(result.rps, 1),
            _interval(result.best, 1, "low_rps", "high_rps"),
            cell(result.metrics["users"], 0),
            cell(result.metrics["p50_ms"], 0),
            cell(result.metrics["p95_ms"], 0),
            _interval(result.best, 0, "p95_low_ms", "p95_high_ms"),
            cell(result.metrics["p99_ms"], 0),
            cell(result.metrics["efficiency"], 2),
            cell(result.metrics["cpu_percent"], 0),
            cell(result.metrics["gpu_percent"], 0),
            cell(result.metrics["failed"], 0),
            _share(result.answers, "agreement"),
            _share(result.answers, "accuracy"),
        ]
        for result in results
    ]
    head = [
        "experiment",
        "configuration",
        "req/s",
        "95% interval",
        "users",
        "p50 ms",
        "p95 ms",
        "95% interval",
        "p99 ms",
        "efficiency",
        "CPU %",
        "GPU %",
        "failed",
        "agreement",
        "accuracy served",
    ]
    return markdown_table(head, rows)


def _interval(best: Level | None, digits: int, low: str, high: str) -> str:
    ends = [getattr(best, key) for key in (low, high)] if best else [None, None]
    return "-" if None in ends else " to ".join(cell(end, digits) for end in ends)


def _share(answers: Mapping[str, Any], key: str) -> str:
    if answers[key] is None:
        return "-"
    return f"{answers[key]:.3f} ({answers[f'{key}_low']:.3f} to {answers[f'{key}_high']:.3f})"


def _ladder_table(results: Sequence[Result], explained: Explained) -> str:
    """A row per configuration: every rung with its share of the one above; what limits it."""
    rows = []
    for result in results:
        rungs = {rung.name: rung for rung in explained.ladders[result.name]}
        limit = explained.limits[result.name]
        named = limit.cause + (f": `{limit.parameter}`" if limit.parameter else "")
        cells = [_rung(rungs[name]) if name in rungs else "-" for name in RUNGS]
        rows.append([f"`{result.name}`", named, *cells, cell(result.meta["null_rps"], 0)])
    head = ["experiment", "limited by", *RUNGS, "model that does nothing"]
    return markdown_table(head, rows)


def _rung(rung: Rung) -> str:
    share = "" if rung.share is None else f" (×{rung.share:.2f})"
    return f"{cell(rung.rate_rps, 1)}{share}"


def _dvc_metrics() -> str:
    command = [sys.executable, "-m", "dvc", "metrics", "show", "metrics/benchmark"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ReportError(f"dvc metrics show failed: {done.stderr.strip()}")
    return "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())
