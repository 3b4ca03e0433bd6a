"""``litmeter results``: docs/results.md with its pictures, and the results in README.md."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from litmeter.paths import README, RESULTS_PAGE, TUNE_PICTURE, CapacityPaths
from litmeter.report import charts
from litmeter.report.claims import (
    answer,
    caveats,
    emulated,
    finding,
    provenance,
    remarks,
    setting,
    tuned_sentences,
    verdict,
)
from litmeter.report.drawing import save_png
from litmeter.report.snapshot import Snapshot, is_of_this_tree, read_capacity, read_snapshot
from litmeter.report.tables import (
    accuracy_table,
    bounds_table,
    comparison_table,
    configurations_table,
    knob_table,
    precision_table,
    rates_table,
    tuned_table,
)
from litmeter.system.files import all_or_nothing, read_json, write_section, write_text
from litmeter.system.tables import pluralise

BEGIN = "<!-- results: written by `litmeter results --readme` -->"
END = "<!-- end of results -->"
README_PICTURE = Path("assets/readme/comparison.png")
"""The README's own: a run changes those in assets/results/, and the sentences beside them would be false."""


@dataclass(frozen=True)
class Part:
    """A section of the results.

    Attributes:
        text: in Markdown, without its pictures; empty where these say everything.
        pictures: what each shows, and its path below assets/.
        reasons: that follow the text, in HTML; report.html has them elsewhere.
    """

    title: str
    text: str
    pictures: Sequence[tuple[str, str]] = ()
    reasons: str = ""


def write_results(*, readme: bool = False) -> None:
    """Write docs/results.md and the pictures of searches; or replace README.md's results and its picture.

    Raises:
        ReportError: README.md lacks a marker, or a result is missing or malformed.
    """
    snapshot = read_snapshot()
    with all_or_nothing():
        if readme:
            write_section(README, BEGIN, END, readme_section(snapshot))
            shown = charts.comparison(snapshot.compared, snapshot.reference, snapshot.results)
            save_png(README_PICTURE, [shown])
        else:
            draw_searches(snapshot)
            write_text(RESULTS_PAGE, page(snapshot))
    print(f"{README if readme else RESULTS_PAGE}: results written")


def draw_searches(snapshot: Snapshot) -> None:
    """Draw what ``make capacity`` and ``make tune`` have measured for this model on this machine."""
    if snapshot.tuned is not None:
        save_png(TUNE_PICTURE, [charts.tune(snapshot.tuned.rows)])
    for name in snapshot.params.objective.configurations:
        paths = CapacityPaths(name)
        if paths.metrics.exists():
            measured = read_capacity(name)
            if is_of_this_tree(read_json(paths.metrics)):
                save_png(paths.picture, charts.capacity(name, measured))


def readme_section(snapshot: Snapshot) -> str:
    """The answer, a picture, and a row per configuration."""
    users = pluralise(snapshot.params.comparison.users[0], "user")
    return "\n\n".join(
        [
            " ".join([*answer(snapshot), *caveats(snapshot.compared), *emulated(snapshot)]),
            f"![Rates of all configurations over the reference's, with 95% intervals]({README_PICTURE})",
            f"{setting(snapshot)}. All configurations served at once and loaded in turn, at {users} (95% "
            "intervals; the same rank where no difference is resolved):",
            configurations_table(snapshot),
        ]
    )


def page(snapshot: Snapshot) -> str:
    """docs/results.md."""
    blocks = [
        "# Results",
        "`make run` writes this page. How each number is measured: [measuring.md](measuring.md); what the "
        "bounds and causes mean: [bounds-and-diagnosis.md](bounds-and-diagnosis.md).",
        provenance(snapshot),
    ]
    for part in parts(snapshot):
        blocks += [f"## {part.title}", *filter(None, [part.text, part.reasons])]
        blocks += [f"![{shown}](../assets/{path})" for shown, path in part.pictures]
    return "\n\n".join(blocks) + "\n"


def parts(snapshot: Snapshot) -> Iterator[Part]:
    """All sections."""
    said = " ".join([*verdict(snapshot.compared, snapshot.params), *emulated(snapshot)])
    blocks = [said, comparison_table(snapshot.compared, snapshot.reference)]
    if any(row.efficiency for row in snapshot.compared):
        blocks.append(
            "Efficiency is the served rate over that of the same decode, preprocess and model in-process, "
            "in the same rounds. A dash: the configuration is far behind, or there was no time or memory "
            "for its pipeline."
        )
    yield Part(
        "Compared in turn",
        "\n\n".join(blocks),
        [
            ("Times the rate of the reference, with intervals", "results/comparison.png"),
            ("Latency over rate", "results/latency.png"),
        ],
    )
    if snapshot.tuned:
        blocks = [" ".join(tuned_sentences(snapshot.tuned)), tuned_table(snapshot.tuned)]
        blocks.append("What another value of one key would be worth, all others as the winner's:")
        blocks.append(knob_table(snapshot.tuned))
        picture = ("All that raced: predicted and measured rates", "tune.png")
        yield Part("What the search found", "\n\n".join(blocks), [picture])
    doubts = [f"- {line}" for line in [*remarks(snapshot.results), *snapshot.explanation.errors]]
    yield Part(
        "Each by itself",
        "One after the other, on a machine that may have changed between them: for bounds and latencies, not "
        "for comparing. The number of users is the one that was fastest in the runs that choose it, and "
        "fewer users where the difference lies within the interval; the figures are those of a later run. "
        "A dash: too few answers (a p95 needs 130). Efficiency: the rate over that of decode, preprocess and "
        "model in-process, with batches that the server can form.\n\n"
        + "\n\n".join([rates_table(snapshot.results), "\n".join(doubts)]).strip(),
    )
    yield Part("Accuracy through the served path", accuracy_table(snapshot.results))
    yield Part(
        "What a precision costs, and what it brings",
        "Answers without a server, compared with timm's model in full precision on the same photos: share "
        "with the same label (with 95% certainty it is at least the next figure), the share with the right "
        "label and its change in points, the changes of probabilities, and the divergence of Kullback and "
        "Leibler in nats. `test` are photos that the model has not seen, `other` those of its training; "
        "`ms an image` is the compiled model's time on one thread. More: [tuning.md](tuning.md#int8).\n\n"
        + precision_table(snapshot),
    )
    yield Part(
        "What holds each back",
        "From the hardware's peak down to the served rate, in images/s = requests/s; × is the share of the "
        'bound to the left. A share above 1 is the machine\'s noise, unless "Each by itself" lists it as an '
        f"error of measuring. Null server: with a model that does nothing.\n\n{bounds_table(snapshot)}",
        reasons="\n\n".join(
            f"<details><summary>{code(finding(name, snapshot))}</summary>\n\n{diagnosis.text}\n\n</details>"
            for name, diagnosis in snapshot.explanation.diagnoses.items()
        ),
    )
    yield Part(
        "Where a request's time goes",
        "",
        [
            ("Stages of a request at the best level", "results/stages.png"),
            ("Sizes of batches by concurrency", "results/batch_sizes.png"),
        ],
    )
    pictures = [(result.name, f"results/{result.name}.png") for result in snapshot.results]
    yield Part("Each configuration", "", pictures)


def code(text: str) -> str:
    """What stands between backticks as HTML's code, as Markdown looks for none within HTML."""
    return re.sub("`([^`]*)`", r"<code>\1</code>", text)
