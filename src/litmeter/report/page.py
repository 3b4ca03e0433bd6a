"""``litmeter report``: report.html, the answer, the table and a picture, all the rest folded; no script."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from markdown_it import MarkdownIt

from litmeter.errors import ReportError
from litmeter.report import charts
from litmeter.report.changes import changes, runs_table
from litmeter.report.claims import ANSWER, claims, reading, setting
from litmeter.report.drawing import NARROW, WIDE, Chart, svg
from litmeter.report.results_page import parts
from litmeter.report.snapshot import Snapshot, read_revision, read_snapshot
from litmeter.system.files import write_text

REPORT_PAGE = Path("report.html")
QUESTION = "Which configuration serves this model fastest on this machine?"
DOUBT = re.compile(
    r"(<code>.*?</code>)|\b(no difference resolved|not resolved|not measured|no answer|n/a|earlier)\b",
    re.IGNORECASE,
)


def write_report(*revisions: str, out: Path = REPORT_PAGE) -> None:
    """Write the page of this tree, or of ``revisions`` side by side.

    Args:
        revisions: commits or experiments; the last is shown in full
        out: the file

    Raises:
        UsageError: there is no such revision; ReportError: a result is missing or malformed.
    """
    snapshots = [read_revision(name) for name in revisions] or [read_snapshot()]
    try:
        page = render(snapshots)
    except KeyError as error:
        raise ReportError(f"a result lacks {error}: another version of litmeter wrote it") from error
    write_text(out, page)
    for before in snapshots[:-1]:
        for claim in changes(before, snapshots[-1])[0]:
            print(f"{before.label} to {snapshots[-1].label}: {claim.plain}")
    print(f"{out}: open it in a browser")


def render(snapshots: Sequence[Snapshot]) -> str:
    """The page of the last of ``snapshots``, with what has changed since the others."""
    last = snapshots[-1]
    blocks = [f"<h1>{QUESTION}</h1>", *_changes(snapshots), *_answer(last, len(snapshots) > 1), "<section>"]
    for part in parts(last):
        content = (figure(part.chart) if part.chart else "") + markdown(part.text)
        if content:
            blocks.append(f"<details><summary>{escape(part.title)}</summary>{content}</details>")
    template = Template(files(__package__).joinpath("report.html").read_text(encoding="utf-8"))
    title = escape(f"litmeter: {last.label or 'this tree'}")
    return template.substitute(title=title, content="\n".join([*filter(None, blocks), "</section>"]))


def figure(chart: Chart) -> str:
    """A chart as wide as the page, and drawn once more for narrow ones; empty without data."""
    drawn = {"wide": svg(chart, WIDE), "narrow": svg(chart, NARROW)}
    if not drawn["wide"]:
        return ""
    caption = f"<b>{marked(chart.title)}</b> {marked(chart.note)}".strip()
    shown = "".join(f'<div class="{name}">{one}</div>' for name, one in drawn.items())
    return f"<figure><figcaption>{caption}</figcaption>{shown}</figure>"


def marked(text: str) -> str:
    """Text as HTML: what stands between backticks as code, and words of doubt in their colour."""
    return _doubts(re.sub("`([^`]*)`", r"<code>\1</code>", escape(text, quote=False)))


def _doubts(html: str) -> str:
    """Words of doubt in their colour, except in code, where they are names."""
    return DOUBT.sub(lambda found: found[1] or f'<span class="doubt">{found[2]}</span>', html)


def markdown(text: str) -> str:
    """Markdown as HTML, without its links, which lead to files that this page is sent without."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    html: str = MarkdownIt("commonmark", {"html": True}).enable("table").render(plain)
    html = html.replace("<table>", '<div class="scroll"><table>').replace("</table>", "</table></div>")
    return _doubts(html)


def _answer(snapshot: Snapshot, changes_said: bool) -> Iterator[str]:
    said = [one for one in claims(snapshot) if not (changes_said and one.kind == "change")]
    if snapshot.label:
        yield f"<h2>Results of {escape(snapshot.label)}</h2>"
    yield from (f'<p class="answer">{marked(one.sentence)}</p>' for one in said if one.kind in ANSWER)
    yield from (f"<p>{marked(one.sentence)}</p>" for one in said if one.kind not in ANSWER)
    yield f'<p class="quiet">{escape(setting(snapshot))}.</p>'
    yield f'<div class="results">{markdown(snapshot.table())}</div>'
    yield f'<p class="quiet">{marked(reading(snapshot))}</p>'
    yield figure(charts.comparison(snapshot.results, snapshot.reference))


def _changes(snapshots: Sequence[Snapshot]) -> Iterator[str]:
    if together := runs_table(snapshots):
        yield f"<h2>What another hour may bring</h2>{markdown(together)}"
        return
    for before in snapshots[:-1]:
        said, tables = changes(before, snapshots[-1])
        yield f"<h2>What changed since {escape(before.label)}</h2>"
        yield from (f'<p class="answer">{marked(claim.sentence)}</p>' for claim in said)
        yield markdown(tables)
