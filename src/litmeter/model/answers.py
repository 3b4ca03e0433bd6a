"""Answers of configurations without a server: ``python -m litmeter.model.answers`` finds a share.

As many processes as there are cores share the photos.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from litmeter.errors import LitmeterError
from litmeter.model.environment import worker_environment
from litmeter.params import ServeSettings
from litmeter.paths import ModelFolders
from litmeter.system.processes import JsonLinesProcess, OnStart, process_group, run_parallel
from litmeter.system.progress import bar
from litmeter.system.temporary import scratch


def answers_of(
    folders: ModelFolders, device: str, configurations: Sequence[ServeSettings], photos: Sequence[Path]
) -> list[npt.NDArray[np.float64]]:
    """The probabilities of each configuration, by photo and class.

    Raises:
        LitmeterError: a model cannot be loaded or run; the message holds the end of its log.
    """
    processes = 1 if device == "cuda" else min(os.cpu_count() or 1, len(photos))
    answers: list[list[Any]] = [[None] * len(photos) for _ in configurations]
    with bar(len(configurations) * len(photos), "answers", "photo") as progress:

        def run_share(first: int, on_start: OnStart) -> None:
            numbers = range(first, len(photos), processes)
            share = [photos[number] for number in numbers]
            found = _answers_of_share(folders, device, configurations, share, on_start)
            for position, number, probabilities in found:
                answers[position][numbers[number]] = probabilities
                progress.update()

        run_parallel([partial(run_share, first) for first in range(processes)], processes)
    return [np.array(own, dtype=np.float64) for own in answers]


def _answers_of_share(
    folders: ModelFolders,
    device: str,
    configurations: Sequence[ServeSettings],
    photos: Sequence[Path],
    on_start: OnStart,
) -> Iterator[tuple[int, int, list[float]]]:
    """Numbers of configuration and photo, and the probabilities, as a process of its own finds them."""
    one_thread = [settings.model_copy(update={"threads_per_worker": 1}) for settings in configurations]
    job = {
        "exported": str(folders.exported),
        "compiled": str(folders.compiled),
        "device": device,
        "configurations": [settings.model_dump() for settings in one_thread],
        "photos": [str(photo) for photo in photos],
    }
    pipe = subprocess.PIPE
    with (
        scratch() as temporary,
        (log := temporary / "log").open("wb") as stderr,
        process_group(
            [sys.executable, "-m", "litmeter.model.answers"],
            stdin=pipe,
            stdout=pipe,
            stderr=stderr,
            env=worker_environment(ServeSettings(keep_freed_memory=True)) | {"TMPDIR": str(temporary)},
        ) as process,
    ):
        on_start(process)
        conversation = JsonLinesProcess(process, log, "what runs the model", LitmeterError)
        conversation.send(job)
        for _ in range(len(configurations) * len(photos)):
            configuration, photo, probabilities = conversation.answer()
            yield configuration, photo, probabilities


def main() -> None:
    """Read a job from standard input, and print a line for each configuration and photo."""
    from litmeter.model.predictor import Predictor  # imports torch, which takes seconds

    job = json.loads(sys.stdin.readline())
    folders = ModelFolders(Path(job["exported"]), Path(job["compiled"]))
    for number, settings in enumerate(job["configurations"]):
        predictor = Predictor(folders, job["device"], ServeSettings.model_validate(settings))
        for photo, path in enumerate(job["photos"]):
            image = predictor.preprocess(Path(path).read_bytes())
            [probabilities] = predictor.predict([image]).tolist()
            print(json.dumps([number, photo, probabilities]), flush=True)


if __name__ == "__main__":
    main()
