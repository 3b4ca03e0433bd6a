"""A real headless Chromium."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

WHAT_IS_NEEDED = (
    "these tests drive a real browser: `make test-system` installs selenium, and "
    "`apt-get install --no-install-recommends chromium chromium-driver` the browser"
)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A driver whose browser logs what goes over the network, and what goes wrong."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    try:
        from selenium import webdriver
    except ImportError:
        pytest.fail(WHAT_IS_NEEDED)
    if browser is None or driver is None:
        pytest.fail(WHAT_IS_NEEDED)
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    options.add_argument("--headless=new")
    # No name is found: what a page wants from elsewhere is missing here as it is without a network.
    options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
    options.add_argument("--disable-dev-shm-usage")  # small in containers
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # Chromium has none for root
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        yield chrome
    finally:
        chrome.quit()


def forget(chromium: Any) -> None:
    """Leave the page, and empty the logs."""
    chromium.get("about:blank")
    for log in ("browser", "performance"):
        chromium.get_log(log)


def requests_of(chromium: Any) -> list[str]:
    """The addresses that pages have asked for since the logs were emptied."""
    messages = [json.loads(entry["message"])["message"] for entry in chromium.get_log("performance")]
    return [
        one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"
    ]
