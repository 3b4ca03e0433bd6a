"""What strangers get from `servebench serve`: nothing without the key; and TLS, as a client sees it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import requests
import trustme

from servebench.cli.main import main
from servebench.inference.card import CARD_NAME, WEIGHTS_NAME
from servebench.paths import ModelFolders
from servebench.serving.auth import KEY_VARIABLE
from tests.integration.asking import wait_for
from tests.support.servers import Command, make_project, serve_command

KEY = "correct-horse/battery+staple="
OPEN = ("/health", "/")
ASSETS = ("swagger-ui-bundle.js", "swagger-ui.css", "redoc.standalone.js")
DOCS = ("/docs", "/redoc", "/openapi.json", *(f"/docs/assets/{name}" for name in ASSETS))
GUARDED = ("/info", "/metrics", *DOCS, "/nowhere")


@dataclass(frozen=True)
class Pem:
    """PEM files of an authority and of a server that it vouches for."""

    authority: Path
    certificate: Path
    key: Path


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Pem:
    folder = tmp_path_factory.mktemp("pem")
    authority = trustme.CA()
    server = authority.issue_cert("127.0.0.1")
    files = Pem(folder / "authority.pem", folder / "certificate.pem", folder / "key.pem")
    authority.cert_pem.write_to_path(files.authority)
    for blob in server.cert_chain_pems:
        blob.write_to_path(files.certificate, append=True)
    server.private_key_pem.write_to_path(files.key)
    return files


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
    if request.param == "direct":
        tls = ("--certificate", str(pem.certificate), "--certificate-key", str(pem.key))
        options = ("--host", "0.0.0.0", *tls)
        with serve_command(folder, exported, *options, key=KEY, trusted=pem.authority) as command:
            yield Reached(command, str(pem.authority), options)
    else:
        options = ("--no-metrics", "--no-docs")
        with serve_command(folder, exported, *options, key=KEY, transport="litserve") as command:
            yield Reached(command, True, options)


def test_serve_logs_its_address_once_it_is_ready(server: Reached) -> None:
    port = server.command.url.rsplit(":", 1)[1]
    url = f"https://0.0.0.0:{port}" if "--certificate" in server.options else f"http://127.0.0.1:{port}"
    log = server.command.log
    wait_for(lambda: f": {url}/predict answers, and {url} is a page to try it" in log.read_text(), 10)
    assert [line.split()[0] for line in log.read_text().splitlines()] == ["loading", "ready"]
    assert all(len(line) < 160 for line in log.read_text().splitlines())


def test_without_the_key_only_health_and_the_page_are_open(server: Reached, photos: list[Path]) -> None:
    for path in OPEN:
        assert server.get(path).status_code == 200
    for given in (
        {},
        {"X-API-Key": ""},
        {"X-API-Key": KEY[:-1]},
        {"X-API-Key": KEY + "x"},
        {"Authorization": KEY},
    ):
        for answer in (
            server.post(photos[0].read_bytes(), **given),
            *(server.get(p, **given) for p in GUARDED),
        ):
            assert answer.status_code == 401
            assert answer.json() == {"detail": "X-API-Key: missing or wrong"}


def test_with_the_key_everything_open_answers(server: Reached, photos: list[Path]) -> None:
    given = {"X-API-Key": KEY}
    assert server.post(photos[0].read_bytes(), **given).status_code == 200
    assert server.get("/info", **given).status_code == 200
    closed = {"/metrics": "--no-metrics", **dict.fromkeys(DOCS, "--no-docs")}
    for path, option in closed.items():
        assert server.get(path, **given).status_code == (404 if option in server.options else 200)


def test_the_key_is_written_nowhere(server: Reached, photos: list[Path]) -> None:
    server.post(photos[0].read_bytes(), **{"X-API-Key": KEY})
    server.post(b"no image", **{"X-API-Key": KEY + "x"})
    assert KEY not in server.get("/info", **{"X-API-Key": KEY}).text
    assert KEY not in server.command.log.read_text()
    assert KEY not in (server.command.log.parent / "params.yaml").read_text()
    root = psutil.Process(server.command.process.pid)
    tree = [root, *root.children(recursive=True)]
    assert len(tree) >= 5
    assert not any(KEY in " ".join(process.cmdline()) for process in tree)


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
        assert main(ask) == 1
        error = capsys.readouterr().err
        assert "cannot be trusted" in error
        assert error.count("\n") == 1


def test_the_pages_policy_allows_nothing_from_elsewhere(server: Reached) -> None:
    answer = server.get("/")
    policy = dict(part.split(" ", 1) for part in answer.headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert policy["script-src"].startswith("'sha256-")
    assert "unsafe" not in answer.headers["Content-Security-Policy"]
    assert "http://" not in answer.text.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in answer.text


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_the_api_documents_load_nothing_from_elsewhere(server: Reached, path: str) -> None:
    answer = server.get(path, **{"X-API-Key": KEY})
    if "--no-docs" in server.options:
        assert answer.status_code == 404
        return
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'")
    for text in (policy, answer.text):
        assert "http:" not in text
        assert "https:" not in text


@pytest.mark.parametrize(
    ("options", "key", "reason"),
    [
        ("--host 0.0.0.0", "", f"{KEY_VARIABLE} must hold a key"),
        ("--host ::", "", f"{KEY_VARIABLE} must hold a key"),
        ("", "two words", "printable ASCII without spaces"),
        ("", "schlüssel", "printable ASCII without spaces"),
        ("--certificate {certificate}", "", "--certificate and --certificate-key belong together"),
        ("--certificate-key {key}", "", "--certificate and --certificate-key belong together"),
        ("--certificate {certificate} --certificate-key missing.pem", "", "missing.pem: No such file"),
        ("--certificate {key} --certificate-key {key}", "", "not a certificate and its own key"),
        ("--certificate {authority} --certificate-key {key}", "", "not a certificate and its own key"),
        ("--host example.org", KEY, "invalid choice"),
        ("--port 0", "", "expected a port from 1024 to 65535"),
    ],
)
def test_contradictory_options_are_one_line_and_nothing_starts(
    options: str,
    key: str,
    reason: str,
    pem: Pem,
    exported: ModelFolders,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(KEY_VARIABLE, key)
    make_project(tmp_path, exported)
    filled = [option.format(**vars(pem)) for option in options.split()]
    try:
        status = main(["serve", *filled])
    except SystemExit as error:  # argparse's own way
        status = error.code
    error = capsys.readouterr().err
    assert reason in error
    assert error.count("\n") == 1
    assert not (key and key in error)
    assert status == 2


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "No such file"), ("no pem", "no certificates in PEM form")]
)
def test_a_file_that_holds_no_certificates_is_one_line(
    content: str | None,
    reason: str,
    photos: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    assert main(["predict", "--ca", str(path), str(photos[0])]) == 2
    error = capsys.readouterr().err
    assert reason in error
    assert error.count("\n") == 1


def test_weights_that_differ_from_their_model_card_are_refused(
    exported: ModelFolders,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    make_project(tmp_path, exported)
    weights = Path("models/exported") / WEIGHTS_NAME
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert main(["serve"]) == 1
    error = capsys.readouterr().err
    assert f"{WEIGHTS_NAME} is not the file that {CARD_NAME} was written for" in error
    assert error.count("\n") == 1


def test_loading_and_running_a_model_reads_no_pickle(exported: ModelFolders, photos: list[Path]) -> None:
    """Python tells its audit hooks of each name that a pickle looks up, from whatever file."""
    program = f"""
import sys
from pathlib import Path
from servebench.params import ServeSettings
from servebench.inference.card import CARD_NAME, WEIGHTS_NAME
from servebench.paths import ModelFolders
from servebench.inference.predictor import Predictor
import servebench.inference.model

def refuse(event, arguments):
    if event == "pickle.find_class":
        raise RuntimeError(f"a pickle asks for {{arguments}}")

sys.addaudithook(refuse)
folders = ModelFolders(Path({str(exported.exported)!r}), Path({str(exported.compiled)!r}))
classifier = Predictor(folders, "cpu", ServeSettings(preprocess="torchvision"))
print(classifier.predict([classifier.preprocess(Path({str(photos[0])!r}).read_bytes())]).shape)
import pickle
pickle.loads(pickle.dumps(Path))
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ran.stdout == "torch.Size([1, 3])\n"
    assert ran.stderr.endswith("RuntimeError: a pickle asks for ('pathlib', 'Path')\n")
