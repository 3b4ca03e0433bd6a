"""Names and messages of a hostile branch are shown as they are, and are no markup, in each page."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from litmeter.paths import RESULTS_PAGE
from litmeter.report.pages import (
    REPORT_PAGE,
    readme_section,
    write_machines,
    write_report,
    write_results,
    write_search,
)
from litmeter.report.snapshot import read_snapshot
from litmeter.say.tables import markdown_table, markdown_text
from tests.support.capacity import OFFERS
from tests.support.hostile import (
    BRANCH,
    KWARGS,
    LINK,
    MARKUP,
    PICTURE,
    REASON,
    SCRIPT,
    commit_hostile_branch,
    write_hostile_project,
)
from tests.support.results_project import searched, write_own_project


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class Page(HTMLParser):
    """The elements of a page with their attributes, its text, and numbers of cells in rows of each table."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.widths: list[set[int]] = []
        self.cells = 0
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.cells = 0 if tag == "tr" else self.cells + (tag in ("td", "th"))
        if tag == "table":
            self.widths.append(set())

    def handle_endtag(self, tag: str) -> None:
        if tag == "tr":
            self.widths[-1].add(self.cells)

    def handle_data(self, data: str) -> None:
        self.text += data

    def check(self, *links: str, texts: Sequence[str] = (SCRIPT, PICTURE, LINK, MARKUP)) -> None:
        """Check that no element comes from hostile text, which is all shown; only ``links`` lead anywhere."""
        names = {tag for tag, _ in self.elements}
        assert names.isdisjoint({"script", "iframe", "object", "embed", "form", "base", "h3"})
        handlers = [key for _, own in self.elements for key in own if key.startswith("on")]
        assert handlers == []
        places = [str(own[key]) for _, own in self.elements for key in ("href", "src") if key in own]
        assert [one for one in places if not one.startswith(("#", *links))] == []
        assert all(len(widths) == 1 for widths in self.widths)
        for text in texts:
            assert letters(text) in letters(self.text)


def letters(text: str) -> str:
    """Without spaces, and without backticks: a pair of these makes code of what is between."""
    return re.sub(r"[\s`]", "", text)


def as_github_does(markdown: str) -> str:
    """Rendered with HTML, as a page of a repository is."""
    return str(MarkdownIt("commonmark", {"html": True}).enable(["table"]).render(markdown))


def test_a_branchs_results_are_text_in_every_page() -> None:
    write_hostile_project(write_own_project)
    write_results()
    Page(as_github_does(RESULTS_PAGE.read_text())).check("../assets/")
    section = readme_section(read_snapshot())
    Page(as_github_does(section)).check("assets/readme/")
    write_report()
    Page(REPORT_PAGE.read_text()).check("data:,")


def test_a_hostile_server_or_machine_is_text_in_its_page() -> None:
    write_search(REPORT_PAGE, REASON, searched())
    Page(REPORT_PAGE.read_text()).check("data:,")
    write_machines(REPORT_PAGE, [replace(OFFERS[0], label=SCRIPT), OFFERS[1]], 1000.0)
    Page(REPORT_PAGE.read_text()).check("data:,", texts=[SCRIPT])


def test_a_report_of_a_hostile_branch_shows_its_name_and_what_it_changed() -> None:
    commit_hostile_branch(write_own_project)
    write_report("main", BRANCH)
    page = Page(REPORT_PAGE.read_text())
    page.check("data:,")
    assert page.text.count(BRANCH) >= 2
    assert "experiments.one.command" in page.text


def test_the_page_allows_no_script_and_nothing_from_elsewhere() -> None:
    write_own_project({"three": {"command": "./b {port}"}})
    write_report()
    html = REPORT_PAGE.read_text()
    elements = [own for _, own in Page(html).elements]
    [policy] = [own["content"] for own in elements if own.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in str(policy).split(";"))
    assert rules["default-src"] == "'none'"
    assert {key for key in rules if key.startswith(("script", "connect", "object", "frame"))} == set()
    assert html.index("Content-Security-Policy") < html.index("<style")


BEGINS = ("1. a", "2)", "- a", "# a", "> a", "+ a", "---")


@pytest.mark.parametrize("text", [SCRIPT, PICTURE, LINK, MARKUP, REASON, *KWARGS.values(), *BEGINS])
def test_a_text_in_markdown_is_that_text(text: str) -> None:
    for markdown in (markdown_text(text), markdown_table(["a", "b"], [[text, "c"]])):
        html = as_github_does(markdown)
        assert re.findall(r"<(?!/?(?:p|code|table|thead|tbody|tr|th|td)\b)", html) == []
        page = Page(html)
        assert page.widths in ([], [{2}])
        assert letters(text) in letters(page.text)


def test_code_stands_between_backticks() -> None:
    assert as_github_does(markdown_text("a `b|c` d")) == "<p>a <code>b|c</code> d</p>\n"
    assert "<td><code>b|c</code></td>" in as_github_does(markdown_table(["x"], [["`b|c`"]]))
