"""Stage ``report``: bounds and diagnosis of all configurations, tables for plots, and pictures."""

from __future__ import annotations

from litmeter.paths import BOUNDS, DIAGNOSIS, LEVELS, STAGES, SUMMARY
from litmeter.report.charts import draw_pictures
from litmeter.report.claims import claims
from litmeter.report.snapshot import read_snapshot
from litmeter.report.tables import (
    STAGE_FIELDS,
    bound_rows,
    diagnosis_rows,
    level_rows,
    stage_rows,
    summary,
)
from litmeter.system.files import all_or_nothing, write_csv, write_json
from litmeter.system.progress import print_wrapped


def main() -> None:
    """Write the summary, the plots' data and the pictures; print the table and what it says.

    Raises:
        ReportError: a result is missing, malformed, or of an experiment that params.yaml has not.
    """
    snapshot = read_snapshot()
    with all_or_nothing():
        write_csv(LEVELS, level_rows(snapshot.results))
        write_csv(BOUNDS, bound_rows(snapshot.bounds))
        write_csv(DIAGNOSIS, diagnosis_rows(snapshot.diagnoses))
        write_csv(STAGES, stage_rows(snapshot.results), STAGE_FIELDS)
        draw_pictures(snapshot.results, snapshot.reference)
        write_json(SUMMARY, summary(snapshot.compared))
    print(snapshot.table(terminal=True))
    for claim in claims(snapshot):
        print_wrapped(claim.plain)
