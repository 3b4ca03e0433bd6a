"""report.html: complete in itself, the answer first, doubts marked, the rest folded."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from litmeter.kinds.classifier import Classifier
from litmeter.measure.comparison_rows import OverBefore
from litmeter.measure.rows import ComparisonRow
from litmeter.report.changes import beyond_intervals, changes, ratio_change, runs_table, widened
from litmeter.report.claims import verdict
from litmeter.report.pages import markdown, marked, render
from litmeter.report.snapshot import Snapshot
from litmeter.settings import CANDIDATE
from litmeter.stats.ratios import Ratio
from tests.support.results_project import searched
from tests.support.search import WINNER
from tests.support.synthetic_results import STAGES, compared, with_change

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
    after = replace(faster(snapshot), tuned=searched(), label="HEAD")
    return render([replace(snapshot, label="HEAD~1"), after])


def faster(snapshot: Snapshot) -> Snapshot:
    """The candidate serves twice as much."""
    *others, last = snapshot.results
    row = last.compared
    assert row.ratio is not None
    return replace(
        snapshot,
        results=[
            *others,
            replace(last, compared=with_ratio(row, 2 * row.ratio, 1.9 * row.ratio, 2.1 * row.ratio)),
        ],
    )


def with_serve(snapshot: Snapshot, **settings: object) -> Snapshot:
    params = snapshot.params
    serve = params.serve.model_copy(update=settings)
    return replace(snapshot, params=params.model_copy(update={"serve": serve}))


def with_ratio(row: ComparisonRow, ratio: float, low: float, high: float) -> ComparisonRow:
    return replace(row, ratio=ratio, ratio_low=low, ratio_high=high)


def test_the_page_is_whole_and_needs_no_script_and_no_other_file(page: str, snapshot: Snapshot) -> None:
    nesting = Nesting(page)
    assert [link for link in nesting.links if not link.startswith("#")] == ["data:,"]
    assert nesting.tags["script"] == 0
    assert "://" not in page
    assert ".md" not in page  # it is sent without those
    assert len(nesting.ids) == len(set(nesting.ids))
    assert nesting.tags["svg"] == 2 * nesting.tags["figure"]  # wide and narrow
    for name in snapshot.params.configurations():
        assert f"<code>{name}</code>" in page
    for stage in STAGES:
        assert re.search(rf"<text[^>]*>{stage}</text>", page)


def test_the_answer_the_table_and_a_picture_come_first_and_the_rest_is_folded(page: str) -> None:
    order = ["<h1>", "What changed since HEAD~1", 'class="answer">Of 8', 'class="results"']
    order += ["Rates of all configurations", "<details>", "What the search found"]
    assert sorted(order, key=page.index) == order
    assert WINNER.name in page
    rest = page[page.index("<details>") :]
    folded = re.sub(r"<details>.*?</details>", "", rest, flags=re.DOTALL)
    assert not re.search("<table|<svg|<p", folded)


def test_doubts_have_a_colour_of_their_own() -> None:
    assert marked("a `b_c` is not resolved & 1 < 2") == (
        'a <code>b_c</code> is <span class="doubt">not resolved</span> &amp; 1 &lt; 2'
    )
    assert '<span class="doubt">n/a</span>' in markdown("| a |\n| --- |\n| n/a (3 of 130 answers) |")
    assert marked("`earlier`") == "<code>earlier</code>"


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ((4.0, 3.8, 4.2), "faster"),
        ((2.1, 1.9, 2.3), "no difference resolved"),
        ((1.0, 0.95, 1.05), "slower"),
    ],
)
def test_a_change_is_as_certain_as_both_ratios_are(after: tuple[float, float, float], expected: str) -> None:
    row = compared("x", 40.0, 1)
    change = ratio_change(with_ratio(row, 2.0, 1.9, 2.1), with_ratio(row, *after))
    assert change is not None
    assert change.ratio == pytest.approx(after[0] / 2.0)
    assert change.low is not None
    assert change.high is not None
    assert change.high / change.low > after[2] / after[1]
    assert verdict(change) == expected


def test_what_has_no_interval_is_not_compared() -> None:
    row = compared("x", 40.0, 1)
    unranked = replace(row, ratio_low=None, ratio_high=None)
    reference = compared("e1", 20.0, 2)
    kept = replace(row, earlier="2026-11-29")
    for before, after in ((None, row), (unranked, row), (row, unranked), (reference, reference), (row, kept)):
        assert ratio_change(before, after) is None


def test_changes_name_keys_and_rates(snapshot: Snapshot) -> None:
    after = with_serve(faster(snapshot), max_batch_size=16)
    [claim], text = changes(snapshot, after)
    assert f"| `serve.max_batch_size` | {snapshot.params.serve.max_batch_size} | 16 |" in text
    assert text.count("`serve.") == 1
    assert "| `candidate` | 8.40 (7.98 to 8.82), 168 req/s | 16.8" in text
    assert "faster |" in text
    assert "| `e1_baseline` | 1, 20.0 req/s | 1, 20.0 req/s | - |" in text
    assert "max_batch_size 4 -> 16" in claim.sentence
    assert "2.00 (" in claim.sentence
    assert changes(snapshot, faster(snapshot))[0] == []  # no key of serve has changed


def test_what_did_not_change_tells_how_far_two_runs_can_be_compared(snapshot: Snapshot) -> None:
    """As where neighbours slowed the reference in one of them."""
    after = with_serve(faster(snapshot), max_batch_size=16)
    others = [
        replace(one, compared=with_ratio(row, 8 * row.ratio, 8 * row.ratio_low, 8 * row.ratio_high))
        if (row := one.compared).ratio
        and row.ratio_low
        and row.ratio_high
        and one.name not in (CANDIDATE, snapshot.reference)
        else one
        for one in after.results
    ]
    [claim], text = changes(snapshot, replace(after, results=others))
    assert "faster" not in text
    assert "unchanged, so that is chance" in text
    assert "no difference resolved" in claim.sentence


def test_runs_differ_beyond_their_intervals_as_what_did_not_change_says() -> None:
    assert beyond_intervals([]) == beyond_intervals([Ratio(1.02, 0.98, 1.06)]) == 0.0
    eightfold = beyond_intervals([Ratio(8.0, 6.0, 10.7)] * 3)
    assert math.exp(eightfold) > 8.0
    wide = widened(Ratio(9.0, 8.0, 10.1), eightfold)
    assert wide.ratio == 9.0
    assert wide.low is not None
    assert wide.low < 1


def test_what_was_measured_in_the_same_rounds_is_said_where_it_is_about_these_two(snapshot: Snapshot) -> None:
    for changed, told in (((4, 16), True), ((8, 16), False)):
        other = with_serve(faster(snapshot), max_batch_size=16)
        over = OverBefore(ratio=1.02, low=0.97, high=1.07, changes={"max_batch_size": changed})
        measured = with_change(other, over)
        [claim], _ = changes(snapshot, measured)
        assert ("1.02 (0.97 to 1.07)" in claim.sentence) is told


@pytest.mark.parametrize(
    ("section", "update", "named"),
    [
        ("experiments", {"e1_baseline": Classifier(max_batch_size=2)}, "the reference"),
        ("comparison", {"users": 4}, "the number of users"),
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
    machine = {**snapshot.machine, "id": "9876", "cpu": "Another CPU"}
    params = snapshot.params.model_copy(update={section: changed})
    said, text = changes(replace(snapshot, params=params, machine=machine), snapshot)
    assert said == []
    assert "faster" not in text
    assert f"Ratios cannot be compared, as these changed: {named}." in text
    assert "Another CPU" in text


def test_another_library_on_the_same_machine_is_named(snapshot: Snapshot) -> None:
    machine = {**snapshot.machine, "torch": "9.9", "OMP_NUM_THREADS": "1"}
    _, text = changes(snapshot, replace(snapshot, machine=machine))
    plain = text.replace("\\", "")
    assert "torch 2.0, OMP_NUM_THREADS - before, torch 9.9, OMP_NUM_THREADS 1 after" in plain
    assert "Another environment" in plain
    assert "Another machine" not in text


def test_a_configuration_that_was_removed_is_still_shown(snapshot: Snapshot) -> None:
    less = replace(snapshot, results=snapshot.results[:-1])
    assert "| `candidate` | 8.40 (7.98 to 8.82), 168 req/s | - | - |" in changes(snapshot, less)[1]


def test_three_runs_of_the_same_say_what_another_hour_may_bring(snapshot: Snapshot) -> None:
    runs = [replace(snapshot, label=str(number), measured_with={"deps": ["a"]}) for number in range(3)]
    table = runs_table([*runs[:2], faster(runs[2])])
    assert re.search(rf"\| `{CANDIDATE}` \| .*\| 8.40, 8.40, 16.80 \|", table)
    assert "`e1_baseline`" not in table
    other = replace(runs[2], measured_with={"deps": ["b"]})
    unknown = replace(runs[2], measured_with=None)
    for few in (runs[:2], [*runs[:2], other], [*runs[:2], unknown]):
        assert runs_table(few) == ""
