"""``litmeter results``: docs/results.md with its pictures, and the results in README.md."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from litmeter.errors import ReportError
from litmeter.model.precision_rows import HEAD, precision_cells
from litmeter.paths import README, RESULTS_PAGE, TUNE_PICTURE, CapacityPaths
from litmeter.report import charts
from litmeter.report.claims import claims, provenance, reading, setting, tuned_text
from litmeter.report.drawing import Chart, save_png
from litmeter.report.snapshot import Snapshot, is_of_this_tree, read_capacity, read_snapshot
from litmeter.report.tables import bounds_table, levels_table, searched_tables
from litmeter.system.files import all_or_nothing, read_json, write_section, write_text
from litmeter.system.progress import print_wrapped
from litmeter.system.tables import markdown_table

BEGIN = "<!-- results: written by `litmeter results --readme` -->"
END = "<!-- end of results -->"
README_PICTURE = Path("assets/readme/comparison.png")
"""The README's own: a run changes those in assets/results/, and the sentences beside them would be false."""
SHOWN = "Rates of all configurations over the reference's, with 95% intervals"


@dataclass(frozen=True)
class Part:
    """A section below the answer, the table and its picture.

    Attributes:
        text: in Markdown, without its picture; empty where that says everything.
        chart: drawn where the page is HTML.
        picture: the same chart's path below assets/.
    """

    title: str
    text: str
    chart: Chart | None = None
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
            for name in snapshot.params.objective.configurations:
                paths = CapacityPaths(name)
                if paths.metrics.exists() and is_of_this_tree(read_json(paths.metrics)):
                    try:
                        save_png(paths.picture, charts.capacity(name, read_capacity(name)))
                    except ReportError as error:  # of other code: it costs nothing else
                        print_wrapped(str(error))
            write_text(RESULTS_PAGE, page(snapshot))
    print(f"{README if readme else RESULTS_PAGE}: results written")


def readme_section(snapshot: Snapshot) -> str:
    """All claims, a picture, and the table."""
    said = " ".join(claim.sentence for claim in claims(snapshot))
    shown = f"![{SHOWN}]({README_PICTURE})"
    return "\n\n".join([said, shown, f"{setting(snapshot)}:", snapshot.table()])


def page(snapshot: Snapshot) -> str:
    """docs/results.md."""
    blocks = [
        "# Results",
        "`make run` writes this page. How each number is measured: [measuring.md](measuring.md); what the "
        "bounds and causes mean: [bounds-and-diagnosis.md](bounds-and-diagnosis.md).",
        *(claim.sentence for claim in claims(snapshot)),
        snapshot.table(),
        reading(snapshot),
        f"![{SHOWN}](../assets/results/comparison.png)",
    ]
    for part in parts(snapshot):
        blocks += [f"## {part.title}", part.text]
        blocks += [f"![{part.title}](../assets/{part.picture})"] if part.picture else []
    return "\n\n".join(filter(None, blocks)) + "\n"


def parts(snapshot: Snapshot) -> Iterator[Part]:
    """All sections."""
    reasons = [f"- `{name}`: {diagnosis.text}" for name, diagnosis in snapshot.diagnoses.items()]
    yield Part(
        "What holds each back",
        "From the hardware's peak down to the served rate, in images/s = requests/s, with the share of the "
        "bound to the left. The model and the pipeline (decode, preprocess and model) ran in-process in the "
        "rounds of the comparison.\n\n" + "\n\n".join([bounds_table(snapshot), "\n".join(reasons)]),
    )
    chart = charts.stages(snapshot.results)
    yield Part(chart.title, "", chart, "results/stages.png")
    yield Part(
        "What each does alone",
        "In its own stage, one after the other, so not for comparing: seconds until it was ready, memory of "
        "all its processes, the latency of a lone user, the rate at the best number of users, and that of "
        "its server with a model that does nothing; CPU and GPU at the most users. Of the test photos that "
        "were answered: agreement is the share with the checkpoint's label, accuracy that with their own.\n\n"
        + levels_table(snapshot.results),
    )
    if snapshot.changes:
        yield Part(
            "What a precision costs, and what it brings",
            "Answers without a server, compared with timm's model in full precision on the same photos: "
            "share with the same label (with 95% certainty it is at least the next figure), share with the "
            "right label and its change in points, changes of probabilities, and the divergence of Kullback "
            "and Leibler in nats. `test` are photos that the model has not seen, `other` those of its "
            "training; `ms an image` is the compiled model's time on one thread. More: "
            "[tuning.md](tuning.md#int8).\n\n"
            + markdown_table(HEAD, precision_cells(snapshot.changes, snapshot.packages), 2),
        )
    if snapshot.tuned:
        finalists, knobs = searched_tables(snapshot.tuned)
        worth = "What another value of one key would be worth, all others as the winner's:"
        text = "\n\n".join([tuned_text(snapshot.tuned), finalists, worth, knobs])
        yield Part("What the search found", text, charts.tune(snapshot.tuned.rows), "tune.png")
    yield Part("The machine and the model", provenance(snapshot))
