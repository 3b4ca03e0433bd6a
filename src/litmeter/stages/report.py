"""Stage ``report``: bounds and diagnosis of all configurations, tables for plots, and pictures."""

from __future__ import annotations

from litmeter.paths import BOUNDS, DIAGNOSIS, LEVELS, STAGES, SUMMARY
from litmeter.report.charts import draw_pictures
from litmeter.report.claims import claims
from litmeter.report.snapshot import read_snapshot
from litmeter.report.tables import bound_rows, level_rows, summary
from litmeter.say.progress import print_wrapped
from litmeter.system.files import all_or_nothing, write_csv, write_json


def main() -> None:
    """Write the summary, the plots' data and the pictures; print the table and what it says."""
    snapshot = read_snapshot()
    diagnoses = [
        {"experiment": name, "cause": one.cause, "parameter": one.parameter, "text": one.text}
        for name, one in snapshot.diagnoses.items()
    ]
    stages = [
        {"experiment": result.name, "stage": stage, "mean_ms": round(mean_ms, 3)}
        for result in snapshot.results
        for stage, mean_ms in result.stage_ms.items()
    ]
    with all_or_nothing():
        write_csv(LEVELS, level_rows(snapshot.results))
        write_csv(BOUNDS, bound_rows(snapshot.bounds))
        write_csv(DIAGNOSIS, diagnoses)
        write_csv(STAGES, stages, fields=("experiment", "stage", "mean_ms"))
        draw_pictures(snapshot.results, snapshot.reference)
        write_json(SUMMARY, summary(snapshot.compared))
    print(snapshot.table(terminal=True))
    for claim in claims(snapshot):
        print_wrapped(claim.plain)
