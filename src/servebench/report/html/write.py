"""``servebench report``: write report.html."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from servebench.report.html.page import render
from servebench.report.html.revisions import read_revision
from servebench.report.snapshot import read_snapshot
from servebench.system.documents import write_text

REPORT_PAGE = Path("report.html")


def write_report(revisions: Sequence[str], path: Path = REPORT_PAGE) -> None:
    """Write the page of this tree, or of ``revisions`` side by side.

    Raises:
        ReportError: a result is missing or malformed, or there is no such revision.
    """
    snapshots = [read_revision(name) for name in revisions] or [read_snapshot()]
    write_text(path, render(snapshots))
    print(f"{path}: open it in a browser")
