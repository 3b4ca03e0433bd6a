"""What works with any LitServe and uvicorn that pyproject.toml allows: `make test-litserve` tries several."""

from __future__ import annotations

import json
import signal
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from typing import Any

import pytest
import requests
from packaging.version import Version

from litmeter.direct.lit_api import lit_server, make_api
from litmeter.direct.litserve_internals import Server, StageTimes
from litmeter.direct.metrics import STAGES
from litmeter.errors import ApiError, ServerError
from litmeter.kinds.configuration import Configuration
from litmeter.kinds.lit_api import LitApi
from litmeter.load.bodies import Bodies
from litmeter.measure.figures import read_scrape
from litmeter.measure.subjects import InProcess
from litmeter.measure.turn import Turn, Work
from litmeter.paths import MODEL
from tests.support import lit_apis
from tests.support.servers import APIS, running_server

LITSERVE = Version(version("litserve"))
SQUARE: list[Any] = [{"input": 4}, {"input": 0.5}, {"input": "x"}, {"number": 1}]
TYPED: list[Any] = [{"prompt": "a cat"}, {"prompt": "a dog", "temperature": 0.5}, {"prompt": 1}, {}]


def settings(name: str, batch: int = 1, **others: Any) -> Configuration:
    sizes = {"max_batch_size": batch, "batch_timeout_s": 0.02 if batch > 1 else 0.0}
    return LitApi(api=f"lit_apis:{name}", folder=str(APIS), **(sizes | others))


def made(name: str, **others: Any) -> tuple[Any, LitApi]:
    own = settings(name, **others)
    assert isinstance(own, LitApi)
    return make_api(own, getattr(lit_apis, name)), own


@pytest.mark.parametrize(
    ("name", "batch", "contents"), [("Square", 1, SQUARE), ("Square", 4, SQUARE), ("Typed", 4, TYPED)]
)
def test_both_transports_answer_alike(name: str, batch: int, contents: list[Any]) -> None:
    """One after the other, as LitServe fails the batch of what fails."""
    answers = []
    for transport in ("litserve", "direct"):
        with running_server(MODEL, settings(name, batch, transport=transport, path="/a/b")) as server:
            assert requests.get(f"{server.url}/health", timeout=10).status_code == 200
            got = [requests.post(f"{server.url}/a/b", json=content, timeout=30) for content in contents]
            answers.append([(one.status_code, one.json()) for one in got])
    assert answers[0] == answers[1]
    assert [status for status, _ in answers[0]][:2] == [200, 200]
    assert max(status for status, _ in answers[0]) >= 422


def test_batches_form_and_their_stages_are_timed() -> None:
    with running_server(MODEL, settings("Sleeps", 4, api_kwargs={"seconds": 0.02})) as server:

        def ask(number: int) -> Any:
            return requests.post(f"{server.url}/predict", json={"input": number}, timeout=30).json()

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(ask, range(16))) == [{"output": number**2} for number in range(16)]
        scrape = read_scrape(requests.get(f"{server.url}/metrics", timeout=30).text)
    counts = {stage: count for stage, (_, count) in scrape.stages.items()}
    assert counts == {stage: 16 * (stage != "preprocess") for stage in STAGES}
    assert scrape.batched[1] < 16
    assert scrape.whole[1] == 16


def test_each_http_process_is_known() -> None:
    with running_server(MODEL, settings("Square", num_api_servers=2, workers_per_device=3)) as server:
        assert requests.post(f"{server.url}/predict", json={"input": 3}, timeout=30).json() == {"output": 9}
        scrape = read_scrape(requests.get(f"{server.url}/metrics", timeout=30).text)
    assert Counter(scrape.roles.values()) == {"http": 2, "worker": 3}


def test_it_runs_in_process() -> None:
    bodies = Bodies([json.dumps(content).encode() for content in TYPED[:2]], "application/json")
    subject = InProcess("e1", settings("Typed", 2, threads_per_worker=1), "cpu", bodies)
    with subject.start() as ready:
        ready()
        assert subject.load(Turn("e1", Work("pipeline", 2, 0.2, busy=1)), lambda: None).blocks.mean() > 0


def test_a_setup_that_fails_ends_the_server() -> None:
    broken = settings("Broken", api_kwargs={"method": "setup", "how": "raises"})
    with pytest.raises(ServerError, match="setup: ValueError"), running_server(MODEL, broken):
        pass


def test_a_server_that_is_made_leaves_signals_as_they_were() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    api, own = made("Square")
    lit_server(api, own, "cpu", 30.0)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize(
    ("name", "since", "otherwise"),
    [("Unawaited", "0.2.9", "predict is async: "), ("Generates", "0.2.11", "predict streams: ")],
)
def test_what_litserve_lacks_is_said(name: str, since: str, otherwise: str) -> None:
    api, own = made(name)
    lacks = Version(since) > LITSERVE
    with pytest.raises((TypeError, ValueError)) as caught:
        lit_server(api, own, "cpu", 30.0)
    assert (str(caught.value) == f"{otherwise}not available with litserve {LITSERVE}") == lacks


def test_litserve_ignores_fast_queue_where_we_say_so() -> None:
    api, _ = made("Square")
    config = getattr(Server(api, accelerator="cpu", fast_queue=True), "transport_config", None)
    ignored = config is not None and config.transport_type == "mp"
    assert ignored == (Version("0.2.8") <= LITSERVE <= Version("0.2.19"))


def test_what_uvicorn_or_litserve_may_lack_one_day_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    StageTimes(are_wanted=True).on_after_setup(lit_apis.Square())
    assert f"stage times: not available with litserve {LITSERVE}" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "litmeter.direct.http", None)
    with pytest.raises(ApiError, match=r"^transport: direct: not available with uvicorn"):
        made("Square", transport="direct")
