"""The real LitServe process: good requests, bad ones, and the ways in which a server fails."""

from __future__ import annotations

import io
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image

from litmeter.classifier.model.card import CARD_NAME
from litmeter.classifier.model.predictor import Predictor
from litmeter.classifier.server.client import CONTENT_TYPES, json_body, request_bodies
from litmeter.direct.binding import Binding
from litmeter.direct.metrics import STAGES
from litmeter.errors import ServerError
from litmeter.kinds.classifier import Classifier
from litmeter.kinds.server import Start, StartedServer
from litmeter.measure.figures import between, read_scrape
from litmeter.paths import ModelFolders
from tests.support.asking import wait_for
from tests.support.processes import processes_mentioning
from tests.support.server_processes import tree
from tests.support.servers import free_port, running_server

COMMON: dict[str, Any] = {"precision": "half", "workers_per_device": 2, "threads_per_worker": 1}
SETTINGS = {
    "batched": Classifier(max_batch_size=8, batch_timeout_s=0.05, **COMMON),
    "direct": Classifier(max_batch_size=4, preprocess="torchvision", transport="direct", **COMMON),
}


@pytest.fixture(scope="module", params=list(SETTINGS))
def server(request: pytest.FixtureRequest, exported: ModelFolders) -> Iterator[StartedServer]:
    with running_server(exported, SETTINGS[request.param]) as running:
        yield running
        assert running.log.read_text() == ""
    assert not Path("client.py").exists()  # which LitServe would write
    assert processes_mentioning(str(exported.exported)) == []


def post(server: StartedServer, body: bytes, content_type: str = CONTENT_TYPES["json"]) -> requests.Response:
    headers = {"Content-Type": content_type}
    return requests.post(f"{server.url}/predict", data=body, headers=headers, timeout=30)


@pytest.mark.smoke
def test_each_request_gets_the_models_answer_to_its_photo(
    server: StartedServer, exported: ModelFolders, photos: list[Path]
) -> None:
    bodies = request_bodies(photos, "json")
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda body: post(server, body), bodies * 4))
    info = requests.get(f"{server.url}/info", timeout=5).json()
    assert info["model"]["architecture"] == "test_efficientnet"
    assert info["model"]["classes"] == ["cat", "dog", "fox"]
    predictor = Predictor(exported, "cpu", Classifier(precision=info["model"]["precision"]))
    tensors = [predictor.preprocess(path.read_bytes()) for path in photos]
    for number, answer in enumerate(answers):
        assert answer.status_code == 200
        expected = predictor.predict([tensors[number % len(photos)]])[0].tolist()
        got = answer.json()
        assert list(got["probabilities"].values()) == pytest.approx(expected, abs=0.02)
        assert got["probability"] == max(got["probabilities"].values())
        assert got["probabilities"][got["label"]] == got["probability"]


@pytest.mark.smoke
def test_a_bad_body_leaves_the_others_of_its_batch_right(server: StartedServer, photos: list[Path]) -> None:
    good = photos[0].read_bytes()
    alone = post(server, good, "image/jpeg").json()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda body: post(server, body, "image/jpeg"), [good, b"no image"] * 12))
    assert [answer.status_code for answer in answers] == [200, 400] * 12
    for answer in answers[::2]:
        assert answer.json()["probability"] == pytest.approx(alone["probability"], abs=0.02)


def test_an_image_file_gets_the_same_answer_as_its_base64(server: StartedServer, photos: list[Path]) -> None:
    """However large."""
    Image.effect_noise((2000, 1500), 90).convert("RGB").save(large := io.BytesIO(), "PNG")
    for file in (photos[0].read_bytes(), large.getvalue()):
        plain, wrapped = post(server, file, "image/jpeg"), post(server, json_body(file))
        assert plain.status_code == 200
        assert plain.json()["probabilities"] == pytest.approx(wrapped.json()["probabilities"], abs=0.02)


@pytest.mark.smoke
def test_metrics_account_for_every_request_and_process(server: StartedServer, photos: list[Path]) -> None:
    before = read_scrape(requests.get(f"{server.url}/metrics", timeout=10).text)
    bodies = request_bodies(photos, "json")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda body: post(server, body), bodies))
    after = read_scrape(requests.get(f"{server.url}/metrics", timeout=10).text)
    assert after.whole[1] - before.whole[1] == len(bodies)
    for stage in STAGES:
        assert after.stages[stage][1] - before.stages.get(stage, (0, 0))[1] == len(bodies)
    assert after.batched[0] - before.batched[0] == len(bodies)
    stage_ms, _ = between(before, after, len(bodies))
    assert set(stage_ms) == {*STAGES, "transport"}
    assert all(mean_ms >= 0 for mean_ms in stage_ms.values())
    assert stage_ms["transport"] > 0.1
    assert set(after.roles) <= {process.pid for process in tree(server)}
    assert sorted(after.roles.values()) == ["http", "worker", "worker"]


def test_a_null_model_answers_anything_and_costs_nothing(exported: ModelFolders) -> None:
    with running_server(exported, Classifier(), null=True, binding=Binding(0, metrics=False)) as null:
        answer = post(null, json_body(b"no image at all"))
        assert answer.status_code == 200
        assert answer.json()["probability"] == pytest.approx(1 / 3)
        assert requests.get(f"{null.url}/metrics", timeout=10).status_code == 404
        assert post(null, b'{"image": "?"}').status_code == 400


def test_a_server_whose_workers_fail_to_start_shows_its_log(exported: ModelFolders, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exported.exported, tmp_path / "broken"))
    card = json.loads((folder / CARD_NAME).read_text())
    (folder / CARD_NAME).write_text(json.dumps(card | {"classes": ["a", "b"]}))  # weights are for three
    folders = ModelFolders(folder, exported.compiled)
    with (
        pytest.raises(ServerError, match=r"(?s)died .*its log ends.*failed to start"),
        running_server(folders, Classifier()),
    ):
        pytest.fail("it must not become ready")
    assert processes_mentioning(str(folder)) == []


def test_a_server_that_is_not_ready_in_time_is_stopped(exported: ModelFolders) -> None:
    port = free_port()
    with (
        pytest.raises(ServerError, match="not ready after 0 s"),
        Classifier().of(exported).starting(Start("cpu", 30.0, Binding(port))) as starting,
    ):
        starting.ready(0.3)
    assert processes_mentioning(f'"port": {port}') == []


def test_a_port_in_use_is_named(exported: ModelFolders) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(ServerError, match=f"port {port} of 127.0.0.1 is not free"),
            running_server(exported, Classifier(), binding=Binding(port)),
        ):
            pytest.fail("somebody else listens there")


@pytest.mark.parametrize("transport", ["direct", "litserve"])
def test_nobody_takes_the_port_of_a_server_that_starts(transport: str, exported: ModelFolders) -> None:
    """Other servers that start at once, for example, each choose a free port."""
    settings = Classifier.model_validate({"transport": transport}).of(exported)
    with (
        settings.starting(Start("cpu", 30.0, null=True)) as starting,
        socket.socket() as other,
    ):
        with suppress(OSError):
            other.bind(("127.0.0.1", starting.binding.port))
            other.listen()
        starting.ready()
        assert requests.get(f"{starting.url}/info", timeout=5).json()["model"]["transport"] == transport


def test_the_server_dies_with_whoever_started_it(exported: ModelFolders) -> None:
    """SIGKILL gives the starter no chance to clean up; the guard does it."""
    port = free_port()
    program = f"""
import time
from pathlib import Path
from litmeter.paths import ModelFolders
from litmeter.direct.binding import Binding
from litmeter.kinds.classifier import Classifier
from litmeter.kinds.server import Start
folders = ModelFolders(Path({str(exported.exported)!r}), Path({str(exported.compiled)!r}))
with Classifier().of(folders).starting(Start("cpu", 30.0, Binding({port}), null=True)) as starting:
    starting.ready()
    print("ready", flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as starter:
        assert starter.stdout.readline() == b"ready\n"
        starter.kill()
    wait_for(lambda: processes_mentioning(f'"port": {port}') == [], 10)
