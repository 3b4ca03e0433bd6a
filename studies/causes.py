"""Whether the diagnosis is right: ``python -m studies.causes made`` or ``neighboured``.

``made``: whether it names causes that are made, each in one configuration, beside the reference.
``neighboured``: whether it knows what a neighbour took, from the same configuration alone and beside one.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import psutil
from PIL import Image

from litmeter.classifier.model.precision import has_bfloat16
from litmeter.classifier.model.rows import Ceilings
from litmeter.classifier.server.client import CONTENT_TYPES, request_bodies
from litmeter.kinds.classifier import Classifier
from litmeter.kinds.configuration import Configuration
from litmeter.load import LoadGenerator, load_generator
from litmeter.load.bodies import Bodies
from litmeter.measure.comparison_rows import comparison_rows
from litmeter.measure.log import Log
from litmeter.measure.rounds import comparison
from litmeter.measure.rows import BenchmarkMetrics
from litmeter.measure.run import run
from litmeter.measure.subjects import Done, Served, Subject, pipelines_of
from litmeter.measure.turn import Turn
from litmeter.paths import CEILINGS, MACHINE
from litmeter.report.diagnosis import bounds_of, diagnose, raised
from litmeter.report.losses import Why, losses_of
from litmeter.report.results import Result
from litmeter.stages.comparison import probes_of
from litmeter.stats.records import LoadRecord
from litmeter.system.files import read_json
from litmeter.system.machine import exclusive_machine
from studies.harness import DEVICE, TIMEOUT_S, configuration, keep_runs, known, photo_paths, start

RUNS, SECONDS = 5, 45.0
REFERENCE, INJECTED = "reference", "injected"
PLAIN = configuration("candidate")
AVX2 = {
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
}
"""Caps the instructions of torch, oneDNN and OpenVINO."""


@dataclass(frozen=True)
class Case:
    """What is done to a configuration.

    Attributes:
        side: pixels of the photos' shorter sides; None: as they are.
        slowed: share of the time in which the load generator is paused.
        neighbour: share of a core that another process uses.
        environment: of all processes.
    """

    settings: Configuration
    users: int = 8
    side: int | None = None
    slowed: float = 0.0
    neighbour: float = 0.0
    environment: Mapping[str, str] = field(default_factory=dict)


CASES = {
    "batch window": Case(Classifier(max_batch_size=64, batch_timeout_s=0.05), users=1),
    "too many workers": Case(Classifier(max_batch_size=4, batch_timeout_s=0.01, workers_per_device=4)),
    "preprocessing": Case(PLAIN, side=3000),
    "load generator": Case(PLAIN, slowed=0.9),
    "other processes": Case(PLAIN, neighbour=0.5),
    "half precision is emulated": Case(Classifier(precision="half"), environment=AVX2),
}
NEIGHBOURED = {
    "one core": PLAIN.model_copy(update={"workers_per_device": 1}),
    "all cores": PLAIN,
}
"""What a pipeline uses that is measured alone and beside a neighbour, which keeps one core busy."""
NEIGHBOUR_RUNS, NEIGHBOUR_SECONDS = 2, 100.0
ALONE, BESIDE = "alone", "beside"


def diagnosed(case: Case) -> dict[str, Any]:
    """The cause that is named, with its sentence."""
    configurations = {REFERENCE: configuration("e1_baseline"), INJECTED: case.settings}
    with TemporaryDirectory() as folder, patch.dict(os.environ, case.environment), exclusive_machine():
        photos = photo_paths() if case.side is None else enlarged(Path(folder), case.side)
        with (
            load_generator(request_bodies(photos, "image"), CONTENT_TYPES["image"]) as sender,
            ExitStack() as stack,
        ):
            if case.slowed:
                stack.enter_context(paused(psutil.Process(sender.pid), case.slowed))
            if case.neighbour:
                stack.enter_context(paused(stack.enter_context(spinning()), 1 - case.neighbour))
            subjects = subjects_of(configurations, sender, photos, case.users)
            results = compared(configurations, subjects, case.users, SECONDS)
    ceilings, _ = raised([*results.values()], Ceilings.model_validate(read_json(CEILINGS)))
    injected = results[INJECTED]
    found = diagnose(injected, bounds_of(injected, ceilings), ceilings, [*results.values()])
    return {"cause": found.cause, "text": found.text}


def subjects_of(
    configurations: Mapping[str, Configuration], sender: LoadGenerator, photos: Sequence[Path], users: int
) -> dict[str, Subject]:
    """Configurations, served and in-process."""
    return {
        **{name: Served(name, one, sender, DEVICE, TIMEOUT_S) for name, one in configurations.items()},
        **pipelines_of(configurations, DEVICE, Bodies([], "image/jpeg"), users),
    }


def compared(
    configurations: Mapping[str, Configuration],
    subjects: Mapping[str, Subject],
    users: int,
    seconds: float,
) -> dict[str, Result]:
    """Compare ``configurations`` with the first of them."""
    log, (reference, *_) = Log(), configurations
    schedule = comparison(
        list(configurations),
        reference,
        users=users,
        seconds=seconds,
        seed=1,
        timeout_s=TIMEOUT_S,
        largest_batch={name: min(one.largest_batch, users) for name, one in configurations.items()},
        probed={name: probes_of(one, users) for name, one in configurations.items()},
    )
    run(schedule, subjects, log, seconds)
    machine = read_json(MACHINE) | {"bfloat16": has_bfloat16()}
    return {
        name: Result(name, configurations[name], DEVICE, machine, BenchmarkMetrics(), row, turns, [])
        for row in comparison_rows(list(configurations), reference, log.rows, log.latencies_ms(), 0.05)
        for name in [row.experiment]
        for turns in [[turn for turn in log.rows if turn.subject == name]]
    }


def alone_and_beside(serve: Configuration) -> dict[str, Any]:
    """What is said of a configuration beside a neighbour, and what the same says that had none.

    Of the loss from the undisturbed model to the rate beside the neighbour each cause has what it has alone,
    and the neighbour all that the served rate lost to it.
    """
    configurations = {ALONE: serve, BESIDE: serve}
    with (
        exclusive_machine(),
        load_generator(request_bodies(photo_paths(), "image"), CONTENT_TYPES["image"]) as sender,
        spinning() as busy,
    ):
        subjects: dict[str, Subject] = {}
        for name in configurations:
            own = subjects_of({name: serve}, sender, photo_paths(), users=8)
            subjects |= own if name == ALONE else {key: beside(one, busy) for key, one in own.items()}
        results = compared(configurations, subjects, users=8, seconds=NEIGHBOUR_SECONDS)
    ceilings, _ = raised([*results.values()], Ceilings.model_validate(read_json(CEILINGS)))
    ms: dict[str, dict[str, float]] = {name: defaultdict(float) for name in results}
    whole_ms = dict[str, float]()
    for name, one in results.items():
        for loss in losses_of(one, Why("preprocessing", None, "")):
            ms[name][loss.why.cause] += loss.core_ms
        whole_ms[name] = mean(1000 * one.cores / known(row.rate_rps) for row in one.served)
    expected = ms[ALONE].copy()
    expected["other processes"] += whole_ms[BESIDE] - whole_ms[ALONE]

    def shares(ms: Mapping[str, float]) -> dict[str, float]:
        return {cause: round(own / sum(ms.values()), 3) for cause, own in ms.items()}

    return {
        name: {
            "rate_rps": one.compared.rate_rps,
            "model_rps": one.compared.model_rps,
            "text": diagnose(one, bounds_of(one, ceilings), ceilings, [one]).text,
        }
        for name, one in results.items()
    } | {"shares": shares(ms[BESIDE]), "expected": shares(expected)}


def beside(subject: Subject, busy: psutil.Process) -> Subject:
    """Let a neighbour run in the turns of ``subject``, and in no others."""
    load = subject.load

    def loaded(turn: Turn, tick: Callable[[], None]) -> LoadRecord | Done:
        busy.resume()
        try:
            return load(turn, tick)
        finally:
            busy.suspend()

    busy.suspend()
    subject.load = loaded  # type: ignore[method-assign]
    return subject


def enlarged(folder: Path, side: int) -> list[Path]:
    """Some of the photos, large ones."""
    for photo in photo_paths()[:16]:
        with Image.open(photo) as image:
            factor = side / min(image.size)
            large = image.convert("RGB").resize((round(image.width * factor), round(image.height * factor)))
        large.save(folder / photo.name, "JPEG", quality=85)
    return sorted(folder.iterdir())


@contextmanager
def spinning() -> Iterator[psutil.Process]:
    """Another process, which keeps a core busy."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield psutil.Process(process.pid)
    finally:
        process.kill()
        process.wait()


@contextmanager
def paused(process: psutil.Process, share: float, every_s: float = 0.02) -> Iterator[None]:
    """Pause a process for a share of the time."""
    done = threading.Event()

    def toggle() -> None:
        while not done.is_set():
            process.suspend()
            done.wait(share * every_s)
            process.resume()
            time.sleep((1 - share) * every_s)

    thread = threading.Thread(target=toggle)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def made() -> None:
    """Diagnose each case RUNS times, and say how often its cause was named first, alone or with others."""
    names = list(CASES)

    def one(number: int) -> dict[str, Any]:
        name = names[number % len(names)]
        return {"injected": name, **diagnosed(CASES[name])}

    runs = keep_runs("causes", RUNS * len(CASES), one, seconds=SECONDS)
    first = [(run["injected"], run["cause"].partition(", then ")[0].split(" and ")) for run in runs]
    for name in names:
        together = sum(name in causes for injected, causes in first if injected == name)
        alone = sum([name] == causes for injected, causes in first if injected == name)
        print(f"{name}: named first in {together} of {RUNS}, alone in {alone}")


def neighboured() -> None:
    """Say by how many points the shares of causes beside a neighbour differ from what they are."""
    names = list(NEIGHBOURED)

    def one(number: int) -> dict[str, Any]:
        name = names[number % len(names)]
        return {"uses": name, **alone_and_beside(NEIGHBOURED[name])}

    for found in keep_runs("causes_neighbour", NEIGHBOUR_RUNS * len(names), one, seconds=NEIGHBOUR_SECONDS):
        told, true = found["shares"], found["expected"]
        points = {cause: 100 * abs(told.get(cause, 0.0) - true.get(cause, 0.0)) for cause in told | true}
        cause = max(points, key=points.__getitem__)
        print(f"{found['uses']}: the share of {cause} differs most, by {points[cause]:.0f} points")


if __name__ == "__main__":
    start(__doc__, made, neighboured)
