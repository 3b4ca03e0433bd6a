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
from servebench.report.collect import Result, collect
from servebench.report.run import verdict
from servebench.results import read_csv, read_json, replacing

README = Path("README.md")
STUDY_FILE = Path("assets/t4_g4dn_xlarge.csv")
BEGIN = "<!-- results: written by `servebench readme` from metrics/ and plots/ -->"
END = "<!-- end of results -->"

STUDY_NOTES = """\
Where the study's text and its table disagree, the table (`assets/t4_g4dn_xlarge.csv`) is taken: the
text gives experiment 1 the batching settings of experiment 2 and both "0 workers"; it credits float16
with the 82.7% GPU utilisation that experiment 3 reached in float32; and it says that float16 raised the
throughput, which fell from 161 to 138 req/s. The in-process rates of e4 to e6 equal those in full
precision: they were measured with the float32 model. Its theoretical rates of 1,820 and 14,640 req/s
divide FLOP/s by MACs; a MAC is two FLOPs, so they are 910 and 7,300."""


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
    parts = [
        _provenance(params, results),
        _table(results),
        verdict(read_json(SUMMARY), params.load.slo_p95_ms).replace("\n", ". ") + ".",
        "![Served rate, throughput and latency of all configurations](assets/results/comparison.png)",
        "One row per configuration, as DVC shows them:",
        f"```\n$ dvc metrics show metrics/benchmark\n{_dvc_metrics()}\n```",
        "The study that this replaces, on a T4 (g4dn.xlarge), its best level of each experiment:",
        _study_table(),
        STUDY_NOTES,
    ]
    return "\n\n".join(parts)


def _provenance(params: Params, results: Sequence[Result]) -> str:
    machine, train, ceilings = (read_json(f) for f in (MACHINE, TRAIN_METRICS, CEILINGS))
    meta = results[0].meta
    return (
        f"Measured on {describe_machine(machine)}. {ceilings['architecture']} at "
        f"{params.model.image_size} px, {params.data.task}: accuracy {train['test_accuracy']:.3f} on "
        f"{train['test_images']} test photos (95% interval {train['test_accuracy_low']:.3f} to "
        f"{train['test_accuracy_high']:.3f}). One image costs {ceilings['macs'] / 1e9:.3f} GMACs, "
        f"{ceilings['flops'] / 1e9:.3f} GFLOPs; a peak of {ceilings['peak_full_tflops']:.3f} TFLOP/s in "
        f"full and {ceilings['peak_half_tflops']:.3f} in half precision ({ceilings['peak_source']}) would "
        f"allow {ceilings['theoretical_full_rps']:,.0f} and {ceilings['theoretical_half_rps']:,.0f} "
        f"images/s. {meta['threads_per_worker']} threads per worker."
    )


def _table(results: Sequence[Result]) -> str:
    rows = [
        [
            f"`{result.name}`",
            describe(result.serve, result.meta["device"]),
            _cell(result.rps, 1),
            _interval(result),
            _cell(result.metrics["users"], 0),
            _cell(result.metrics["p50_ms"], 0),
            _cell(result.metrics["p95_ms"], 0),
            _cell(result.metrics["p99_ms"], 0),
            _cell(result.metrics["baseline_rps"], 1),
            _cell(result.pipeline_rps, 1),
            _cell(result.metrics["efficiency"], 2),
            _cell(result.metrics["cpu_percent"], 0),
            _cell(result.metrics["gpu_percent"], 0),
            _cell(result.metrics["failed"], 0),
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
        "p99 ms",
        "model alone, images/s",
        "decode + model, images/s",
        "efficiency",
        "CPU %",
        "GPU %",
        "failed",
    ]
    return _markdown(head, rows)


def _interval(result: Result) -> str:
    best = result.best
    return f"{best.low_rps:.1f} to {best.high_rps:.1f}" if best else "-"


def _study_table() -> str:
    rows = []
    study = read_csv(STUDY_FILE)
    for experiment in sorted({row["experiment"] for row in study}):
        own = [r for r in study if r["experiment"] == experiment and r["num_requests"] == "256"]
        served = max((r for r in own if r["phase"] == "served"), key=_rate)
        inside = max((r for r in own if r["phase"] == "in_process"), key=_rate)
        rows.append(
            [
                experiment,
                f"{served['precision']}, max_batch_size {served['max_batch_size']}, batch_timeout "
                f"{served['batch_timeout_s']} s, workers {served['workers_per_device']}",
                f"{_rate(served):.1f}",
                served["batch_size_or_concurrency"],
                f"{_rate(inside):.1f}",
                f"{_rate(served) / _rate(inside):.2f}",
                f"{float(served['cpu_percent']):.0f}",
                f"{float(served['gpu_percent']):.0f}",
            ]
        )
    head = [
        "T4 study",
        "configuration",
        "req/s",
        "users",
        "model alone, images/s",
        "served / model alone",
        "CPU %",
        "GPU %",
    ]
    return _markdown(head, rows)


def _rate(row: Mapping[str, str]) -> float:
    return float(row["throughput_rps"])


def _cell(value: Any, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rules = ["---", "---", *["---:"] * (len(head) - 2)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, rules, *rows])


def _dvc_metrics() -> str:
    command = [sys.executable, "-m", "dvc", "metrics", "show", "metrics/benchmark"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ReportError(f"dvc metrics show failed: {done.stderr.strip()}")
    return "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())
