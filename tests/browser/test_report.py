"""report.html in a real Chromium that reaches no network: drawn, whole, and readable on any paper."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

from litmeter.report.html.write import write_report
from tests.browser.test_plots import requested
from tests.support.project import ROOT

PATIENCE_S = 60
WIDTHS = (1280, 390)

OPEN_ALL = """
document.querySelectorAll("details").forEach((part) => { part.open = true; });
document.querySelectorAll("[data-configuration]").forEach((part) => { part.hidden = false; });
"""
UNDRAWN = """return [...document.querySelectorAll(".chart")]
  .filter((place) => !place.querySelector("svg.marks .role-mark")).map((place) => place.id);"""
# Texts that reach beyond their picture or the window, and pictures that do.
CUT_OFF = """
const beyond = (inner, outer) => inner.left < outer.left - 1 || inner.right > outer.right + 1
  || inner.top < outer.top - 1 || inner.bottom > outer.bottom + 1;
const window_ = {left: 0, right: document.documentElement.clientWidth, top: -1e9, bottom: 1e9};
const found = [];
for (const picture of document.querySelectorAll(".chart svg")) {
  const frame = picture.getBoundingClientRect();
  if (beyond(frame, window_)) found.push("picture " + picture.closest(".chart").id);
  for (const text of picture.querySelectorAll("text")) {
    if (text.textContent && beyond(text.getBoundingClientRect(), frame)) {
      found.push(picture.closest(".chart").id + ": " + text.textContent);
    }
  }
}
return found.concat(document.documentElement.scrollWidth > window_.right ? ["the page is wider"] : []);
"""
# Of each text that is seen: its colour, and that of the paper.
COLOURS = """
const paper = getComputedStyle(document.body).backgroundColor;
const texts = [...document.querySelectorAll("p, summary, figcaption, td, th, h1, .doubt, .chart svg text")]
  .filter((one) => one.textContent.trim() && one.getClientRects().length);
return [paper, [...new Set(texts.map((one) => {
  const style = getComputedStyle(one);
  return one.tagName === "text" ? style.fill : style.color;
}))]];
"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report of the committed results."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        write_report([], path)
    return path.as_uri()


def show(chromium: Any, address: str, width: int, scheme: str = "light") -> None:
    """Open the page with everything unfolded, and wait until it is drawn."""
    for log in ("browser", "performance"):
        chromium.get_log(log)
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    chromium.get(address)
    chromium.execute_script(OPEN_ALL)
    until = time.monotonic() + PATIENCE_S
    while (undrawn := chromium.execute_script(UNDRAWN)) and time.monotonic() < until:
        time.sleep(0.2)
    assert undrawn == []


@pytest.fixture(autouse=True)
def _own_settings(chromium: Any) -> Iterator[None]:
    yield
    chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    chromium.get("about:blank")


@pytest.mark.parametrize("width", WIDTHS)
def test_every_chart_is_drawn_and_nothing_is_cut_off(chromium: Any, address: str, width: int) -> None:
    show(chromium, address, width)
    assert chromium.execute_script(CUT_OFF) == []
    assert requested(chromium) == []
    assert [one["message"] for one in chromium.get_log("browser") if one["level"] == "SEVERE"] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_stands_out_from_the_paper(chromium: Any, address: str, scheme: str) -> None:
    show(chromium, address, WIDTHS[0], scheme)
    paper, texts = chromium.execute_script(COLOURS)
    assert (luminance(paper) > 0.5) is (scheme == "light")
    for text in texts:
        dark, light = sorted((luminance(paper), luminance(text)))
        assert (light + 0.05) / (dark + 0.05) >= (3 if coloured(text) else 4.5), (text, paper)


def luminance(colour: str) -> float:
    """Relative luminance of "rgb(r, g, b)", by WCAG."""
    shares = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def coloured(colour: str) -> bool:
    """Whether it is a label in a line's own colour, which is large or repeated in black elsewhere."""
    parts = [int(part) for part in re.findall(r"\d+", colour)[:3]]
    return max(parts) - min(parts) > 60


def test_a_configuration_can_be_chosen_and_all_are_printed(chromium: Any, address: str) -> None:
    show(chromium, address, WIDTHS[0])
    chromium.get(address)
    time.sleep(2)
    shown = "return [...document.querySelectorAll('[data-configuration]')].filter((p) => !p.hidden).length"
    assert chromium.execute_script(shown) == 1
    chromium.execute_script("choice.value = 'e7_tuned'; choice.dispatchEvent(new Event('change'));")
    assert (
        chromium.execute_script("return document.querySelector('[data-configuration=e7_tuned]').hidden")
        is False
    )
    assert chromium.execute_script(shown) == 1
    chromium.execute_cdp_cmd("Page.printToPDF", {})  # folds up again what it unfolded
    assert chromium.execute_script("return document.querySelectorAll('details[open]').length") == 0
    assert chromium.execute_script(UNDRAWN) == []


def test_a_chart_that_was_hidden_while_the_window_changed_is_as_wide_as_the_others(
    chromium: Any, address: str
) -> None:
    show(chromium, address, WIDTHS[0])
    chromium.execute_script("choice.value = 'candidate'; choice.dispatchEvent(new Event('change'));")
    size = {"width": WIDTHS[1], "height": 900, "deviceScaleFactor": 1, "mobile": True}
    chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    time.sleep(2)
    chromium.execute_script("choice.value = 'e7_tuned'; choice.dispatchEvent(new Event('change'));")
    widths = chromium.execute_script(
        "return [...document.querySelectorAll('[data-configuration=e7_tuned] > figure svg')]"
        ".map((picture) => picture.getBoundingClientRect().width)"
    )
    assert widths
    assert all(300 < width <= WIDTHS[1] for width in widths)
