"""Whether the diagnosis names causes that are made: each in one configuration, beside the reference."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from PIL import Image

from litmeter.load import LoadGenerator, load_generator
from litmeter.measure.comparison_rows import comparison_rows
from litmeter.measure.log import Log
from litmeter.measure.rounds import comparison
from litmeter.measure.run import run
from litmeter.measure.subjects import Served, Subject, pipelines_of
from litmeter.model.device import has_bfloat16
from litmeter.params import ServeSettings
from litmeter.paths import CEILINGS, MACHINE, MODEL
from litmeter.report.diagnosis import Timed, bounds_of, diagnose, raised
from litmeter.report.results import Result
from litmeter.serve.client import CONTENT_TYPES, request_bodies
from litmeter.stages.comparison import crowds
from litmeter.system.files import read_json
from litmeter.system.machine import exclusive_machine
from studies.harness import DEVICE, TIMEOUT_S, configuration, keep_runs, photo_paths

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

    settings: ServeSettings
    users: int = 8
    side: int | None = None
    slowed: float = 0.0
    neighbour: float = 0.0
    environment: Mapping[str, str] = field(default_factory=dict)


CASES = {
    "batch window": Case(ServeSettings(max_batch_size=64, batch_timeout_s=0.05), users=1),
    "too many workers": Case(ServeSettings(max_batch_size=4, batch_timeout_s=0.01, workers_per_device=4)),
    "preprocessing": Case(PLAIN, side=3000),
    "load generator": Case(PLAIN, slowed=0.9),
    "other processes": Case(PLAIN, neighbour=0.5),
    "half precision is emulated": Case(ServeSettings(precision="half"), environment=AVX2),
}


def diagnosed(case: Case) -> dict[str, Any]:
    """The cause that is named, with its sentence."""
    configurations = {REFERENCE: configuration("e1_baseline"), INJECTED: case.settings}
    log = Log()
    with (
        TemporaryDirectory() as folder,
        patch.dict(os.environ, case.environment),
        exclusive_machine(),
    ):
        machine = read_json(MACHINE) | {"bfloat16": has_bfloat16()}
        photos = photo_paths() if case.side is None else enlarged(Path(folder), case.side)
        with (
            load_generator(request_bodies(photos, "image"), CONTENT_TYPES["image"]) as sender,
            slowed(sender, case.slowed) if case.slowed else nullcontext(),
            neighbour(case.neighbour) if case.neighbour else nullcontext(),
        ):
            subjects: dict[str, Subject] = {
                name: Served(name, serve, sender, MODEL, DEVICE, TIMEOUT_S)
                for name, serve in configurations.items()
            }
            schedule = comparison(
                list(configurations),
                REFERENCE,
                users=case.users,
                seconds=SECONDS,
                seed=1,
                timeout_s=TIMEOUT_S,
                largest_batch={n: min(one.max_batch_size, case.users) for n, one in configurations.items()},
                crowded=[name for name, one in configurations.items() if crowds(one)],
            )
            pipelines = pipelines_of(configurations, MODEL, DEVICE, photos)
            run(schedule, subjects | pipelines, log, SECONDS)
    rows = comparison_rows(list(configurations), REFERENCE, log.rows, log.latencies_ms())
    results = [
        Result(row.experiment, configurations[row.experiment], DEVICE, machine, {}, row, turns, [])
        for row in rows
        if (turns := [turn for turn in log.rows if turn.subject == row.experiment])
    ]
    ceilings, _ = raised(results, read_json(CEILINGS))
    [injected] = [one for one in results if one.name == INJECTED]
    found = diagnose(injected, bounds_of(injected, ceilings), ceilings, Timed(results))
    return {"cause": found.cause, "text": found.text}


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
def neighbour(share: float, every_s: float = 0.02) -> Iterator[None]:
    """Another process that uses a share of a core."""
    work = (
        f"import time\nwhile True:\n end = time.perf_counter() + {share * every_s}\n"
        f" while time.perf_counter() < end: pass\n time.sleep({(1 - share) * every_s})"
    )
    process = subprocess.Popen([sys.executable, "-c", work])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def main() -> None:
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


if __name__ == "__main__":
    main()
