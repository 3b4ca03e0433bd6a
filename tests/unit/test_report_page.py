"""report.html: complete in itself, the answer first, doubts marked, the rest folded; and what changed."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

from litmeter.kinds.classifier import Classifier
from litmeter.measure.comparison_rows import OverBefore
from litmeter.measure.rows import ComparisonRow
from litmeter.report.changes import beyond_intervals, changes, ratio_change, runs_table, widened
from litmeter.report.claims import verdict
from litmeter.report.pages import markdown, marked, render
from litmeter.report.snapshot import HOURS_APART, Snapshot
from litmeter.settings import CANDIDATE
from litmeter.stats.ratios import Ratio
from tests.support.results_project import searched
from tests.support.search import WINNER
from tests.support.synthetic_results import STAGES, compared, with_change

VOID = {"meta", "link", "br", "hr", "img"}


class Nesting(HTMLParser):
    """Checks that every tag is closed where it was opened; keeps links, ids and numbers of tags."""

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


def faster(snapshot: Snapshot, **settings: Any) -> Snapshot:
    """The candidate, with other settings and last of the results, serves twice as much."""
    serve = snapshot.params.serve.model_copy(update=settings)
    params = snapshot.params.model_copy(update={"serve": serve})
    *others, last = snapshot.results
    row = replace(last.compared, ratio=16.8, ratio_low=15.96, ratio_high=17.64)
    return replace(snapshot, params=params, results=[*others, replace(last, compared=row)])


@pytest.fixture(scope="module")
def page(snapshot: Snapshot) -> str:
    """A page of two revisions, of which the second is faster, and of a search; drawing it takes seconds."""
    after = replace(faster(snapshot), tuned=searched(), label="HEAD")
    return render([replace(snapshot, label="HEAD~1"), after])


def test_the_page_is_whole_and_needs_no_script_and_no_other_file(page: str, snapshot: Snapshot) -> None:
    nesting = Nesting(page)
    assert [link for link in nesting.links if not link.startswith("#")] == ["data:,"]
    assert nesting.tags["script"] == 0
    assert not any(text in page for text in ("://", ".md"))
    assert len(nesting.ids) == len(set(nesting.ids))
    assert nesting.tags["svg"] == 2 * nesting.tags["figure"]  # wide and narrow
    assert all(f"<code>{name}</code>" in page for name in snapshot.params.configurations())
    assert all(re.search(rf"<text[^>]*>{stage}</text>", page) for stage in STAGES)


def test_the_answer_the_table_and_a_picture_come_first_and_the_rest_is_folded(page: str) -> None:
    order = ["<h1>", "What changed since HEAD~1", 'class="answer">Of 8', 'class="results"']
    order += ["Rates of all configurations", "<details>", "What the search found"]
    assert sorted(order, key=page.index) == order
    assert WINNER.name in page
    folded = re.sub(r"<details>.*?</details>", "", page[page.index("<details>") :], flags=re.DOTALL)
    assert not re.search("<table|<svg|<p", folded)


def test_doubts_have_a_colour_of_their_own() -> None:
    assert marked("a `b_c` is not resolved & 1 < 2") == (
        'a <code>b_c</code> is <span class="doubt">not resolved</span> &amp; 1 &lt; 2'
    )
    assert '<span class="doubt">n/a</span>' in markdown("| a |\n| --- |\n| n/a (3 of 130 answers) |")
    assert marked("`earlier`") == "<code>earlier</code>"


ROW = replace(compared("x", 40.0, 1), ratio=2.0, ratio_low=1.9, ratio_high=2.1)


@pytest.mark.parametrize(
    ("after", "expected"),
    [((4.0, 3.8, 4.2), "faster"), ((2.1, 1.9, 2.3), "no difference resolved"), ((1.0, 0.95, 1.05), "slower")],
)
def test_a_change_is_as_certain_as_both_ratios_are(after: tuple[float, float, float], expected: str) -> None:
    ratio, low, high = after
    change = ratio_change(ROW, replace(ROW, ratio=ratio, ratio_low=low, ratio_high=high))
    assert change is not None
    assert change.ratio == pytest.approx(ratio / 2.0)
    assert change.low is not None
    assert change.high is not None
    assert change.high / change.low > high / low
    assert verdict(change) == expected


def test_a_row_without_an_interval_or_of_an_earlier_run_is_not_compared() -> None:
    unranked, reference = replace(ROW, ratio_low=None, ratio_high=None), compared("e1", 20.0, 2)
    kept = replace(ROW, earlier="2026-11-29")
    for before, after in ((None, ROW), (unranked, ROW), (ROW, unranked), (reference, reference), (ROW, kept)):
        assert ratio_change(before, after) is None


def test_changes_name_keys_and_rates(snapshot: Snapshot) -> None:
    [claim], text = changes(snapshot, faster(snapshot, max_batch_size=16))
    assert f"| `serve.max_batch_size` | {snapshot.params.serve.max_batch_size} | 16 |" in text
    assert text.count("`serve.") == 1
    assert "| `candidate` | 8.40 (7.98 to 8.82), 168 req/s | 16.8" in text
    assert "faster |" in text
    assert "| `e1_baseline` | 1, 20.0 req/s | 1, 20.0 req/s | - |" in text
    assert "max_batch_size 4 -> 16" in claim.sentence
    assert "2.00 (" in claim.sentence
    assert changes(snapshot, faster(snapshot))[0] == []  # no key of serve has changed


def test_of_one_comparison_nothing_is_said_to_change(snapshot: Snapshot) -> None:
    claimed, text = changes(snapshot, snapshot)
    assert claimed == []
    assert "the same comparison; measured anew: nothing" in text
    assert "chance" not in text


def test_a_gain_of_changed_code_is_no_chance(snapshot: Snapshot) -> None:
    """Though no key of params.yaml has changed; and nothing tells how far the two runs can be compared."""
    signatures = {name: f"{name}'s of new code" for name in snapshot.comparison.signatures}
    comparison = snapshot.comparison.model_copy(update={"signatures": signatures})
    lock = [
        {"deps": [{"path": "server.py", "md5": md5}, {"path": "same.py", "md5": "0"}]} for md5 in ("1", "2")
    ]
    before = replace(snapshot, measured_with=lock[0])
    after = replace(faster(snapshot), comparison=comparison, measured_with=lock[1])
    _, text = changes(before, after)
    assert "Files that have changed: `server.py`." in text
    assert "chance" not in text
    [found] = re.findall(r"\| `candidate` \|.*\| 2.00 \((.*) to (.*)\), faster \|", text)
    assert float(found[0]) < 2 * math.exp(-HOURS_APART) < 2 * math.exp(HOURS_APART) < float(found[1])


def test_configurations_that_did_not_change_tell_how_far_two_runs_can_be_compared(snapshot: Snapshot) -> None:
    """As where neighbours slowed the reference in one of the runs."""

    def times_8(row: ComparisonRow) -> ComparisonRow:
        if row.experiment in (CANDIDATE, snapshot.reference) or not row.ratio:
            return row
        ends = {key: 8 * getattr(row, key) for key in ("ratio", "ratio_low", "ratio_high")}
        return replace(row, **ends)

    after = faster(snapshot, max_batch_size=16)
    results = [replace(one, compared=times_8(one.compared)) for one in after.results]
    [claim], text = changes(snapshot, replace(after, results=results))
    assert "faster" not in text
    assert "chance" in text
    assert "no difference resolved" in claim.sentence


def test_runs_differ_beyond_their_intervals_as_what_did_not_change_says() -> None:
    assert beyond_intervals([]) == beyond_intervals([Ratio(1.02, 0.98, 1.06)]) == 0.0
    eightfold = beyond_intervals([Ratio(8.0, 6.0, 10.7)] * 3)
    assert math.exp(eightfold) > 8.0
    wide = widened(Ratio(9.0, 8.0, 10.1), eightfold)
    assert wide.ratio == 9.0
    assert wide.low is not None
    assert wide.low < 1


def test_a_ratio_of_the_same_rounds_is_said_where_it_is_of_these_settings(snapshot: Snapshot) -> None:
    for changed, told in (((4, 16), True), ((8, 16), False)):
        over = OverBefore(ratio=1.02, low=0.97, high=1.07, changes={"max_batch_size": changed})
        [claim], _ = changes(snapshot, with_change(faster(snapshot, max_batch_size=16), over))
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
    assert f": {named}." in text
    assert "Another CPU" in text


def test_another_library_on_the_same_machine_is_named(snapshot: Snapshot) -> None:
    machine = {**snapshot.machine, "torch": "9.9", "OMP_NUM_THREADS": "1"}
    _, text = changes(snapshot, replace(snapshot, machine=machine))
    plain = text.replace("\\", "")
    assert "torch 2.0, OMP_NUM_THREADS - before, torch 9.9, OMP_NUM_THREADS 1 after" in plain
    assert "Another machine" not in text


def test_a_configuration_that_was_removed_is_still_shown(snapshot: Snapshot) -> None:
    less = replace(snapshot, results=snapshot.results[:-1])
    assert "| `candidate` | 8.40 (7.98 to 8.82), 168 req/s | - | - |" in changes(snapshot, less)[1]


def test_three_runs_of_the_same_have_a_table_of_their_ratios(snapshot: Snapshot) -> None:
    runs = [replace(snapshot, label=str(number), measured_with={"deps": ["a"]}) for number in range(3)]
    table = runs_table([*runs[:2], faster(runs[2])])
    assert re.search(rf"\| `{CANDIDATE}` \| .*\| 8.40, 8.40, 16.80 \|", table)
    assert "`e1_baseline`" not in table
    others = [replace(runs[2], measured_with=other) for other in ({"deps": ["b"]}, None)]
    for few in (runs[:2], *([*runs[:2], other] for other in others)):
        assert runs_table(few) == ""
