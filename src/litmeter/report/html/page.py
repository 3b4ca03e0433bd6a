"""The page: the answer and the charts first, all the rest folded."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from markdown_it import MarkdownIt

from litmeter.errors import ReportError
from litmeter.params import CANDIDATE
from litmeter.report.answer import answer, finding, leading, next_step, terms, tuned_price
from litmeter.report.charts.capacity import capacity
from litmeter.report.charts.chart import Chart
from litmeter.report.charts.compared import comparison, latency
from litmeter.report.charts.configuration import bounds, rates, usage
from litmeter.report.charts.parts import batch_sizes, stages
from litmeter.report.charts.tune import tune
from litmeter.report.charts.vega import colour_of, specification
from litmeter.report.comparison import earlier_sentences
from litmeter.report.html.changes import changes
from litmeter.report.sections import CAUSES, configurations_table, parts, provenance
from litmeter.report.snapshot import Snapshot
from litmeter.system.machine import describe_machine

VEGA_PAGE = Path(".dvc/plots/page.html")
"""The page that DVC's plots are put into has Vega inside."""
QUESTION = (
    "Which configuration serves this model fastest on this machine, how sure is that, and what limits it?"
)
DOUBT = re.compile(
    r"(<code>.*?</code>)"
    r"|\b(not (?:resolved|valid|ranked|measured|tried)|no answer|other load|drift|unexplained)\b",
    re.IGNORECASE,
)


class Page:
    """Collects the charts of a page while its text is written."""

    def __init__(self) -> None:
        self.charts: dict[str, dict[str, Any]] = {}

    def figure(self, chart: Chart) -> str:
        """The place of a chart, with its title and note; nothing for one without marks."""
        if not any(mark.x or mark.y for mark in chart.marks):
            return ""
        name = f"chart{len(self.charts)}"
        self.charts[name] = specification(chart)
        title = f"<b>{marked(chart.title)}</b>"
        caption = f"<figcaption>{title} {marked(chart.note)}</figcaption>"
        legend = "".join(
            f'<span class="key"><i style="background: {colour_of(mark)}"></i>{escape(mark.name)}</span>'
            for mark in chart.marks
            if mark.name
        )
        caption += f'<div class="legend">{legend}</div>' if legend else ""
        below = f'<div class="axis">{escape(chart.x.title)}</div>' if chart.y.names else ""
        return f'<figure>{caption}<div class="chart" id="{name}"></div>{below}</figure>'

    def render(self, title: str, content: str) -> str:
        """The whole page."""
        template = Template(files(__package__).joinpath("report.html").read_text(encoding="utf-8"))
        charts = json.dumps(self.charts).replace("</", "<\\/")
        return template.substitute(title=escape(title), content=content, vega=vega_script(), charts=charts)


def vega_script() -> str:
    """Vega's scripts, with their licences.

    Raises:
        ReportError: they are not where the project has them.
    """
    try:
        page = VEGA_PAGE.read_text(encoding="utf-8")
    except OSError as error:
        raise ReportError(f"{VEGA_PAGE}: {error.strerror}") from error
    notice = page.partition("<!--")[2].partition("-->")[0].partition("\n\n")[2]
    script = page.partition("<script>")[2].partition("</script>")[0]
    return f"/*{notice}*/\n{script.strip()}"


def marked(text: str) -> str:
    """Text as HTML: what stands between backticks as code, and words of doubt in their colour."""
    return doubts(re.sub("`([^`]*)`", r"<code>\1</code>", escape(text, quote=False)))


def doubts(html: str) -> str:
    """Words of doubt in their colour, except in code, where they are names."""
    return DOUBT.sub(lambda found: found[1] or f'<span class="doubt">{found[2]}</span>', html)


def markdown(text: str) -> str:
    """Markdown as HTML, without its links, which lead to files that this page is sent without."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    html: str = MarkdownIt("commonmark", {"html": True}).enable("table").render(plain)
    html = html.replace("<table>", '<div class="scroll"><table>').replace("</table>", "</table></div>")
    return doubts(html)


def render(snapshots: Sequence[Snapshot]) -> str:
    """The page of the last of ``snapshots``, with what has changed since the others."""
    page, last = Page(), snapshots[-1]
    blocks = [f"<h1>{QUESTION}</h1>", *_answer(last), *_changes(page, snapshots)]
    blocks += _sections(page, last)
    name = last.label or "this tree"
    return page.render(f"litmeter: {name}", "\n".join(blocks))


def _answer(snapshot: Snapshot) -> Iterator[str]:
    for sentence in filter(None, [*answer(snapshot), next_step(snapshot)]):
        yield f'<p class="answer">{marked(sentence)}</p>'
    if not snapshot.label and (price := tuned_price(snapshot)):
        yield f"<p>{marked(price)}</p>"
    yield f"<p>{marked(terms(snapshot))}</p>"
    if not any(row.experiment == CANDIDATE for row in leading(snapshot.compared)[:1]):
        yield f"<p>{marked(f'What limits {finding(CANDIDATE, snapshot)}')}</p>"
    machine = describe_machine(snapshot.machine)
    model = f"{snapshot.ceilings['architecture']} at {snapshot.params.model.image_size} px"
    of = f" Results of {snapshot.label}." if snapshot.label else ""
    yield f'<p class="quiet">{escape(model)}, on {escape(machine)}.{escape(of)}</p>'


def _changes(page: Page, snapshots: Sequence[Snapshot]) -> Iterator[str]:
    for before in snapshots[:-1]:
        found = changes(before, snapshots[-1])
        yield f"<h2>What changed since {escape(before.label)}</h2>"
        yield markdown(found.text)
        if found.chart:
            yield page.figure(found.chart)


def _sections(page: Page, snapshot: Snapshot) -> Iterator[str]:
    yield "<h2>How they compare</h2>"
    yield page.figure(comparison(snapshot.compared, snapshot.reference, snapshot.results))
    yield markdown("\n\n".join([configurations_table(snapshot), *earlier_sentences(snapshot.compared)]))
    yield page.figure(latency(snapshot.loads, snapshot.compared, snapshot.params.objective.slo_ms))
    yield "<h2>What limits each</h2>"
    yield f'<p class="quiet">{marked(CAUSES)}</p>'
    yield "<section>"
    for name, diagnosis in snapshot.explanation.diagnoses.items():
        sentence, reason = marked(finding(name, snapshot)), marked(diagnosis.text)
        yield f"<details><summary>{sentence}</summary><p>{reason}</p></details>"
    yield "</section>"
    yield from _configurations(page, snapshot)
    yield page.figure(stages(snapshot.results))
    if snapshot.capacities:
        yield "<h2>How much traffic it takes</h2>"
        for name, result in snapshot.capacities.items():
            late, *others = capacity(name, result)
            yield page.figure(late)
            folded = "".join(page.figure(chart) for chart in others)
            summary = f"{escape(name)}: latencies, and what came in time"
            yield f"<details><summary>{summary}</summary>{folded}</details>"
    if snapshot.tuned:
        yield "<h2>What the search found</h2>"
        yield page.figure(tune(snapshot.tuned.rows))
    yield "<h2>The machine</h2>"
    yield markdown(provenance(snapshot))
    yield "<h2>All the rest</h2><section>"
    if sizes := page.figure(batch_sizes(snapshot.results)):
        yield f"<details><summary>Sizes of batches</summary>{sizes}</details>"
    for part in parts(snapshot):
        if not part.text:
            continue
        yield f"<details><summary>{escape(part.title)}: all figures</summary>{markdown(part.text)}</details>"
    yield "</section>"


def _configurations(page: Page, snapshot: Snapshot) -> Iterator[str]:
    """The bounds and rates of the configuration that is chosen; at first the candidate."""
    names = [result.name for result in snapshot.results]
    options = "".join(
        f"<option{' selected' if name == CANDIDATE else ''}>{escape(name)}</option>" for name in names
    )
    yield f'<p class="choice"><label>Bounds of <select id="configuration">{options}</select></label></p>'
    for result in snapshot.results:
        yield f'<div data-configuration="{escape(result.name)}">'
        yield page.figure(bounds(result, snapshot.explanation.bounds[result.name]))
        charts = [rates(result), *usage(result)]
        yield f"<details><summary>{escape(result.name)}: rate and use of the machine by load</summary>"
        yield from (page.figure(chart) for chart in charts)
        yield "</details></div>"
