"""Tries one configuration of a LitAPI: ``python -m litmeter.kinds.preflight_process``.

``preflight`` starts it, and writes the job as a line of JSON. The answer is a line before each call of a
method, so that ``preflight`` knows which call hangs or ends the process; a line for the answers of each
worker; and at last what was raised, or the end. Tracebacks go to the log.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import pickle
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from time import perf_counter, process_time
from typing import Any

from fastapi.encoders import jsonable_encoder
from fastapi.responses import JSONResponse, Response
from litserve import LitAPI

from litmeter.direct.lit_api import in_a_line, lit_server, load_class, make_api, unusual_features
from litmeter.direct.lit_methods import LengthError
from litmeter.direct.pipeline import ApiPipeline, payloads_of, reached
from litmeter.direct.settings import LitApiSettings
from litmeter.errors import ApiError
from litmeter.load.bodies import Bodies

Say = Callable[[dict[str, Any]], object]
PRODUCTS = ("mm", "linear", "attention", "conv")
"""Parts of the names of torch's operators that multiply matrices."""
TIMED_S = 0.3
"""How long batches of one size are timed, at least one batch."""


class Watched(ApiPipeline):
    """Says which method it calls, and for which batch size."""

    def __init__(self, say: Say, api: LitAPI, device: str, requests: Sequence[bytes]) -> None:
        self._say, self._size, self._tried, self._timing = say, 0, requests, False
        super().__init__(api, device, requests)

    def call(self, method: str, context: Any, *arguments: Any) -> Any:
        """Say it, then call the method."""
        if not self._timing:
            self._say({"doing": method, "batch_size": self._size})
        return super().call(method, context, *arguments)

    def finish(self, inputs: Any, contexts: Any) -> list[Any]:
        """The answers as clients get them; ``predict`` is to blame for a wrong number of outputs."""
        try:
            return [as_sent(answer) for answer in super().finish(inputs, contexts)]
        except LengthError:
            self._say({"doing": "predict", "batch_size": self._size})
            raise

    def answers_at(self, size: int) -> list[Any]:
        """The answers to all requests in batches of ``size``; the first requests fill up the last batch."""
        self._size, repeated = size, itertools.cycle(self._tried)
        batches = [list(itertools.islice(repeated, size)) for _ in range(0, len(self._tried), size)]
        return [answer for batch in batches for answer in self.answers(batch)][: len(self._tried)]

    def again(self) -> list[Any]:
        """The answers to one batch twice: to time ``predict`` alone, it must leave its input as it was."""
        batch = self.batch(self._size)
        first = [self.finish(*ready) for ready in batch]
        try:
            return [first, [self.finish(*ready) for ready in batch]]
        except Exception:
            return [first, None]

    def timed_at(self, size: int) -> dict[str, Any]:
        """Answers in batches of ``size``, even if it forms no such batches, and milliseconds for each."""
        self.batched, self._timing = self.batched or size > 1, True
        answers, batches = self.answers_at(size), 0
        batch, began = list(itertools.islice(itertools.cycle(self._tried), size)), perf_counter()
        while not batches or perf_counter() - began < TIMED_S:
            self.answers(batch)
            batches += 1
        return {"timed": answers, "batch_size": size, "ms": 1000 * (perf_counter() - began) / batches / size}


def as_sent(answer: Any) -> Any:
    """What a client gets through LitServe's queue: JSON, or the status and content of a response."""
    arrived = pickle.loads(pickle.dumps(answer))  # noqa: S301
    if isinstance(arrived, list):  # a stream may have pieces of any bytes
        arrived = [
            one.decode(errors="backslashreplace") if isinstance(one, bytes) else one for one in arrived
        ]
    if not isinstance(arrived, Response):
        return json.loads(bytes(JSONResponse(jsonable_encoder(arrived)).body))
    text = bytes(arrived.body).decode(errors="backslashreplace")
    is_json = arrived.headers.get("content-type") == "application/json"
    return {"status": arrived.status_code, "content": json.loads(text) if is_json else text}


@contextmanager
def reporting(say: Say) -> Iterator[None]:
    """Say in one line what is raised in the block; the traceback goes to the log."""
    try:
        yield
    except BaseException as error:
        traceback.print_exc()
        own = isinstance(error, (ApiError, LengthError))
        say({"raised": str(error) if own else in_a_line(error)})


def run_worker(
    say: Say,
    api: LitAPI,
    device: str,
    sizes: Sequence[int],
    requests: Sequence[bytes],
    timed: Sequence[int] = (),
    begin: Callable[[], object] = lambda: None,
    profiled: bool = False,
) -> None:
    """Answer ``requests`` in batches of each of ``sizes``, then say how many threads torch has, if any.

    If ``profiled``, say with it what the time of a LitAPI with costs goes into. Once ``begin`` has returned,
    time batches of each size in ``timed``.
    """
    with reporting(say):
        pipeline = Watched(say, api, device, requests)
        for size in sizes:
            say({"answers": pipeline.answers_at(size), "batch_size": size})
        torch, began, began_cpu = sys.modules.get("torch"), perf_counter(), process_time()
        again, seconds = pipeline.again(), perf_counter() - began
        found: dict[str, Any] = {"answer_s": seconds / 2 / sizes[-1]}
        found["cores"] = (process_time() - began_cpu) / seconds
        if profiled and torch and device == "cpu" and has_costs(api):
            with reporting(lambda _: None):  # answers are right, whatever the profiler makes of them
                found["operators"] = operators(pipeline, sizes[-1])
        say({"threads": torch and torch.get_num_threads(), "again": again, "found": found})
        if timed:
            begin()
            for size in timed:
                say(pipeline.timed_at(size))
            say({"all timed": True})


def try_workers(
    say: Say, api: LitAPI, settings: LitApiSettings, job: Mapping[str, Any], requests: list[bytes]
) -> bool:
    """Pass on what each worker sends, until one fails; return whether none did.

    The first worker takes batches of all sizes, the others batches of the first size. When all are done, the
    first worker alone times batches.
    """
    spawn, workers = multiprocessing.get_context("spawn"), []
    for number in range(settings.workers):
        connection, end = spawn.Pipe()
        sizes, timed = (job["sizes"][:1], []) if number else (job["sizes"], job["timed"])
        arguments = (end.send, api, job["device"], sizes, requests, timed, end.recv, not number)
        workers.append((connection, spawn.Process(target=run_worker, args=arguments, daemon=True)))
        workers[-1][1].start()
        end.close()
    for number, (connection, process) in enumerate(workers, 1):
        message: dict[str, Any] = {"doing": "start of a worker"}
        say(message)
        while "threads" not in message:
            try:
                message = connection.recv()
            except EOFError:
                process.join()
                message = {"died": process.exitcode}
            say(message | {"worker": number})
            if "raised" in message or "died" in message:
                return False
    if job["timed"]:
        (connection, _), *others = workers
        for _, process in others:
            process.join()
        say({"doing": "batches", "optional": True})
        connection.send("begin")
        with suppress(EOFError):  # a batch of another size may kill the worker
            while "all timed" not in (message := connection.recv()) and "raised" not in message:
                say(message)
    return True


def has_costs(api: LitAPI) -> bool:
    """Whether the LitAPI has a method that says what an item costs."""
    return callable(getattr(api, "costs", None))


def operators(pipeline: ApiPipeline, size: int) -> dict[str, float]:
    """Shares of the time of ``predict``, by torch's profiler; empty where torch multiplies no matrices."""
    import torch

    batch = pipeline.batch(size)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        began = perf_counter()
        pipeline.run("model", size, batch)
        whole_us = 1e6 * (perf_counter() - began)
    own_us = {event.key: event.self_cpu_time_total for event in profile.key_averages()}
    product_us = sum(us for name, us in own_us.items() if any(part in name for part in PRODUCTS))
    shares = {"products": product_us / whole_us, "others": (sum(own_us.values()) - product_us) / whole_us}
    return shares | {"between": max(0.0, 1 - sum(shares.values()))} if product_us else {}


def main() -> None:
    """Try the configuration that the first line describes."""
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the LitAPI prints goes to the log

    def say(message: dict[str, Any]) -> None:
        print(json.dumps(message), file=output, flush=True)

    job = json.loads(sys.stdin.readline())
    settings = LitApiSettings.model_validate(job["settings"])
    with reporting(say):
        say({"doing": "import"})
        if job["script"]:
            server, unusual = reached(job["script"]), ""
        else:
            api_class = load_class(settings.api)
            say({"doing": "__init__"})
            made = make_api(settings, api_class)
            say({"doing": "LitServer"})
            unusual = unusual_features(made, in_process=True)
            server = lit_server(made, settings, job["device"], job["timeout_s"])
        if has_costs(api := server.lit_api):
            say({"doing": "costs"})
            say({"costs": api.costs()})
        if unusual:
            say({"end": True, "found": {"unavailable": f"a LitAPI with {unusual} is not run in-process"}})
            return
        say({"doing": "request"})
        requests = payloads_of(server, *Bodies.from_json(job["bodies"])[:2])
        if job["quick"]:
            run_worker(lambda one: say({"worker": 1} | one), api, job["device"], job["sizes"], requests)
            say({"end": True})
            return
        say({"doing": "pickling"})
        if try_workers(say, api, settings, job, requests):
            say({"end": True})


if __name__ == "__main__":
    from litmeter.kinds import preflight_process  # a script may take the place of __main__

    preflight_process.main()
