"""What is found of a LitAPI before anything is timed: faults, and answers that depend on the batch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from litmeter.direct.binding import KEY_VARIABLE
from litmeter.errors import ApiError
from litmeter.kinds import preflight
from litmeter.kinds.classifier import Classifier
from litmeter.kinds.command import Command
from litmeter.kinds.configuration import Configuration, Preflight
from litmeter.kinds.lit_api import LitApi
from litmeter.kinds.preflight import check_apis, difference
from litmeter.load.bodies import Bodies
from litmeter.measure.checks import check_all, refuse_faulty
from tests.support.processes import descendants_mentioning

BODIES = Bodies([json.dumps({"input": number}).encode() for number in (1, 2, 5)], "application/json")
FOLDER = str(Path(__file__).parents[1] / "support")
LIMIT_S = 60.0


def settings(name: str, max_batch_size: int = 1, **others: Any) -> Configuration:
    timeout_s = 0.01 if max_batch_size > 1 else 0.0
    others = {"batch_timeout_s": timeout_s, "api": f"lit_apis:{name}", **others}
    return LitApi(folder=FOLDER, max_batch_size=max_batch_size, **others)


def odd(how: str, max_batch_size: int = 1, **others: Any) -> Configuration:
    return settings("Odd", max_batch_size, api_kwargs={"how": how}, **others)


def fault_of(found: dict[str, preflight.Checked], name: str) -> str:
    """A fault is one line with a log that stays, and no process does."""
    assert descendants_mentioning("litmeter.kinds.preflight_process") == []
    text, _, log = found[name].fault.partition("; its log: ")
    assert "\n" not in text
    assert Path(log).is_file()
    return text


@pytest.mark.parametrize(
    ("others", "text"),
    [
        ({"api": "no_such_module:API"}, "import: ModuleNotFoundError: "),
        ({"api": "lit_apis:Nobody"}, "import: lit_apis.py has no 'Nobody'"),
        ({"api": "lit_apis:Number"}, "import: Number of lit_apis.py is no subclass"),
        ({"api": "lit_apis:Generates"}, "LitServer: ValueError: "),
        ({"api": "lit_apis:Misnamed"}, "LitServer: TypeError: decode_request"),
        ({"api": "lit_apis:Unawaited"}, "LitServer: TypeError: predict is async"),
        ({"api_kwargs": {"size": 2}}, "__init__: TypeError: "),
        ({"method": "__init__", "how": "raises"}, "__init__: ValueError: no such thing"),
        ({"method": "pickling", "how": "raises"}, "pickling: ValueError: no such thing"),
        ({"method": "setup", "how": "raises"}, "setup: ValueError: no such thing"),
        ({"method": "setup", "how": "leaves"}, "setup: SystemExit: no model here"),
        ({"method": "decode_request", "how": "raises"}, "decode_request at batch size 1: ValueError: "),
        ({"method": "predict", "how": "raises", "size": 2}, "predict at batch size 2: ValueError: "),
        ({"method": "predict", "how": "exits", "size": 2}, "predict at batch size 2: exit status 3"),
        ({"method": "predict", "how": "segfaults"}, "predict at batch size 1: killed by SIGSEGV"),
        ({"method": "length", "how": ""}, "predict at batch size 2: 1 outputs for 2 inputs"),
        ({"method": "unpicklable", "how": ""}, "encode_response at batch size 1: "),
        ({"method": "__init__", "how": "exits"}, "__init__: exit status 3"),
    ],
)
def test_what_is_broken_is_one_line(others: dict[str, Any], text: str) -> None:
    if "method" in others:
        others = {"api_kwargs": others}
    found = check_apis({"e1": settings("Broken", 2, **others)}, Preflight(BODIES, "cpu", LIMIT_S))
    assert fault_of(found, "e1").startswith(f"e1: {text}")


@pytest.mark.parametrize(
    ("method", "text"),
    [
        ("setup", "setup did not return within 20 s"),
        ("predict", "predict at batch size 1 did not return within 5 s"),
    ],
)
def test_what_hangs_is_ended(method: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "AT_START_S", 20.0)
    broken = settings("Broken", ready_s=20.0, api_kwargs={"method": method, "how": "hangs"})
    found = check_apis({"e1": broken}, Preflight(BODIES, "cpu", 5.0))
    assert fault_of(found, "e1") == f"e1: {text}"


def test_a_body_that_is_refused_is_named() -> None:
    how = Preflight(Bodies([b"{}"], "application/json"), "cpu", LIMIT_S)
    found = check_apis({"e1": settings("Validated")}, how)
    assert "body 1 is refused with status 422" in fault_of(found, "e1")


def test_answers_must_not_depend_on_the_batch() -> None:
    """But may round differently."""
    pairs = {f"{how} {size}": odd(how, size) for how in ("mean", "rounded") for size in (1, 4)}
    found = check_apis(pairs, Preflight(BODIES, "cpu", LIMIT_S))
    faults = {name: fault_of(found, name) for name, one in found.items() if one.fault}
    assert list(faults) == ["mean 4"]
    assert "body 1 differ at output: 1.0 at batch size 1, 1.5 at batch size 2" in faults["mean 4"]


def test_answers_must_not_depend_on_the_configuration() -> None:
    """LitServe calls with an item at a largest batch of one, and with a list above."""
    pair = {"e1": odd("a fifth off"), "e2": odd("a fifth off", 2), "other": odd("a third off", 2)}
    found = check_apis(pair, Preflight(BODIES, "cpu", LIMIT_S))
    assert found["e1"].fault == found["other"].fault == ""
    assert "body 1 differ at output: 1.0 from e1, 1.2 from e2" in fault_of(found, "e2")


def test_answers_must_not_depend_on_the_worker(capsys: pytest.CaptureFixture[str]) -> None:
    random = odd("by worker", workers_per_device=2)
    found = check_apis({"e1": random}, Preflight(BODIES, "cpu", LIMIT_S))
    assert "from worker 1" in fault_of(found, "e1")
    with pytest.raises(ApiError, match="e1: answers to body 1 differ"):
        refuse_faulty(check_all({"e1": random}, BODIES, "cpu", LIMIT_S))
    sampling = random.model_copy(update={"check_answers": False})
    assert refuse_faulty(check_all({"e1": sampling}, BODIES, "cpu", LIMIT_S))["e1"].fault == ""
    assert "e1: answers are not compared" in capsys.readouterr().err


def test_larger_batches_than_are_formed_are_timed() -> None:
    own = {"api_kwargs": {"seconds": 0.03}, "workers_per_device": 2}
    sizes = {"e1": 1, "e2": 4, "e3": 8}
    pair = {name: settings("Sleeps", size, **own) for name, size in sizes.items()}
    found = check_apis(pair, Preflight(BODIES, "cpu", LIMIT_S, users=8))
    assert [one.fault for one in found.values()] == ["", "", ""]
    assert [sorted(one.batch_ms) for one in found.values()] == [[1, 8], [4, 8], []]
    single_ms, batched_ms = found["e1"].batch_ms[1], found["e1"].batch_ms[8]
    assert single_ms > 90  # decode, predict and encode; in a batch predict sleeps once for all
    assert 60 < batched_ms < 0.9 * single_ms
    assert check_apis(pair, Preflight(BODIES, "cpu", LIMIT_S))["e1"].batch_ms == {}


@pytest.mark.parametrize("how", ["raises", "exits", "segfaults", "hangs"])
def test_a_larger_batch_that_fails_has_no_time_and_is_no_fault(how: str) -> None:
    """It works as it is configured."""
    broken = settings("Broken", api_kwargs={"method": "predict", "how": how, "size": 2})
    limit_s = 5.0 if how == "hangs" else LIMIT_S
    [found] = check_apis({"e1": broken}, Preflight(BODIES, "cpu", limit_s, users=8)).values()
    assert (found.fault, found.unavailable, list(found.batch_ms)) == ("", "", [1])
    assert descendants_mentioning("litmeter.kinds.preflight_process") == []


def test_a_larger_batch_that_answers_otherwise_has_no_time() -> None:
    [found] = check_apis({"e1": odd("mean")}, Preflight(BODIES, "cpu", LIMIT_S, users=8)).values()
    assert (found.fault, list(found.batch_ms)) == ("", [1])


def test_what_works_is_served_and_what_has_no_effect_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "a key that LitServe would ask for")
    works = {
        "batched": settings("Square", 3),
        "e1": settings("Square", batch_timeout_s=0.01, num_api_servers=2),
        "direct": settings("Square", transport="direct", num_api_servers=2),
        "consumes": odd("consumed", 2),
        "stream": settings("Stream"),
        "command": Command(command="serve {port}"),
        "classifier": Classifier(),
    }
    found = check_all(works, BODIES, "cpu", LIMIT_S)
    assert list(found) == list(works)
    [note] = found["e1"].notes
    assert "batch_timeout_s has no effect" in note
    [note] = found["direct"].notes
    assert "num_api_servers has no effect" in note
    assert {name for name, one in found.items() if one.unavailable} == {"consumes", "command"}


@pytest.mark.parametrize(
    ("one", "other", "found"),
    [
        ({"a": [1, 2.0]}, {"a": [1, 2.01]}, None),
        ({"a": [1, 2.0]}, {"a": [1, 2.1]}, ("a[1]", 2.0, 2.1)),
        (0.0001, 0.0009, None),
        (1, 1.001, None),
        (100, 101, ("", 100, 101)),
        (True, 1, ("", True, 1)),
        ({"a": 1}, {"b": 1}, ("", {"a": 1}, {"b": 1})),
        ([1], [1, 2], ("", [1], [1, 2])),
        ("cat", "dog", ("", "cat", "dog")),
    ],
)
def test_numbers_agree_within_a_hundredth(one: Any, other: Any, found: Any) -> None:
    assert difference(one, other) == found
