"""The check of LitAPIs before anything is timed: each must work, and answer alike in any batch and worker.

LitServe calls ``predict`` with an item where max_batch_size is 1, else with a batch, even of one item. Code
written for one of the two may answer wrongly, and fast, for the other.
"""

from __future__ import annotations

import json
import math
import queue
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import Any

from pydantic import ValidationError

from litmeter.direct.settings import PIPELINE_KEYS, LitApiSettings
from litmeter.kinds.configuration import Checked, Preflight
from litmeter.kinds.costs import Costs
from litmeter.settings import explain
from litmeter.system.processes import process_group
from litmeter.system.temporary import lasting_log, scratch

RELATIVE, ABSOLUTE = 0.01, 0.001
"""Answers agree if their numbers differ by no more than one of these: batches round differently."""
MOST_BODIES, FEWEST_BODIES = 64, 8
"""Bodies that are tried: as many as the largest batch has, within these numbers; where answers are not
compared fewer will do."""
AT_START = {"import", "__init__", "costs", "LitServer", "request", "pickling", "start of a worker", "setup"}
"""Steps that may take AT_START_S, or the configuration's ``ready_s`` if it is longer."""
AT_START_S = 180.0
DIFFER = "answers to body"
"""How the fault of differing answers begins."""
SHOWN = 60
"""Characters of an answer in a message."""


@dataclass
class _Trial:
    """What the processes of a configuration did.

    Attributes:
        found: fields of ``Checked``.
        threads: of torch in a worker.
        answers: by worker and batch size.
    """

    log: Path
    fault: str = ""
    found: dict[str, Any] = field(default_factory=dict)
    threads: int | None = None
    answers: dict[tuple[int, int], list[Any]] = field(default_factory=dict)


def check_apis(configurations: Mapping[str, LitApiSettings], how: Preflight) -> dict[str, Checked]:
    """Try each LitAPI in processes of its own, which end with the check."""
    trials: dict[str, _Trial] = {}
    first: dict[str, tuple[str, list[Any]]] = {}
    checked: dict[str, Checked] = {}
    for name, settings in configurations.items():
        key = settings.model_dump_json(include={*PIPELINE_KEYS, "path", "transport", "script", "variables"})
        if key not in trials:
            trials[key] = _try(name, settings, how)
        trial = trials[key]
        fault = trial.fault
        if not fault and settings.check_answers and trial.answers:
            api = settings.model_dump_json(include={"api", "api_kwargs", "folder", "script"})
            fault = _own_disagreement(trial)
            if not fault:
                other, expected = first.setdefault(api, (name, trial.answers[1, 1]))
                fault = _disagreement(expected, trial.answers[1, 1], f"from {other}", f"from {name}")
        text = f"{name}: {fault}; its log: {trial.log}" if fault else ""
        checked[name] = Checked(text, notes=tuple(_notes(name, settings, trial)), **trial.found)
    return checked


def _notes(name: str, settings: LitApiSettings, trial: _Trial) -> Iterator[str]:
    if settings.batch_timeout_s and settings.max_batch_size == 1:
        yield f"{name}: batch_timeout_s has no effect at max_batch_size 1"
    if settings.threads_per_worker and trial.threads not in (None, settings.threads_per_worker):
        yield f"{name}: threads_per_worker has no effect: torch has {trial.threads} threads in the worker"
    if settings.num_api_servers > 1 and settings.transport == "direct":
        yield f"{name}: num_api_servers has no effect with transport direct, which has one HTTP process"
    if not settings.check_answers:
        yield f"{name}: answers are not compared (check_answers: false)"


def _own_disagreement(trial: _Trial) -> str:
    """The first answer that depends on the batch size or on the worker; empty if none does."""
    for (worker, size), answers in trial.answers.items():
        labels = ("at batch size 1", f"at batch size {size}")
        if worker > 1:
            labels = ("from worker 1", f"from worker {worker}")
        if found := _disagreement(trial.answers[1, 1], answers, *labels):
            return found
    return ""


def _disagreement(expected: list[Any], answers: list[Any], *labels: str) -> str:
    """The first answer that differs from the expected one; ``labels`` say where the two come from."""
    for number, pair in enumerate(zip(expected, answers, strict=False), 1):
        if found := difference(*pair):
            place, *values = found
            at = f" at {place}" if place else ""
            shown = [f"{_shortened(value)} {label}" for value, label in zip(values, labels, strict=True)]
            return f"{DIFFER} {number} differ{at}: {', '.join(shown)} (check_answers: false if they may)"
    return ""


def difference(one: Any, other: Any, place: str = "") -> tuple[str, Any, Any] | None:
    """The first place where two JSON values differ, with both values there; None if they agree.

    Numbers agree within RELATIVE or ABSOLUTE unless both are integers; anything else agrees if it is equal.
    """
    pairs: Iterator[tuple[str, Any, Any]]
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        pairs = ((f"{place}.{key}" if place else key, one[key], other[key]) for key in one)
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = ((f"{place}[{index}]", *pair) for index, pair in enumerate(zip(one, other, strict=True)))
    else:
        alike = type(one) is type(other) and one == other
        if {type(one), type(other)} in ({float}, {float, int}):
            alike = math.isclose(one, other, rel_tol=RELATIVE, abs_tol=ABSOLUTE)
        return None if alike else (place, one, other)
    return next(filter(None, (difference(a, b, at) for at, a, b in pairs)), None)


def _shortened(answer: Any) -> str:
    text = json.dumps(answer, ensure_ascii=False)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"


def _try(name: str, settings: LitApiSettings, how: Preflight) -> _Trial:
    """Start the processes of a configuration, and take their answers until one fails."""
    trial, contents = _Trial(lasting_log(name)), how.bodies.contents
    largest = min(settings.max_batch_size, MOST_BODIES, max(2, len(contents)))
    formed, possible = (min(size, MOST_BODIES) for size in (settings.max_batch_size, how.users or 1))
    fewest = FEWEST_BODIES if settings.check_answers else possible
    job = {
        "settings": settings.model_dump(include=set(LitApiSettings.model_fields)),
        "script": getattr(settings, "script", ()),
        "device": how.device,
        "timeout_s": how.timeout_s,
        "quick": how.quick,
        "bodies": how.bodies._replace(contents=contents[: max(largest, fewest)]).to_json(),
        "sizes": sorted({1, min(2, largest), largest}),
        "timed": [formed, possible] if possible > formed else [],
    }
    with (
        scratch() as folder,
        trial.log.open("wb") as log,
        process_group(
            [sys.executable, "-m", "litmeter.kinds.preflight_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            stop_s=0.0,
            env=settings.environment() | {"TMPDIR": str(folder)},
            cwd=settings.folder,
        ) as process,
    ):
        lines = _lines(process, json.dumps(job).encode() + b"\n")
        at_start_s = max(AT_START_S, getattr(settings, "ready_s", 0.0))
        doing, limit_s, optional = "start", at_start_s, False
        while True:
            try:
                line = lines.get(timeout=limit_s)
            except queue.Empty:
                trial.fault = "" if optional else f"{doing} did not return within {limit_s:g} s"
                return trial
            message: dict[str, Any] = json.loads(line) if line else {"died": process.wait()}
            optional = optional or "optional" in message
            if method := message.get("doing"):
                size = message.get("batch_size")
                doing = f"{method} at batch size {size}" if size else method
                limit_s = at_start_s if method in AT_START else how.timeout_s
            if "answers" in message:
                trial.answers[message["worker"], message["batch_size"]] = message["answers"]
            trial.threads = message.get("threads", trial.threads)
            trial.found |= message.get("found", {})
            if "timed" in message:
                differs = map(difference, trial.answers[1, 1], message["timed"])
                if not (settings.check_answers and any(differs)):
                    times = trial.found.setdefault("batch_ms", {})
                    times[message["batch_size"]] = round(message["ms"], 3)
            if "again" in message:
                first, second = message["again"]
                if second is None or (settings.check_answers and difference(first, second)):
                    trial.found["unavailable"] = "predict changes its input"
            if "costs" in message:
                try:
                    trial.found["costs"] = Costs.model_validate(message["costs"])
                except ValidationError as error:
                    trial.fault = f"costs: {explain(error, Costs).removeprefix(': ')}"
                    return trial
            if "raised" in message:
                trial.fault = f"{doing}: {message['raised']}"
            elif "died" in message:
                trial.fault = f"{doing}: {_exit(message['died'])}{_last_line(trial.log)}"
            elif "end" not in message:
                continue
            return trial


def _lines(process: subprocess.Popen[bytes], job: bytes) -> queue.Queue[bytes]:
    """Send the job; lines of the answer as they come, and at its end an empty line."""
    assert process.stdin is not None
    assert process.stdout is not None
    with suppress(BrokenPipeError):  # the process died: the end of its answer says so
        process.stdin.write(job)
        process.stdin.flush()
    lines: queue.Queue[bytes] = queue.Queue()
    output = process.stdout

    def read() -> None:
        for line in output:
            lines.put(line)
        lines.put(b"")

    Thread(target=read, daemon=True).start()
    return lines


def _exit(status: int) -> str:
    return f"exit status {status}" if status >= 0 else f"killed by {signal.Signals(-status).name}"


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f": {last}" if last else ""
