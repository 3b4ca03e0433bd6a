"""``litmeter report``: report.html, the answer and charts first, all the rest folded, without a script."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from html import escape
from importlib.resources import files
from itertools import count
from pathlib import Path
from string import Template

from markdown_it import MarkdownIt

from litmeter.errors import ReportError
from litmeter.params import CANDIDATE
from litmeter.report import charts
from litmeter.report.changes import changes
from litmeter.report.claims import (
    CAUSES,
    answer,
    caveats,
    emulated,
    finding,
    next_step,
    provenance,
    ranked,
    setting,
    terms,
)
from litmeter.report.drawing import NARROW, WIDE, Chart, svg
from litmeter.report.results_page import code, parts
from litmeter.report.snapshot import Snapshot, read_revision, read_snapshot
from litmeter.report.tables import configurations_table
from litmeter.system.files import write_text

REPORT_PAGE = Path("report.html")
QUESTION = (
    "Which configuration serves this model fastest on this machine, how sure is that, and what limits it?"
)
DOUBT = re.compile(
    r"(<code>.*?</code>)"
    r"|\b(not (?:resolved|valid|ranked|measured|tried)|no answer|other load|drift|unexplained)\b",
    re.IGNORECASE,
)


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


def render(snapshots: Sequence[Snapshot]) -> str:
    """The page of the last of ``snapshots``, with what has changed since the others."""
    last, figures = snapshots[-1], Figures()
    blocks = [f"<h1>{QUESTION}</h1>", *_answer(last), *_changes(figures, snapshots)]
    blocks += _sections(figures, last)
    template = Template(files(__package__).joinpath("report.html").read_text(encoding="utf-8"))
    title = escape(f"litmeter: {last.label or 'this tree'}")
    return template.substitute(title=title, content="\n".join(filter(None, blocks)))


class Figures:
    """Draws the charts of one page: ids in one differ from those in another."""

    def __init__(self) -> None:
        self.numbers = count()

    def wide(self, chart: Chart) -> str:
        """A chart as wide as the page, drawn once more for narrow ones; empty without data."""
        drawings = (("wide", self._drawn(chart, WIDE)), ("narrow", self._drawn(chart, NARROW)))
        return self._figure(
            chart, "".join(f'<div class="{name}">{one}</div>' for name, one in drawings if one)
        )

    def side_by_side(self, charts: Sequence[Chart]) -> str:
        """Charts in columns, as many as fit."""
        figures = [self._figure(chart, self._drawn(chart, NARROW)) for chart in charts]
        return f'<div class="columns">{"".join(figures)}</div>'

    def _drawn(self, chart: Chart, width: float) -> str:
        return svg(chart, f"chart {next(self.numbers)}", width)

    def _figure(self, chart: Chart, drawn: str) -> str:
        if not drawn:
            return ""
        caption = f"<b>{marked(chart.title)}</b> {marked(chart.note)}".strip()
        return f"<figure><figcaption>{caption}</figcaption>{drawn}</figure>"


def marked(text: str) -> str:
    """Text as HTML: what stands between backticks as code, and words of doubt in their colour."""
    return doubts(code(escape(text, quote=False)))


def doubts(html: str) -> str:
    """Words of doubt in their colour, except in code, where they are names."""
    return DOUBT.sub(lambda found: found[1] or f'<span class="doubt">{found[2]}</span>', html)


def markdown(text: str) -> str:
    """Markdown as HTML, without its links, which lead to files that this page is sent without."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    html: str = MarkdownIt("commonmark", {"html": True}).enable("table").render(plain)
    html = html.replace("<table>", '<div class="scroll"><table>').replace("</table>", "</table></div>")
    return doubts(html)


def folded(summary: str, content: str, opened: bool = False) -> str:
    """What is shown where one asks for it; ``summary`` and ``content`` are HTML."""
    return f"<details{' open' if opened else ''}><summary>{summary}</summary>{content}</details>"


def _answer(snapshot: Snapshot) -> Iterator[str]:
    for sentence in filter(None, [*answer(snapshot), next_step(snapshot)]):
        yield f'<p class="answer">{marked(sentence)}</p>'
    yield f"<p>{marked(terms(snapshot))}</p>"
    of = f" Results of {snapshot.label}." if snapshot.label else ""
    yield f'<p class="quiet">{escape(setting(snapshot))}.{escape(of)}</p>'


def _changes(figures: Figures, snapshots: Sequence[Snapshot]) -> Iterator[str]:
    for before in snapshots[:-1]:
        found = changes(before, snapshots[-1])
        yield f"<h2>What changed since {escape(before.label)}</h2>"
        yield markdown(found.text)
        if found.chart:
            yield figures.wide(found.chart)


def _sections(figures: Figures, snapshot: Snapshot) -> Iterator[str]:
    compared, slo_ms = snapshot.compared, snapshot.params.objective.slo_ms
    yield "<h2>How they compare</h2>"
    yield figures.wide(charts.comparison(compared, snapshot.reference, snapshot.results))
    yield markdown("\n\n".join([configurations_table(snapshot), *caveats(compared), *emulated(snapshot)]))
    yield figures.wide(charts.latency(snapshot.loads, compared, slo_ms))
    yield "<h2>What limits each</h2>"
    yield f'<p class="quiet">{marked(CAUSES)}</p><section>'
    opened = {CANDIDATE, *(row.experiment for row in ranked(compared)[:1])}
    for result in snapshot.results:
        drawn = [charts.bounds(result, snapshot.explanation.bounds[result.name])]
        drawn += [charts.rates(result), charts.usage(result)]
        reason = marked(snapshot.explanation.diagnoses[result.name].text)
        content = f"<p>{reason}</p>{figures.side_by_side(drawn)}"
        yield folded(marked(finding(result.name, snapshot)), content, result.name in opened)
    yield "</section>"
    yield figures.wide(charts.stages(snapshot.results))
    if snapshot.tuned:
        yield "<h2>What the search found</h2>"
        yield figures.wide(charts.tune(snapshot.tuned.rows))
    yield "<h2>The machine</h2>"
    yield markdown(provenance(snapshot))
    yield "<h2>All the rest</h2><section>"
    if sizes := figures.wide(charts.batch_sizes(snapshot.results)):
        yield folded("Sizes of batches", sizes)
    for part in parts(snapshot):
        if part.text:
            yield folded(f"{escape(part.title)}: all figures", markdown(part.text))
    yield "</section>"
