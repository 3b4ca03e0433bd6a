"""The example of a language model: failures, what it takes, and how answers are compared; without a model."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import litserve
import pytest
import yaml
from fastapi import HTTPException

from tests.support.project import ROOT

NAMES = ("model", "server", "server_openvino", "answers", "openvino", "openvino_genai")
TEXTS = {0: "<end>", 1: "a", 2: "b", 3: "c", 4: "\ufffd"}


class Words:
    """A tokenizer of one letter a token; 0 ends an answer, 4 is half of a character."""

    def decode(self, tokens: list[int], *, skip_special_tokens: bool) -> str:
        assert skip_special_tokens
        return "".join(TEXTS[token] for token in tokens if token)

    def apply_chat_template(self, messages: list[Any], **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [1] * len(messages)}


class Handle:
    """Of an answer of two tokens."""

    def __init__(self) -> None:
        self.read_so_far, self.cancelled = 0, False

    def get_status(self) -> SimpleNamespace:
        return GENAI.GenerationStatus.RUNNING if self.read_so_far < 2 else GENAI.GenerationStatus.FINISHED

    def can_read(self) -> bool:
        self.read_so_far += 1
        return self.read_so_far % 2 == 1

    def read(self) -> dict[int, Any]:
        return {0: SimpleNamespace(generated_ids=[1])}

    def cancel(self) -> None:
        self.cancelled = True


class Steps:
    """OpenVINO's continuous batches; a step fails in the first that is made."""

    made: list[Steps]

    def __init__(self, *_: Any) -> None:
        self.handles: list[Handle] = []
        self.fails = not self.made
        self.made.append(self)

    def add_request(self, *_: Any) -> Handle:
        self.handles.append(Handle())
        return self.handles[-1]

    def step(self) -> None:
        if self.fails and len(self.handles) == 2:
            raise RuntimeError("out of memory")


class Whole:
    """OpenVINO's pipeline; its first generation fails after a token, others go on until they are told."""

    def __init__(self, *_: Any) -> None:
        self.begun, self.stopped = 0, False

    def generate(self, tokens: Any, options: Any, streamer: Any) -> None:
        self.begun += 1
        status = streamer.write(1)
        if self.begun == 1:
            raise RuntimeError("out of memory")
        while status == "run":
            status = streamer.write(1)
        self.stopped = True


GENAI: Any = ModuleType("openvino_genai")
GENAI.StreamerBase = object
GENAI.GenerationConfig = GENAI.SchedulerConfig = SimpleNamespace
GENAI.StreamingStatus = SimpleNamespace(RUNNING="run", CANCEL="cancel")
GENAI.GenerationStatus = SimpleNamespace(
    RUNNING=SimpleNamespace(name="RUNNING"), FINISHED=SimpleNamespace(name="FINISHED")
)
GENAI.LLMPipeline, GENAI.ContinuousBatchingPipeline = Whole, Steps


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Imports a module of the example."""
    for name in NAMES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(ROOT / "examples/llm")
    openvino: Any = ModuleType("openvino")
    openvino.Tensor = list
    stubs = {"openvino": openvino, "openvino_genai": GENAI, "server": SimpleNamespace(ChatAPI=None)}
    for name, module in stubs.items():
        monkeypatch.setitem(sys.modules, name, module)
    Steps.made = []
    yield importlib.import_module
    for name in NAMES:
        sys.modules.pop(name, None)


def set_up(example: Any, api: str) -> Any:
    if "spec" not in inspect.signature(litserve.LitAPI.__init__).parameters:
        pytest.skip("the example is for a LitServe whose LitAPI takes its spec")
    module = example("server_openvino")
    module.tokenizer, module.weights_file = Words, lambda: "file"
    own = getattr(module, api)()
    own.setup("cpu")
    return own


def test_a_generation_that_fails_or_is_abandoned_holds_up_no_other(example: Any) -> None:
    api = set_up(example, "FourBitAPI")
    pieces = api.predict(([1], 16))
    assert next(pieces)["content"] == "a"
    with pytest.raises(RuntimeError, match="out of memory"):
        next(pieces)
    pieces = api.predict(([1], 16))
    assert next(pieces)["content"] == "a"
    pieces.close()  # returns once the pipeline is free
    assert api.pipeline.stopped


@pytest.mark.filterwarnings("ignore:encode_response:UserWarning")  # LitServe makes it asynchronous itself
def test_all_that_wait_for_a_step_that_fails_get_its_error_and_the_next_is_answered(example: Any) -> None:
    api = set_up(example, "ContinuousAPI")

    async def answer() -> str:
        return "".join([piece["content"] async for piece in api.predict(([1], 16))])

    async def abandoned() -> None:
        pieces = api.predict(([1], 16))
        await anext(pieces)
        await pieces.aclose()

    async def all_of_them() -> list[Any]:
        Handle.get_status = lambda self: GENAI.GenerationStatus.RUNNING  # type: ignore[method-assign]
        failed = await asyncio.gather(answer(), answer(), return_exceptions=True)
        await abandoned()
        while not api.pipeline.handles[0].cancelled:
            await asyncio.sleep(0.01)
        Handle.get_status = lambda self: GENAI.GenerationStatus.FINISHED  # type: ignore[method-assign]
        return [*map(str, failed), await answer()]

    assert asyncio.run(all_of_them()) == ["out of memory", "out of memory", "a"]
    assert len(Steps.made) == 2


@pytest.mark.parametrize(
    ("given", "most"),
    [((24, None), 24), ((None, 7), 7), ((24, 7), 24), ((None, None), 16)],
)
def test_the_most_tokens_have_a_new_and_an_old_name(
    given: tuple[int | None, int | None], most: int, example: Any
) -> None:
    def request(new: int | None, old: int | None) -> SimpleNamespace:
        return SimpleNamespace(messages=[], max_completion_tokens=new, max_tokens=old)

    prompt = example("model").prompt
    assert prompt(Words(), request(*given)) == ([], most)
    with pytest.raises(HTTPException) as error:
        prompt(Words(), request(0, 5))
    assert (error.value.status_code, error.value.detail.partition(":")[0]) == (400, "max_completion_tokens")


@pytest.mark.parametrize(
    ("expected", "text", "count", "share"),
    [
        ([1, 2, 3, 0], "abc", 4, 1.0),
        ([1, 2, 3, 0], "abc", 3, 3 / 4),  # cut short before its end
        ([1, 2, 3], "a", 1, 1 / 3),
        ([1, 2, 3], "", 0, 0.0),
        ([1, 2], "abcc", 4, 1 / 2),
        ([1, 2, 3], "acc", 3, 1 / 3),
        ([1, 4, 2], "a", 2, 2 / 3),
        ([], "a", 1, 0.0),
        ([], "", 0, 1.0),
    ],
)
def test_the_agreement_of_answers(
    expected: list[int], text: str, count: int, share: float, example: Any
) -> None:
    assert example("answers").agreement(expected, (text, count), Words()) == share


def test_answers_are_of_as_many_workers_as_auto_stands_for(
    example: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shipped = yaml.safe_load((ROOT / "examples/llm/params.yaml").read_text())
    auto = {"api": "server:ChatAPI", "workers_per_device": "auto"}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(shipped | {"serve": auto}))
    monkeypatch.chdir(tmp_path)
    answers, workers = example("answers"), []

    def served(configuration: Any, bodies: list[Any], *_: Any) -> list[tuple[str, int]]:
        workers.append(configuration.workers)
        return [("a", 1) for _ in bodies]

    monkeypatch.setattr(answers, "expected", lambda bodies: [[1] for _ in bodies])
    monkeypatch.setattr(answers, "served", served)
    monkeypatch.setattr(answers.model, "tokenizer", Words)
    answers.main()
    assert all(number >= 1 for number in workers)
    assert set(json.loads(Path("metrics/answers.json").read_text()).values()) == {1.0}
