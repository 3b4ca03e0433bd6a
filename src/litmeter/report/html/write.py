"""``litmeter report``: write report.html."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from litmeter.errors import ReportError
from litmeter.report.html.page import render
from litmeter.report.html.revisions import read_revision
from litmeter.report.snapshot import read_snapshot
from litmeter.system.documents import write_text

REPORT_PAGE = Path("report.html")


def write_report(revisions: Sequence[str], path: Path = REPORT_PAGE) -> None:
    """Write the page of this tree, or of ``revisions`` side by side.

    Raises:
        UsageError: there is no such revision; ReportError: a result is missing or malformed.
    """
    snapshots = [read_revision(name) for name in revisions] or [read_snapshot()]
    try:
        page = render(snapshots)
    except KeyError as error:
        raise ReportError(f"a result lacks {error}: another version of litmeter wrote it") from error
    write_text(path, page)
    print(f"{path}: open it in a browser")
