"""What strangers get from `litmeter serve`: nothing without the key; and TLS, as a client sees it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from litmeter.cli.main import main
from litmeter.direct.binding import KEY_VARIABLE
from litmeter.paths import ModelFolders
from tests.integration.conftest import Pem
from tests.support.servers import Command, serve_command

KEY = "correct-horse/battery+staple="
OPEN = ("/health", "/")
GUARDED = ("/info", "/metrics", "/openapi.json", "/docs", "/nowhere")


@dataclass(frozen=True)
class Reached:
    """A server, and what a client needs to trust it."""

    command: Command
    verify: str | bool
    options: tuple[str, ...]

    def get(self, path: str, **headers: str) -> requests.Response:
        return requests.get(self.command.url + path, headers=headers, verify=self.verify, timeout=30)

    def post(self, body: bytes, **headers: str) -> requests.Response:
        headers = {"Content-Type": "image/jpeg", **headers}
        url = f"{self.command.url}/predict"
        return requests.post(url, data=body, headers=headers, verify=self.verify, timeout=30)


@pytest.fixture(scope="module", params=["direct", "litserve"])
def server(
    request: pytest.FixtureRequest, exported: ModelFolders, pem: Pem, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Reached]:
    """The direct one with TLS and all pages, on every address; LitServe's with neither."""
    folder = tmp_path_factory.mktemp(request.param)
    options, trusted = ("--no-metrics", "--no-docs"), None
    if request.param == "direct":
        tls = ("--certificate", str(pem.certificate), "--certificate-key", str(pem.key))
        options, trusted = ("--host", "0.0.0.0", *tls), pem.authority
    own: dict[str, Any] = {"key": KEY, "trusted": trusted, "transport": request.param}
    with serve_command(folder, exported, *options, **own) as command:
        yield Reached(command, str(trusted) if trusted else True, options)


@pytest.mark.smoke
def test_without_the_key_only_health_and_the_page_are_open(server: Reached, photos: list[Path]) -> None:
    photo = photos[0].read_bytes()
    assert [server.get(path).status_code for path in OPEN] == [200, 200]
    wrong = ({"X-API-Key": key} for key in ("", KEY[:-1], KEY + "x"))
    for given in ({}, *wrong, {"Authorization": KEY}):
        for answer in (server.post(photo, **given), *(server.get(path, **given) for path in GUARDED)):
            assert (answer.status_code, list(answer.json())) == (401, ["detail"])
    given = {"X-API-Key": KEY}
    assert server.post(photo, **given).status_code == server.get("/info", **given).status_code == 200
    closed = {"/metrics": "--no-metrics", "/openapi.json": "--no-docs"}
    for path, option in closed.items():
        assert server.get(path, **given).status_code == (404 if option in server.options else 200)
    for path in ("/docs", "/redoc"):  # FastAPI's, which load scripts from a CDN
        assert server.get(path, **given).status_code == 404


def test_the_key_is_written_nowhere(server: Reached, photos: list[Path]) -> None:
    server.post(photos[0].read_bytes(), **{"X-API-Key": KEY})
    server.post(b"no image", **{"X-API-Key": KEY + "x"})
    assert KEY not in server.get("/info", **{"X-API-Key": KEY}).text
    log = server.command.log.read_text()
    assert KEY not in log
    scheme = "https" if "--certificate" in server.options else "http"
    assert f"{scheme}://" in log
    assert KEY not in (server.command.log.parent / "params.yaml").read_text()
    root = psutil.Process(server.command.process.pid)
    tree = [root, *root.children(recursive=True)]
    assert len(tree) >= 5
    assert not any(KEY in " ".join(process.cmdline()) for process in tree)


@pytest.mark.smoke
def test_predict_sends_the_key_and_trusts_the_authority(
    server: Reached,
    pem: Pem,
    photos: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ask = ["predict", "--url", server.command.url, str(photos[0])]
    trust = ["--ca", str(pem.authority)] if server.command.url.startswith("https") else []
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    assert main([*ask, *trust]) == 1
    assert "refused, 401" in capsys.readouterr().err
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    assert main([*ask, *trust]) == 0
    assert f"{photos[0]}: " in capsys.readouterr().out
    if trust:
        assert main(ask) == 2
        error = capsys.readouterr().err
        assert "cannot be trusted" in error
        assert error.count("\n") == 1


def test_the_page_loads_nothing_from_elsewhere(server: Reached) -> None:
    answer = server.get("/")
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; ")
    for text in (policy, answer.text.replace("http://www.w3.org/2000/svg", "")):
        assert "http:" not in text
        assert "https:" not in text
    assert "unsafe" not in policy
