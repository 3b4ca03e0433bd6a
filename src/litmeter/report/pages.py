"""The pages: docs/results.md and the README's results in Markdown, and HTML files such as report.html.

All pages say the same. Names, commands and messages in them are text of other people: in Markdown they are
escaped, in HTML they make no element (Jinja2's autoescape), and an HTML page has no script and loads nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from markdown_it import MarkdownIt
from markupsafe import Markup, escape

from litmeter.errors import ReportError
from litmeter.kinds.costs import CostCeilings
from litmeter.paths import CAPACITY_PICTURE, README, RESULTS_PAGE, TUNE_PICTURE
from litmeter.report import charts
from litmeter.report.changes import changes, runs_table
from litmeter.report.charts import NARROW, Chart, save_png, svg
from litmeter.report.claims import ANSWER, claims, provenance, reading, setting, subject, tuned_text
from litmeter.report.diagnosis import Diagnosis
from litmeter.report.losses import limits_of_one_thread
from litmeter.report.machines import (
    EXAMPLE_RPS,
    PLAN,
    PLANNED_SHARE,
    Offer,
    offers_table,
    offers_text,
    plan_cells,
)
from litmeter.report.snapshot import Snapshot, Tuned, read_revision, read_snapshot
from litmeter.report.tables import bounds_table, costs_table, levels_table, precision_table, searched_tables
from litmeter.say.tables import CODE, markdown_table, markdown_text
from litmeter.system.files import all_or_nothing, write_section, write_text

BEGIN = "<!-- results: written by `litmeter results --readme` -->"
END = "<!-- end of results -->"
README_PICTURE = Path("assets/readme/comparison.png")
"""The README's copy: a run changes the pictures in assets/results/, but not the README's sentences."""
SHOWN = "Rates of all configurations over the reference's, with 95% intervals"
REPORT_PAGE = Path("report.html")
NO_MARKUP = ["autolink", "html_block", "html_inline", "image", "link", "reference"]
"""Rules of markdown-it that HTML pages do without."""
DOUBT = re.compile(
    r"(<code>.*?</code>)|\b(no difference resolved|not resolved|not measured|no answer|n/a|earlier)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Part:
    """A section below the answer, the table and its picture.

    Attributes:
        text: in Markdown; empty where the picture says everything.
        charts: drawn in an HTML page.
        picture: the file of these charts below assets/, for a page in Markdown.
        more: the page of this project's docs about it, as a link.
    """

    title: str
    text: str
    charts: Sequence[Chart] = ()
    picture: str = ""
    more: str = ""


def write_results(*, readme: bool = False) -> None:
    """Write docs/results.md and the pictures of searches; or replace README.md's results and its picture.

    Args:
        readme: write into README.md, and nothing else

    Raises:
        ReportError: README.md lacks a marker, or a result is missing or malformed.
    """
    snapshot = read_snapshot()
    with all_or_nothing():
        if readme:
            write_section(README, BEGIN, END, readme_section(snapshot))
            save_png(README_PICTURE, [charts.comparison(snapshot.results, snapshot.reference)])
        else:
            if snapshot.tuned is not None:
                save_png(TUNE_PICTURE, [charts.tune(snapshot.tuned.rows)])
            if snapshot.capacities:
                save_png(CAPACITY_PICTURE, charts.capacity(snapshot.capacities))
            write_text(RESULTS_PAGE, page(snapshot))
    print(f"{README if readme else RESULTS_PAGE}: results written")


def readme_section(snapshot: Snapshot) -> str:
    """All claims, a picture, and the table."""
    said = "\n".join(f"- {markdown_text(claim.sentence)}" for claim in claims(snapshot))
    shown = f"![{SHOWN}]({README_PICTURE})"
    return "\n\n".join([said, shown, markdown_text(f"{setting(snapshot)}:"), snapshot.table()])


def page(snapshot: Snapshot) -> str:
    """docs/results.md, with links to other pages of docs in this project alone."""
    has_docs = bool(snapshot.params.stages)
    about = (
        "`make run` writes this page. [measuring.md](measuring.md) says how each number is measured, "
        "[bounds-and-diagnosis.md](bounds-and-diagnosis.md) what bounds and causes mean."
    )
    blocks = [
        "# Results",
        about if has_docs else "`litmeter results` writes this page.",
        *(markdown_text(claim.sentence) for claim in claims(snapshot)),
        snapshot.table(),
        markdown_text(reading(snapshot)),
        f"![{SHOWN}](../assets/results/comparison.png)",
    ]
    for part in parts(snapshot):
        blocks += [f"## {part.title}", part.text]
        blocks += [f"More: {part.more}."] if part.more and has_docs else []
        blocks += [f"![{part.title}](../assets/{part.picture})"] if part.picture else []
    return "\n\n".join(filter(None, blocks)) + "\n"


def parts(snapshot: Snapshot) -> Iterator[Part]:
    """All sections."""
    modelled = bool(snapshot.ceilings)
    scale = "the hardware's peak" if modelled else "the model"
    units = {result.unit for result in snapshot.results}
    unit = "requests/s" if len(units) > 1 else units.pop()
    unit = "images/s = requests/s" if modelled and unit == "images/s" else unit
    bounds = (
        f"From {scale} down to the served rate, in {unit}, with the "
        "share of the bound to the left: the mean ratio of the rounds that have both, which is not quite "
        "that of the mean rates. The pipeline is all of a request but the server. On an undisturbed machine: "
        "without the time that other processes and the hypervisor took."
        f"\n\n{bounds_table(snapshot.bounds)}\n\n"
    )
    if isinstance(snapshot.ceilings, CostCeilings):
        table = costs_table(snapshot.ceilings.configurations)
        bounds += f"The roofline is that of these costs and measured peaks:\n\n{table}\n\n"
    known = any(len(own) > 1 for own in snapshot.bounds.values())
    fastest = max(snapshot.results, key=lambda one: one.compared.rate_rps or 0.0)
    limits = limits_of_one_thread(fastest)
    name = fastest.compared.experiment
    limits = f"\n\nWith one thread each, these would be the limit of `{name}`: {limits}." if limits else ""
    yield Part("What holds each back", (bounds if known else "") + reasons(snapshot.diagnoses) + limits)
    chart = charts.stages(snapshot.results)
    if chart.names:
        yield Part(chart.title, "", [chart], "results/stages.png")
    if any(result.alone for result in snapshot.results):
        nulls = any(result.null for result in snapshot.results)
        null = " The null server has a model that does nothing, and waits for batches alike." if nulls else ""
        labels = " Agreement is the share of the test photos with the checkpoint's label."
        yield Part(
            "What each does alone",
            "Each was measured at another time, so do not compare these rates. Best req/s is the rate at the "
            f"best number of users; CPU and GPU are at the most users.{null}"
            f"{labels if snapshot.train else ''}\n\n{levels_table(snapshot.results)}",
        )
    if snapshot.capacities:
        found = {name: one.metrics for name, one in snapshot.capacities.items()}
        rows = [[f"`{name}`", *plan_cells(EXAMPLE_RPS, one)] for name, one in found.items()]
        yield Part(
            "How much traffic each takes",
            "The highest rate of requests at random times that keeps to `objective:` (90% interval), and the "
            f"machines that take {EXAMPLE_RPS:,g} a second, planned with {PLANNED_SHARE:g} of its low end."
            "\n\n" + markdown_table(["configuration", *PLAN], rows),
            charts.capacity(snapshot.capacities),
            CAPACITY_PICTURE.name,
            "[capacity.md](capacity.md)",
        )
    if snapshot.changes:
        yield Part(
            "What a precision costs, and what it brings",
            "Answers are compared with those in full precision and timm's preprocessing. The model has not "
            "seen the `test` photos. At least: with 95% certainty. Change: of the accuracy, in points. "
            "Divergence: of Kullback and Leibler, in nats. ms an image: the compiled model on one thread.\n\n"
            + markdown_table(*precision_table(snapshot.changes, snapshot.packages), 2),
            more="[tuning.md](tuning.md#int8)",
        )
    if snapshot.tuned:
        yield _search(snapshot.tuned)
    title = "The machine and the model" if snapshot.train else "The machine"
    yield Part(title, markdown_text(provenance(snapshot)))


def _search(tuned: Tuned) -> Part:
    finalists, knobs = searched_tables(tuned.rows, tuned.knobs)
    worth = "What another value of one key would be worth, all others as the winner's:"
    meanings = charts.meanings(row.name for row in tuned.rows)
    said = f"{tuned_text(tuned)}{meanings and ' In the names, '}{meanings}".rstrip()
    text = "\n\n".join([markdown_text(said), finalists, worth, knobs])
    return Part("What the search found", text, [charts.tune(tuned.rows)], "tune.png")


def reasons(diagnoses: Mapping[str, Diagnosis]) -> str:
    """A bullet per text of a diagnosis, with the configurations that it is about."""
    names: dict[str, list[str]] = {}
    for name, diagnosis in diagnoses.items():
        names.setdefault(diagnosis.text, []).append(f"`{name}`")
    bullets = (f"{', '.join(own)}: {text}" for text, own in names.items())
    return "\n".join(f"- {markdown_text(bullet)}" for bullet in bullets)


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
        html = render(snapshots)
    except KeyError as error:
        raise ReportError(f"a result lacks {error}: another version of litmeter wrote it") from error
    write_text(out, html)
    for before in snapshots[:-1]:
        for claim in changes(before, snapshots[-1])[0]:
            print(f"{before.label} to {snapshots[-1].label}: {claim.plain}")
    print(f"{out}: open it in a browser")


def render(snapshots: Sequence[Snapshot]) -> str:
    """report.html of the last of ``snapshots``, with what has changed since the others."""
    last = snapshots[-1]
    over_runs = runs_table(snapshots)
    return _html(
        "report.html",
        title=last.label or subject(last),
        over_runs=over_runs,
        changes=[] if over_runs else [(before.label, *changes(before, last)) for before in snapshots[:-1]],
        label=last.label,
        # What changed settings of serve: did is said once.
        claims=[one for one in claims(last) if one.kind != "change" or len(snapshots) == 1],
        answers=ANSWER,
        setting=setting(last),
        table=last.table(),
        reading=reading(last),
        chart=charts.comparison(last.results, last.reference),
        parts=parts(last),
    )


def write_machines(out: Path, offers: Sequence[Offer], rate_rps: float) -> None:
    """Write a page of the machines for ``rate_rps`` and their prices."""
    head, rows = offers_table(offers, rate_rps)
    table = markdown_table(head, rows, head.index(PLAN[0]))
    question = f"Which machine takes {rate_rps:,g} requests a second at the lowest price?"
    sentences, chart = offers_text(offers, rate_rps), charts.prices(offers, rate_rps)
    html = _html(
        "found.html", title="machines", question=question, sentences=sentences, text=table, charts=[chart]
    )
    write_text(out, html)
    print(f"{out}: open it in a browser")


def write_search(out: Path, server: str, tuned: Tuned) -> None:
    """Write a page of the result of a search for ``server``."""
    part = _search(tuned)
    question = f"Which settings serve `{server}` fastest on this machine?"
    write_text(out, _html("found.html", title="tune", question=question, text=part.text, charts=part.charts))
    print(f"{out}: open it in a browser")


def _html(template: str, **values: Any) -> str:
    """A page from a template beside this module."""
    environment = Environment(loader=PackageLoader(__package__, "."), autoescape=True, trim_blocks=True)
    environment.filters |= {"marked": marked, "markdown": markdown, "svg": svg_markup}
    return environment.get_template(template).render(NARROW=NARROW, **values)


def svg_markup(chart: Chart, *width: float) -> Markup:
    """A chart as an element, in which matplotlib has escaped all texts; empty without data."""
    return Markup(svg(chart, *width))


def marked(text: str) -> Markup:
    """Text as HTML: text between backticks as code, and words of doubt in their colour."""
    return _doubts(CODE.sub(r"<code>\1</code>", str(escape(text))))


def markdown(text: str) -> Markup:
    """Markdown as HTML, without HTML in it, links and pictures: an HTML page is sent without other files."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table").disable(NO_MARKUP)
    html: str = parser.render(text)
    return _doubts(
        html.replace("<table>", '<div class="scroll"><table>').replace("</table>", "</table></div>")
    )


def _doubts(html: str) -> Markup:
    """Words of doubt in their colour, except in code, where they are names."""
    return Markup(DOUBT.sub(lambda found: found[1] or f'<span class="doubt">{found[2]}</span>', html))
