"""The pages that describe the API, in a real Chromium that reaches nothing but the server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from litmeter.params import ServeSettings
from litmeter.paths import ModelFolders
from litmeter.serving.launcher import RunningServer, running_server
from tests.browser.test_page import complaints, foreign, forget, text, until

LOGO = "https://cdn.redoc.ly/redoc/logo-mini.svg"
"""Of ReDoc's maker: ReDoc asks for it, the page's policy forbids it, and nothing is missing without."""


@pytest.fixture(scope="module", params=["direct", "litserve"])
def server(request: pytest.FixtureRequest, exported: ModelFolders) -> Iterator[RunningServer]:
    settings = ServeSettings(max_batch_size=4, transport=request.param)
    with running_server(exported, settings, "cpu", 30.0) as running:
        yield running


def wait_and_click(chromium: Any, selector: str) -> None:
    until(chromium, lambda _: chromium.find_elements("css selector", selector))
    chromium.find_element("css selector", selector).click()


def test_swagger_ui_shows_predict_and_sends_it_a_request(chromium: Any, server: RunningServer) -> None:
    forget(chromium)
    chromium.get(f"{server.url}/docs")
    until(chromium, lambda _: chromium.find_elements("css selector", ".opblock-post"))
    assert text(chromium, ".opblock-post .opblock-summary-method") == "POST"
    # Swagger UI puts a zero-width space where a path may be broken.
    assert text(chromium, ".opblock-post .opblock-summary-path").replace("\u200b", "") == "/predict"
    wait_and_click(chromium, ".opblock-post .opblock-summary-control")
    wait_and_click(chromium, ".opblock-post .try-out__btn")
    wait_and_click(chromium, ".opblock-post .execute")
    # The example that it makes up is no image: the server says so.
    until(chromium, lambda _: "image: not base64" in text(chromium, ".opblock-post"))
    assert complaints(chromium) == []
    assert foreign(chromium, server.url) == []


def test_redoc_shows_predict(chromium: Any, server: RunningServer) -> None:
    forget(chromium)
    chromium.get(f"{server.url}/redoc")
    until(chromium, lambda _: "/predict" in text(chromium, "body"))
    assert "the class, and how sure that is" in text(chromium, "body")
    assert [message for message in complaints(chromium) if LOGO not in message] == []
    assert set(foreign(chromium, server.url)) <= {LOGO}
