"""``litmeter results``: write docs/results.md, and the results in README.md."""

from __future__ import annotations

from litmeter.params import CANDIDATE
from litmeter.paths import README, RESULTS_PAGE
from litmeter.report.answer import answer
from litmeter.report.capacity import capacity_sentence
from litmeter.report.comparison import earlier_sentences
from litmeter.report.sections import configurations_table, emulated, parts, provenance
from litmeter.report.snapshot import Snapshot, read_snapshot
from litmeter.system.documents import write_section, write_text
from litmeter.system.files import all_or_nothing
from litmeter.system.tables import pluralise

BEGIN = "<!-- results: written by `litmeter results` -->"
END = "<!-- end of results -->"


def write_results(*, readme: bool = False) -> None:
    """Write the page; with ``readme`` also replace what stands between the markers in README.md.

    Raises:
        ReportError: README.md lacks a marker, or a result is missing.
    """
    snapshot = read_snapshot()
    with all_or_nothing():
        if readme:
            write_section(README, BEGIN, END, readme_section(snapshot))
        write_text(RESULTS_PAGE, page(snapshot))
    print(f"{RESULTS_PAGE}{f', {README}' if readme else ''}: results written")


def readme_section(snapshot: Snapshot) -> str:
    """The answer, a picture, and a row per configuration."""
    machine, params = snapshot.machine, snapshot.params
    setting = (
        f"{machine['cpu']}, {pluralise(machine['cores'], 'core')}, {machine['gpu'] or 'no GPU'}; "
        f"{snapshot.ceilings['architecture']} at {params.model.image_size} px. All configurations served "
        f"at once and loaded in turn, at {pluralise(params.comparison.users[0], 'user')} (95% intervals; the "
        "same rank where no difference is resolved):"
    )
    shown = "Rates of all configurations over the reference's, with 95% intervals"
    picture = f"![{shown}](assets/results/comparison.png)"
    measured = snapshot.capacities.get(CANDIDATE)
    machines = [capacity_sentence(f"`{CANDIDATE}`", measured.metrics)] if measured else []
    kept = earlier_sentences(snapshot.compared)
    sentences = " ".join([*answer(snapshot), *machines, *kept, *emulated(snapshot)])
    return "\n\n".join([sentences, picture, setting, configurations_table(snapshot)])


def page(snapshot: Snapshot) -> str:
    """The whole page in Markdown."""
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
