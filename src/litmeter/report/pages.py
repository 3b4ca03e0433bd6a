"""The pages: docs/results.md and the README's results in Markdown, and report.html; all say the same.

Names, commands and messages in them are somebody's, and are shown as they are: in Markdown they are escaped,
in HTML they make no element, and report.html has no script and loads nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from markdown_it import MarkdownIt

from litmeter.errors import ReportError
from litmeter.paths import CAPACITY_PICTURE, README, RESULTS_PAGE, TUNE_PICTURE
from litmeter.report import charts
from litmeter.report.changes import changes, runs_table
from litmeter.report.charts import NARROW, WIDE, Chart, save_png, svg
from litmeter.report.claims import ANSWER, claims, provenance, reading, setting, subject, tuned_text
from litmeter.report.diagnosis import Diagnosis
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
from litmeter.report.tables import bounds_table, levels_table, precision_table, searched_tables
from litmeter.say.tables import CODE, markdown_table, markdown_text
from litmeter.system.files import all_or_nothing, write_section, write_text

BEGIN = "<!-- results: written by `litmeter results --readme` -->"
END = "<!-- end of results -->"
README_PICTURE = Path("assets/readme/comparison.png")
"""The README's own: a run changes those in assets/results/, and the sentences beside them would be false."""
SHOWN = "Rates of all configurations over the reference's, with 95% intervals"
REPORT_PAGE = Path("report.html")
QUESTION = "Which configuration is fastest on this machine?"
MORE = re.compile(r" More: \[[^\]]*\]\([^)]*\)\.")
"""What leads to pages of this project's docs."""
NO_MARKUP = ["autolink", "html_block", "html_inline", "image", "link", "reference"]
"""Rules of markdown-it that report.html does without."""
DOUBT = re.compile(
    r"(<code>.*?</code>)|\b(no difference resolved|not resolved|not measured|no answer|n/a|earlier)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Part:
    """A section below the answer, the table and its picture.

    Attributes:
        text: in Markdown, without its picture; empty where that says everything.
        charts: drawn where the page is HTML.
        picture: the path of these charts below assets/.
    """

    title: str
    text: str
    charts: Sequence[Chart] = ()
    picture: str = ""


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
    """docs/results.md; a project without stages for a model has no other pages that it could lead to."""
    own = not snapshot.params.stages
    about = (
        "`make run` writes this page. [measuring.md](measuring.md) says how each number is measured, "
        "[bounds-and-diagnosis.md](bounds-and-diagnosis.md) what bounds and causes mean."
    )
    blocks = [
        "# Results",
        "`litmeter results` writes this page." if own else about,
        *(markdown_text(claim.sentence) for claim in claims(snapshot)),
        snapshot.table(),
        markdown_text(reading(snapshot)),
        f"![{SHOWN}](../assets/results/comparison.png)",
    ]
    for part in parts(snapshot):
        blocks += [f"## {part.title}", MORE.sub("", part.text) if own else part.text]
        blocks += [f"![{part.title}](../assets/{part.picture})"] if part.picture else []
    return "\n\n".join(filter(None, blocks)) + "\n"


def parts(snapshot: Snapshot) -> Iterator[Part]:
    """All sections."""
    modelled = bool(snapshot.ceilings)
    scale = "the hardware's peak" if modelled else "the model"
    bounds = (
        f"From {scale} down to the served rate, in {'images/s = ' if modelled else ''}requests/s, with the "
        "share of the bound to the left. The pipeline is all of a request but the server."
        f"\n\n{bounds_table(snapshot.bounds)}\n\n"
    )
    known = any(len(own) > 1 for own in snapshot.bounds.values())
    yield Part("What holds each back", (bounds if known else "") + reasons(snapshot.diagnoses))
    chart = charts.stages(snapshot.results)
    if chart.names:
        yield Part(chart.title, "", [chart], "results/stages.png")
    nulls = any(result.null for result in snapshot.results)
    null = " The null server has a model that does nothing." if nulls else ""
    labels = " Agreement is the share of the test photos with the checkpoint's label."
    if any(result.alone for result in snapshot.results):
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
            "The highest rate of requests at random times that keeps to `objective:` (95% interval), and the "
            f"machines that take {EXAMPLE_RPS:,g} a second, planned with {PLANNED_SHARE:g} of its low end. "
            "More: [capacity.md](capacity.md).\n\n" + markdown_table(["configuration", *PLAN], rows),
            charts.capacity(snapshot.capacities),
            CAPACITY_PICTURE.name,
        )
    if snapshot.changes:
        yield Part(
            "What a precision costs, and what it brings",
            "Answers are compared with those in full precision and timm's preprocessing. The model has not "
            "seen the `test` photos. At least: with 95% certainty. Change: of the accuracy, in points. "
            "Divergence: of Kullback and Leibler, in nats. ms an image: the compiled model on one thread. "
            "More: [tuning.md](tuning.md#int8).\n\n"
            + markdown_table(*precision_table(snapshot.changes, snapshot.packages), 2),
        )
    if snapshot.tuned:
        yield _search(snapshot.tuned)
    yield Part(
        "The machine and the model" if snapshot.train else "The machine", markdown_text(provenance(snapshot))
    )


def _search(tuned: Tuned) -> Part:
    finalists, knobs = searched_tables(tuned.rows, tuned.knobs)
    worth = "What another value of one key would be worth, all others as the winner's:"
    text = "\n\n".join([markdown_text(tuned_text(tuned)), finalists, worth, knobs])
    return Part("What the search found", text, [charts.tune(tuned.rows)], "tune.png")


def reasons(diagnoses: Mapping[str, Diagnosis]) -> str:
    """A bullet per diagnosis; those that differ in the rate alone, which the table above has, share one."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name, one in diagnoses.items():
        explanation = one.text.partition(". ")[2] or one.text
        groups.setdefault((one.cause, explanation), []).append(name)
    bullets = []
    for (_, explanation), names in groups.items():
        text = diagnoses[names[0]].text
        if len(names) > 1 and explanation != text:
            text = f"{text.partition(':')[0]}: {explanation}"
        bullets.append(f"- {markdown_text(', '.join(f'`{name}`' for name in names) + f': {text}')}")
    return "\n".join(bullets)


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
    """report.html of the last of ``snapshots``, with what has changed since the others."""
    last = snapshots[-1]
    blocks = [f"<h1>{QUESTION}</h1>", *_changes(snapshots), *_answer(last, len(snapshots) > 1), "<section>"]
    for part in parts(last):
        content = "".join(map(figure, part.charts)) + markdown(part.text)
        if content:
            blocks.append(f"<details><summary>{escape(part.title)}</summary>{content}</details>")
    return _document(last.label or subject(last), [*blocks, "</section>"])


def _document(title: str, blocks: Sequence[str]) -> str:
    template = Template(files(__package__).joinpath("report.html").read_text(encoding="utf-8"))
    return template.substitute(title=escape(f"litmeter: {title}"), content="\n".join(filter(None, blocks)))


def write_machines(out: Path, offers: Sequence[Offer], rate_rps: float) -> None:
    """Write a page of what ``rate_rps`` needs on which machine, and its price."""
    head, rows = offers_table(offers, rate_rps)
    blocks = [
        f"<h1>Which machine takes {rate_rps:,g} requests a second at the lowest price?</h1>",
        *(f'<p class="answer">{marked(sentence)}</p>' for sentence in offers_text(offers, rate_rps)),
        markdown(markdown_table(head, rows, head.index(PLAN[0]))),
        figure(charts.prices(offers, rate_rps)),
    ]
    write_text(out, _document("machines", blocks))
    print(f"{out}: open it in a browser")


def write_search(out: Path, server: str, tuned: Tuned) -> None:
    """Write a page of what a search for ``server`` has found."""
    part = _search(tuned)
    blocks = [
        f"<h1>Which settings serve <code>{escape(server)}</code> fastest on this machine?</h1>",
        *map(figure, part.charts),
        markdown(part.text),
    ]
    write_text(out, _document("tune", blocks))
    print(f"{out}: open it in a browser")


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
    return _doubts(CODE.sub(r"<code>\1</code>", escape(text, quote=False)))


def _doubts(html: str) -> str:
    """Words of doubt in their colour, except in code, where they are names."""
    return DOUBT.sub(lambda found: found[1] or f'<span class="doubt">{found[2]}</span>', html)


def markdown(text: str) -> str:
    """Markdown as HTML, without HTML in it, links and pictures: this page is sent without other files."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table").disable(NO_MARKUP)
    html: str = parser.render(MORE.sub("", text))
    html = html.replace("<table>", '<div class="scroll"><table>').replace("</table>", "</table></div>")
    return _doubts(html)


def _answer(snapshot: Snapshot, changes_said: bool) -> Iterator[str]:
    said = [one for one in claims(snapshot) if not (changes_said and one.kind == "change")]
    if snapshot.label:
        yield f"<h2>Results of {escape(snapshot.label)}</h2>"
    for one in said:
        answers = ' class="answer"' if one.kind in ANSWER else ""
        yield f"<p{answers}>{marked(one.sentence)}</p>"
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
