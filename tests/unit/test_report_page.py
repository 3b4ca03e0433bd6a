"""report.html: complete in itself, the answer first, doubts marked, the rest folded."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from litmeter.measure.rows import ComparisonRow
from litmeter.params import CANDIDATE, ServeSettings
from litmeter.report.changes import changes, rate_change
from litmeter.report.page import markdown, marked, render
from litmeter.report.snapshot import Snapshot
from tests.support.results_project import searched
from tests.support.search import WINNER
from tests.support.synthetic_results import STAGES, compared

VOID = {"meta", "link", "br", "hr", "img"}


class Nesting(HTMLParser):
    """Checks that every tag is closed where it was opened, and keeps what is linked to and all ids."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.tags: Counter[str] = Counter()
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page(snapshot: Snapshot) -> str:
    """Of two revisions, of which the second is faster, and of a search; drawing it takes seconds."""
    after = replace(snapshot, compared=faster(snapshot), tuned=searched(), label="HEAD")
    return render([replace(snapshot, label="HEAD~1"), after])


def faster(snapshot: Snapshot) -> list[ComparisonRow]:
    return [with_ratio(row, 6.0, 5.8, 6.2) if row.ratio == 3 else row for row in snapshot.compared]


def with_ratio(row: ComparisonRow, ratio: float, low: float, high: float) -> ComparisonRow:
    return replace(row, ratio=ratio, ratio_low=low, ratio_high=high)


def test_the_page_is_whole_and_needs_no_script_and_no_other_file(page: str, snapshot: Snapshot) -> None:
    nesting = Nesting(page)
    assert [link for link in nesting.links if not link.startswith("#")] == ["data:,"]
    assert nesting.tags["script"] == 0
    assert "://" not in page
    assert len(nesting.ids) == len(set(nesting.ids))
    # Bounds, rates and use of each; without a served answer there is no share of its time.
    configurations = snapshot.params.configurations()
    assert nesting.tags["figure"] >= 3 * len(configurations)
    assert nesting.tags["svg"] > nesting.tags["figure"]
    for name in configurations:
        assert f"<code>{name}</code>" in page
    for stage in STAGES:
        assert re.search(rf"<text[^>]*>{stage}</text>", page)


def test_the_answer_comes_first_and_the_rest_is_folded(page: str) -> None:
    order = ["<h1>", 'class="answer"', "What changed since HEAD~1", "How they compare", "What limits each"]
    order += ["What the search found", "All the rest", "all figures"]
    assert sorted(order, key=page.index) == order
    opened = re.findall(r"<details open><summary><code>(\w+)</code>", page)
    assert opened == ["e4_half", CANDIDATE]  # the fastest, and what is shipped
    rest = page[page.index("All the rest") :]
    assert "<details open" not in rest
    assert "<table" not in re.sub(r"<details>.*?</details>", "", rest, flags=re.DOTALL)


def test_what_was_searched_is_told_and_no_capacity_is_quoted(page: str) -> None:
    assert WINNER.name in page
    assert not re.search(r"\b309\b", page)


def test_doubts_have_a_colour_of_their_own() -> None:
    assert marked("a `b_c` is not resolved & 1 < 2") == (
        'a <code>b_c</code> is <span class="doubt">not resolved</span> &amp; 1 &lt; 2'
    )
    assert marked("Not resolved: `drift`") == '<span class="doubt">Not resolved</span>: <code>drift</code>'
    assert '<span class="doubt">not valid</span>' in markdown("| a |\n| --- |\n| not valid |")


@pytest.mark.parametrize(
    ("after", "verdict"),
    [((4.0, 3.8, 4.2), "faster"), ((2.1, 1.9, 2.3), "not resolved"), ((1.0, 0.95, 1.05), "slower")],
)
def test_a_change_is_as_certain_as_both_ratios_are(after: tuple[float, float, float], verdict: str) -> None:
    row = compared("x", 40.0, 1)
    change = rate_change(with_ratio(row, 2.0, 1.9, 2.1), with_ratio(row, *after))
    assert change is not None
    assert change.ratio == pytest.approx(after[0] / 2.0)
    assert change.low < change.ratio < change.high
    assert change.high / change.low > after[2] / after[1]
    assert change.verdict == verdict


def test_what_has_no_interval_is_not_compared() -> None:
    row = compared("x", 40.0, 1)
    unranked = replace(row, ratio_low=None, ratio_high=None)
    reference = compared("e1", 20.0, 2)
    kept = replace(row, earlier=True)
    for before, after in ((None, row), (unranked, row), (row, unranked), (reference, reference), (row, kept)):
        assert rate_change(before, after) is None


def test_changes_name_keys_and_rates(snapshot: Snapshot) -> None:
    params = snapshot.params.model_copy(
        update={"serve": snapshot.params.serve.model_copy(update={"max_batch_size": 16})}
    )
    after = replace(snapshot, compared=faster(snapshot), params=params, label="HEAD")
    found = changes(replace(snapshot, label="HEAD~1"), after)
    assert f"| `serve.max_batch_size` | {snapshot.params.serve.max_batch_size} | 16 |" in found.text
    assert found.text.count("`serve.") == 1
    assert "| `candidate` | 3.00 (2.85 to 3.15), 60.0 req/s | 6.00" in found.text
    assert "faster |" in found.text
    assert "| `e1_baseline` | 1, 20.0 req/s | 1, 20.0 req/s | - |" in found.text
    assert found.chart is not None


@pytest.mark.parametrize(
    ("section", "update", "named"),
    [
        ("experiments", {"e1_baseline": ServeSettings(max_batch_size=2)}, "the reference"),
        ("comparison", {"users": (4,)}, "the number of users"),
        ("model", {"name": "other"}, "the model"),
        ("data", {"task": "breed"}, "the photos"),
        ("load", {"request_body": "json"}, "what users send"),
    ],
)
def test_ratios_of_other_work_are_not_compared(
    snapshot: Snapshot, section: str, update: dict[str, object], named: str
) -> None:
    own = getattr(snapshot.params, section)
    changed = own | update if isinstance(own, dict) else own.model_copy(update=update)
    machine = {**snapshot.machine, "id": "4567", "cpu": "Another CPU"}
    params = snapshot.params.model_copy(update={section: changed})
    found = changes(replace(snapshot, params=params, machine=machine), snapshot)
    assert found.chart is None
    assert f"Ratios cannot be compared, as these changed: {named}." in found.text
    assert "Another machine: " in found.text
    assert "Another CPU" in found.text


def test_a_configuration_that_was_removed_is_still_shown(snapshot: Snapshot) -> None:
    less = replace(snapshot, compared=snapshot.compared[:-1])
    assert "| `candidate` | 3.00 (2.85 to 3.15), 60.0 req/s | - | - |" in changes(snapshot, less).text
