"""Stage ``report``: compare all configurations, diagnose what limits each, and draw the pictures."""

from __future__ import annotations

from collections.abc import Sequence

from litmeter.measure.rows import ComparisonRow
from litmeter.params import load_params
from litmeter.paths import (
    BATCHES,
    BOUNDS,
    CEILINGS,
    COMPARISON,
    DIAGNOSIS,
    EFFICIENCY,
    LEVELS,
    STAGES,
    SUMMARY,
)
from litmeter.report.charts import draw_pictures
from litmeter.report.claims import remarks, verdict
from litmeter.report.diagnosis import Explanation, explain
from litmeter.report.results import Result, read_results
from litmeter.report.snapshot import compared_rows
from litmeter.report.tables import (
    BATCH_FIELDS,
    STAGE_FIELDS,
    batch_rows,
    bound_rows,
    diagnosis_rows,
    efficiency_rows,
    level_rows,
    rates_table,
    stage_rows,
    summary,
)
from litmeter.system.files import all_or_nothing, read_json, read_rows, write_csv, write_json
from litmeter.system.progress import print_wrapped


def main() -> None:
    """Write the summary, the plots' data and the pictures; print the comparison.

    Raises:
        ReportError: a result is missing, malformed, or of an experiment that params.yaml has not.
    """
    params = load_params()
    results = read_results(params)
    loads = read_rows(COMPARISON, ComparisonRow)
    compared = compared_rows(loads, params)
    explanation = explain(results, read_json(CEILINGS))
    with all_or_nothing():
        write_tables(results, explanation)
        draw_pictures(
            results,
            explanation.bounds,
            compared,
            loads,
            params.comparison.reference,
            params.objective.slo_ms,
        )
        write_json(SUMMARY, summary(compared))
    print(rates_table(results, terminal=True))
    for line in [*remarks(results), *explanation.errors]:
        print_wrapped(line)
    for name, diagnosis in explanation.diagnoses.items():
        print_wrapped(f"{name}: {diagnosis.text}")
    for sentence in verdict(compared, params):
        print_wrapped(sentence)


def write_tables(results: Sequence[Result], explanation: Explanation) -> None:
    """Write the tables of all configurations, from which DVC plots."""
    write_csv(LEVELS, level_rows(results))
    write_csv(EFFICIENCY, efficiency_rows(results))
    write_csv(BOUNDS, bound_rows(explanation.bounds))
    write_csv(DIAGNOSIS, diagnosis_rows(explanation.diagnoses))
    write_csv(STAGES, stage_rows(results), STAGE_FIELDS)
    write_csv(BATCHES, batch_rows(results), BATCH_FIELDS)
