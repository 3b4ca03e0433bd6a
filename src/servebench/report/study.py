"""The hand-made study on a T4 that this project replaces, from its own table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from servebench.report.markdown import markdown_table
from servebench.results import read_csv

STUDY_FILE = Path("assets/t4_g4dn_xlarge.csv")

STUDY_NOTES = """\
Where the study's text and its table disagree, the table (`assets/t4_g4dn_xlarge.csv`) is taken: the
text gives experiment 1 the batching settings of experiment 2 and both "0 workers"; it credits float16
with the 82.7% GPU utilisation that experiment 3 reached in float32; and it says that float16 raised the
throughput, which fell from 161 to 138 req/s. The in-process rates of e4 to e6 equal those in full
precision: they were measured with the float32 model. Its theoretical rates of 1,820 and 14,640 req/s
divide FLOP/s by MACs; a MAC is two FLOPs, so they are 910 and 7,300."""


def study_table() -> str:
    """The best level of each of its experiments, in Markdown."""
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
    return markdown_table(head, rows)


def _rate(row: Mapping[str, str]) -> float:
    return float(row["throughput_rps"])
