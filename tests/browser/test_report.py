"""report.html in a real Chromium: drawn, whole and readable on any screen and paper, without a script."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from litmeter.report.pages import REPORT_PAGE, write_report
from litmeter.settings import CANDIDATE
from tests.browser.conftest import forget
from tests.browser.test_plots import requested
from tests.support.capacity import write_capacity
from tests.support.hostile import BRANCH, COMMAND, commit_hostile_branch
from tests.support.results_project import AVX2, BFLOAT16, write_own_project, write_project

WIDTHS = (1280, 400)

OPEN_ALL = 'document.querySelectorAll("details").forEach((part) => { part.open = true; });'
# Texts that reach beyond their picture, pictures that reach beyond the window, and a page that does.
CUT_OFF = """
const beyond = (inner, outer) => inner.left < outer.left - 1 || inner.right > outer.right + 1
  || inner.top < outer.top - 1 || inner.bottom > outer.bottom + 1;
const window_ = {left: 0, right: document.documentElement.clientWidth, top: -1e9, bottom: 1e9};
const found = [];
for (const picture of document.querySelectorAll("svg")) {
  if (!picture.getClientRects().length) continue;
  const frame = picture.getBoundingClientRect();
  if (beyond(frame, window_)) found.push("a picture");
  for (const text of picture.querySelectorAll("text")) {
    if (beyond(text.getBoundingClientRect(), frame)) found.push(text.textContent);
  }
}
return found.concat(document.documentElement.scrollWidth > window_.right ? ["the page is wider"] : []);
"""
# Pixels of the table of results that are seen only where one scrolls it.
HIDDEN = """
const box = document.querySelector(".results .scroll");
return box.scrollWidth - box.clientWidth;
"""
# Of each figure: the heights of its pictures that are seen, and of the letters in them, in pixels.
SEEN = """
const seen = (selector, within) => [...within.querySelectorAll(selector)]
  .filter((one) => one.checkVisibility()).map((one) => one.getBoundingClientRect().height);
return [...document.querySelectorAll("figure")].map((one) => [seen("svg", one), seen("text", one)]);
"""
# What somebody's text has become besides text, and what it has done.
OWNED = """
const handlers = [...document.querySelectorAll("*")]
  .filter((one) => [...one.attributes].some((own) => own.name.startsWith("on")));
const elements = document.querySelectorAll("script, img, a, iframe, form, object");
return [window.owned, elements.length, handlers.length];
"""
INJECTED = """
const script = document.createElement("script");
script.textContent = "window.owned = 5";
document.body.append(script);
const picture = document.createElement("img");
picture.setAttribute("onerror", "window.owned = 6");
const failed = new Promise((done) => picture.addEventListener("error", () => done(window.owned)));
picture.src = "data:,";
return failed;
"""
SELECTED = """
getSelection().selectAllChildren(document.querySelector("figure"));
return getSelection().toString();
"""


@pytest.fixture(scope="module", params=[AVX2, BFLOAT16], ids=["emulating", "native"])
def address(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report of either kind of machine."""
    folder = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_project(request.param, earlier="e2_batching", changed=True)
        write_capacity(CANDIDATE)
        write_report()
    return (folder / REPORT_PAGE).as_uri()


def show(chromium: Any, address: str, width: int = WIDTHS[0], media: str = "") -> None:
    """Open the page."""
    forget(chromium)
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media})
    chromium.get(address)


@pytest.fixture(autouse=True)
def _own_settings(chromium: Any) -> Iterator[None]:
    yield
    chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    chromium.get("about:blank")


@pytest.mark.parametrize("width", WIDTHS)
def test_every_chart_is_readable_and_nothing_is_cut_off(chromium: Any, address: str, width: int) -> None:
    show(chromium, address, width)
    chromium.execute_script(OPEN_ALL)
    assert chromium.execute_script(CUT_OFF) == []
    assert chromium.execute_script(HIDDEN) <= 0
    figures = chromium.execute_script(SEEN)
    assert figures
    for pictures, letters in figures:
        assert len(pictures) == 1  # the wide or the narrow one
        assert min(letters) >= 9
    assert requested(chromium) == []
    assert [one["message"] for one in chromium.get_log("browser") if one["level"] == "SEVERE"] == []


def test_the_texts_of_a_chart_can_be_selected(chromium: Any, address: str) -> None:
    show(chromium, address)
    selected = chromium.execute_script(SELECTED)
    assert "e1_baseline" in selected
    assert "MiB" in selected


def test_all_that_is_folded_is_printed(chromium: Any, address: str) -> None:
    show(chromium, address)
    folded = sum(1 for pictures, _ in chromium.execute_script(SEEN) if not pictures)
    assert folded
    show(chromium, address, WIDTHS[1], media="print")
    assert all(len(pictures) == 1 for pictures, _ in chromium.execute_script(SEEN))


def test_the_report_of_a_hostile_branch_runs_nothing_that_it_wrote(
    chromium: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    commit_hostile_branch(write_own_project)
    write_report("main", BRANCH)
    show(chromium, (tmp_path / REPORT_PAGE).as_uri())
    chromium.execute_script(OPEN_ALL)
    assert chromium.execute_script(OWNED) == [None, 0, 0]
    assert chromium.title == f"litmeter: {BRANCH}"
    text = " ".join(chromium.execute_script("return document.body.innerText").replace("`", "").split())
    for shown in (f"Results of {BRANCH}", COMMAND[:50].replace("`", "")):
        assert shown in text
    assert requested(chromium) == []
    assert [one["message"] for one in chromium.get_log("browser")] == []
    # Whatever were to get into it in spite of all that may not run.
    assert chromium.execute_script(INJECTED) is None
    refused = [one["message"] for one in chromium.get_log("browser")]
    assert refused
    assert all("Content Security Policy" in message for message in refused)
