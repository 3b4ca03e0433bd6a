"""The page to try the server, and those that describe its API, in a real Chromium, on the real server."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from litmeter.kinds.classifier import Classifier
from litmeter.kinds.server import StartedServer
from litmeter.paths import ModelFolders
from tests.browser.conftest import forget, requests_of
from tests.support.asking import post_image
from tests.support.servers import running_server, serve_command

SETTINGS = Classifier(max_batch_size=4, preprocess="torchvision", transport="direct")
PATIENCE_S = 60


@pytest.fixture(scope="module")
def server(exported: ModelFolders) -> Iterator[StartedServer]:
    with running_server(exported, SETTINGS) as running:
        yield running


@pytest.fixture
def page(chromium: Any, server: StartedServer) -> Iterator[Any]:
    """The page, just opened; at the end, nothing has gone wrong unseen and nothing came from elsewhere."""
    forget(chromium)
    chromium.get(server.url)
    yield chromium
    assert complaints(chromium) == []
    assert foreign(chromium, server.url) == []


def complaints(chromium: Any) -> list[str]:
    """The console's messages; that a request was refused is one, and is the test's own wish."""
    entries = chromium.get_log("browser")
    return [one["message"] for one in entries if "responded with a status of 4" not in one["message"]]


def foreign(chromium: Any, url: str) -> list[str]:
    sent = requests_of(chromium)
    assert any(one.startswith(url) for one in sent)
    return [one for one in sent if not one.startswith((url, "data:", "blob:", "about:"))]


def text(chromium: Any, selector: str) -> str:
    return str(chromium.execute_script("return document.querySelector(arguments[0]).innerText", selector))


def until(chromium: Any, condition: Callable[[Any], Any]) -> Any:
    from selenium.webdriver.support.wait import WebDriverWait

    return WebDriverWait(chromium, PATIENCE_S, 0.1).until(condition)


def choose(chromium: Any, path: Path) -> None:
    chromium.find_element("id", "file").send_keys(str(path))


def test_a_photo_gets_label_probabilities_and_time_within_a_phones_screen(
    page: Any, server: StartedServer, photos: list[Path]
) -> None:
    expected = post_image(server.url, photos[0].read_bytes()).json()
    choose(page, photos[0])
    until(page, lambda _: "there and back" in text(page, "#outcome"))
    assert text(page, ".verdict strong") == expected["label"]
    assert f"{100 * expected['probability']:.1f}%" in text(page, "#outcome")
    for label in expected["probabilities"]:
        assert label in text(page, "#outcome")
    until(page, lambda _: "test_efficientnet" in text(page, "#model"))
    assert page.execute_script("return document.getElementById('preview').naturalWidth") > 0
    size = {"width": 360, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    assert page.execute_script("return document.documentElement.scrollWidth") <= 360
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_file_that_is_no_image_is_refused_with_reason(page: Any, tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("no image")
    choose(page, file)
    until(page, lambda _: "notes.txt was refused (4" in text(page, "#outcome"))
    assert "not a readable image" in text(page, "#outcome")


def test_a_file_beyond_the_servers_limit_is_not_sent(page: Any, tmp_path: Path) -> None:
    until(page, lambda _: "test_efficientnet" in text(page, "#model"))
    file = tmp_path / "large.png"
    file.write_bytes(bytes(20_000_001))
    choose(page, file)
    until(page, lambda _: "large.png was not sent" in text(page, "#outcome"))
    assert "20 MB at most" in text(page, "#outcome")


def test_the_live_picture_moves_under_load(page: Any, server: StartedServer, photos: list[Path]) -> None:
    until(
        page,
        lambda _: "answers/s" in text(page, "#throughput") and "last minute" in text(page, "#live-state"),
    )
    with load(server.url, photos):
        for shown in ("#throughput b", "#queue b", "#batch b"):
            until(page, lambda _, shown=shown: float(text(page, shown).split()[0].replace("–", "0")) > 0)
        line = "return document.querySelector('#throughput .line').getAttribute('d')"
        before = page.execute_script(line)
        until(page, lambda _: page.execute_script(line) != before)
    until(page, lambda _: text(page, "#throughput b").split()[0] == "0")


@contextmanager
def load(url: str, photos: list[Path]) -> Iterator[None]:
    """Eight users."""
    done, body = threading.Event(), photos[0].read_bytes()

    def ask() -> None:
        while not done.is_set():
            post_image(url, body)

    users = [threading.Thread(target=ask) for _ in range(8)]
    for user in users:
        user.start()
    try:
        yield
    finally:
        done.set()
        for user in users:
            user.join()


def test_key_closed_metrics_and_a_stopped_server_are_explained(
    chromium: Any, exported: ModelFolders, photos: list[Path], tmp_path: Path
) -> None:
    """The page asks for the key, keeps it in its tab, and says what it cannot show or reach."""
    forget(chromium)
    with serve_command(tmp_path, exported, "--no-metrics", key="a-key-of-ours") as command:
        chromium.get(command.url)
        until(chromium, lambda _: chromium.find_element("id", "key").is_displayed())
        chromium.find_element("id", "key").send_keys("wrong\n")
        until(chromium, lambda _: "does not take this key" in text(chromium, "#key-note"))
        chromium.find_element("id", "key").send_keys("a-key-of-ours\n")
        until(chromium, lambda _: "test_efficientnet" in text(chromium, "#model"))
        assert not chromium.find_element("id", "key").is_displayed()
        until(chromium, lambda _: "keeps its metrics to itself" in text(chromium, "#live-state"))
        choose(chromium, photos[0])
        until(chromium, lambda _: "there and back" in text(chromium, "#outcome"))
        kept = "return Object.keys(localStorage).length + document.cookie.length"
        assert chromium.execute_script(kept) == 0
    assert complaints(chromium) == []
    choose(chromium, photos[1])
    until(chromium, lambda _: "The server is gone" in text(chromium, "#outcome"))
