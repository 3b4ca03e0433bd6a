"""What the tests ask a running server, and what its ``/metrics`` say."""

from __future__ import annotations

import time
from collections.abc import Callable

import requests

from litmeter.kinds.server import StartedServer

HEAD = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n"
"""Of a prediction; with the length of the photo that follows."""


def post_image(url: str, photo: bytes) -> requests.Response:
    """The answer to an image file, sent as it is."""
    headers = {"Content-Type": "image/jpeg"}
    return requests.post(f"{url}/predict", data=photo, headers=headers, timeout=60)


def metric(url: str, name: str) -> float:
    """A value at ``/metrics``, 0 where it has not come up yet."""
    answer = requests.get(f"{url}/metrics", timeout=10)
    assert answer.status_code == 200, answer.text
    lines = answer.text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(f"{name} "))


def health(server: StartedServer) -> tuple[int, str]:
    """The status of ``/health``, and what it says."""
    answer = requests.get(f"{server.url}/health", timeout=5)
    return answer.status_code, answer.json()["status"]


def in_flight(url: str) -> float:
    """Requests that have come and not been answered."""
    return metric(url, "litmeter_requests_in_flight")


def wait_for(condition: Callable[[], bool], within_s: float = 60.0) -> None:
    """Fail unless ``condition`` becomes true in time."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)
