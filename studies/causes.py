"""Whether the diagnosis names causes that are made: each in one configuration, beside the reference.

And whether it knows what a neighbour took: the same configuration in the same rounds, alone and beside one.
"""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import psutil
from PIL import Image

from litmeter.classifier.model.precision import has_bfloat16
from litmeter.classifier.server.client import CONTENT_TYPES, request_bodies
from litmeter.kinds.classifier import Classifier
from litmeter.kinds.configuration import Configuration
from litmeter.load import LoadGenerator, load_generator
from litmeter.load.bodies import Bodies
from litmeter.measure.comparison_rows import comparison_rows
from litmeter.measure.log import Log
from litmeter.measure.rounds import comparison
from litmeter.measure.run import run
from litmeter.measure.subjects import Done, Served, Subject, pipelines_of
from litmeter.measure.turn import Turn
from litmeter.paths import CEILINGS, MACHINE
from litmeter.report.diagnosis import bounds_of, diagnose, raised
from litmeter.report.losses import Why, losses_of
from litmeter.report.results import Result
from litmeter.stages.comparison import crowds
from litmeter.stats.records import LoadRecord
from litmeter.system.files import read_json
from litmeter.system.machine import exclusive_machine
from studies.harness import DEVICE, TIMEOUT_S, configuration, keep_runs, known, photo_paths

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
        slowed: share of the time in which the load generator is stopped.
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
    with (
        TemporaryDirectory() as folder,
        patch.dict(os.environ, case.environment),
        exclusive_machine(),
    ):
        photos = photo_paths() if case.side is None else enlarged(Path(folder), case.side)
        with (
            load_generator(request_bodies(photos, "image"), CONTENT_TYPES["image"]) as sender,
            slowed(sender, case.slowed) if case.slowed else nullcontext(),
            neighbour(case.neighbour) if case.neighbour else nullcontext(),
        ):
            subjects = subjects_of(configurations, sender, photos)
            results = compared(configurations, subjects, case.users, SECONDS)
    ceilings, _ = raised([*results.values()], read_json(CEILINGS))
    injected = results[INJECTED]
    found = diagnose(injected, bounds_of(injected, ceilings), ceilings, [*results.values()])
    return {"cause": found.cause, "text": found.text}


def subjects_of(
    configurations: Mapping[str, Configuration], sender: LoadGenerator, photos: Sequence[Path]
) -> dict[str, Subject]:
    """Configurations, served and in-process."""
    return {
        **{name: Served(name, one, sender, DEVICE, TIMEOUT_S) for name, one in configurations.items()},
        **pipelines_of(configurations, DEVICE, Bodies([], "image/jpeg")),
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
        crowded=[name for name, one in configurations.items() if crowds(one)],
    )
    run(schedule, subjects, log, seconds)
    machine = read_json(MACHINE) | {"bfloat16": has_bfloat16()}
    return {
        row.experiment: Result(
            row.experiment,
            configurations[row.experiment],
            DEVICE,
            machine,
            {},
            row,
            [turn for turn in log.rows if turn.subject == row.experiment],
            [],
        )
        for row in comparison_rows(list(configurations), reference, log.rows, log.latencies_ms(), 0.05)
    }


def neighboured(serve: Configuration) -> dict[str, Any]:
    """What is said of a configuration beside a neighbour, and what the same says that had none.

    Of the loss from the undisturbed model to the rate beside the neighbour each cause has what it has alone,
    and the neighbour all that the served rate lost to it.
    """
    configurations = {ALONE: serve, BESIDE: serve}
    with (
        exclusive_machine(),
        load_generator(request_bodies(photo_paths(), "image"), CONTENT_TYPES["image"]) as sender,
        neighbour(1.0) as busy,
    ):
        subjects: dict[str, Subject] = {}
        for name in configurations:
            own = subjects_of({name: serve}, sender, photo_paths())
            subjects |= own if name == ALONE else {key: beside(one, busy) for key, one in own.items()}
        results = compared(configurations, subjects, users=8, seconds=NEIGHBOUR_SECONDS)
    ceilings, _ = raised([*results.values()], read_json(CEILINGS))
    losses = {name: losses_of(one, Why("preprocessing", None, "")) for name, one in results.items()}
    ms: dict[str, dict[str, float]] = {name: defaultdict(float) for name in losses}
    for name, found in losses.items():
        for loss in found:
            ms[name][loss.why.cause] += loss.core_ms
    expected = ms[ALONE].copy()
    whole_ms = {
        name: mean(1000 * one.cores / known(row.rate_rps) for row in one.served)
        for name, one in results.items()
    }
    expected["other processes"] += whole_ms[BESIDE] - whole_ms[ALONE]
    return {
        name: {
            "rate_rps": one.compared.rate_rps,
            "model_rps": one.compared.model_rps,
            "text": diagnose(one, bounds_of(one, ceilings), ceilings, [one]).text,
        }
        for name, one in results.items()
    } | {"shares": shares(ms[BESIDE]), "expected": shares(expected)}


def shares(ms: Mapping[str, float]) -> dict[str, float]:
    """Each cause's share of the loss."""
    return {cause: round(own / sum(ms.values()), 3) for cause, own in ms.items()}


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
    paths = []
    for photo in photo_paths()[:16]:
        with Image.open(photo) as image:
            factor = side / min(image.size)
            large = image.convert("RGB").resize((round(image.width * factor), round(image.height * factor)))
        written = io.BytesIO()
        large.save(written, "JPEG", quality=85)
        paths.append(folder / photo.name)
        paths[-1].write_bytes(written.getvalue())
    return paths


@contextmanager
def slowed(sender: LoadGenerator, share: float, every_s: float = 0.02) -> Iterator[None]:
    """Stop the load generator for a share of the time."""
    done = threading.Event()

    def toggle() -> None:
        while not done.is_set():
            os.kill(sender.pid, signal.SIGSTOP)
            done.wait(share * every_s)
            os.kill(sender.pid, signal.SIGCONT)
            time.sleep((1 - share) * every_s)

    thread = threading.Thread(target=toggle)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextmanager
def neighbour(share: float, every_s: float = 0.02) -> Iterator[psutil.Process]:
    """Another process that uses a share of a core."""
    work = (
        f"import time\nwhile True:\n end = time.perf_counter() + {share * every_s}\n"
        f" while time.perf_counter() < end: pass\n time.sleep({(1 - share) * every_s})"
    )
    process = subprocess.Popen([sys.executable, "-c", work])
    try:
        yield psutil.Process(process.pid)
    finally:
        process.kill()
        process.wait()


def main() -> None:
    """Diagnose each case RUNS times, and say how often its cause was named first, alone or with others.

    Then say by how many points the shares of causes differ from what they are, beside a neighbour.
    """
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

    pipelines = list(NEIGHBOURED)

    def another(number: int) -> dict[str, Any]:
        name = pipelines[number % len(pipelines)]
        return {"uses": name, **neighboured(NEIGHBOURED[name])}

    count = NEIGHBOUR_RUNS * len(pipelines)
    for found in keep_runs("causes_neighbour", count, another, seconds=NEIGHBOUR_SECONDS):
        told, true = found["shares"], found["expected"]
        points = {cause: 100 * abs(told.get(cause, 0.0) - true.get(cause, 0.0)) for cause in told | true}
        cause = max(points, key=points.__getitem__)
        print(f"{found['uses']}: the share of {cause} differs most, by {points[cause]:.0f} points")


if __name__ == "__main__":
    main()
