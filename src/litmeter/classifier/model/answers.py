"""Answers to all photos without a server; each process (``python -m`` this module) answers a share."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from litmeter.classifier.model.environment import keeping_freed_memory
from litmeter.classifier.model.settings import InferenceSettings
from litmeter.paths import ModelFolders
from litmeter.say.progress import bar
from litmeter.system.cores import whole_cores
from litmeter.system.processes import OnStart, json_lines_process, run_parallel


def answers_of(
    folders: ModelFolders, device: str, configurations: Sequence[InferenceSettings], photos: Sequence[Path]
) -> list[npt.NDArray[np.float64]]:
    """The probabilities of each configuration: an array (photos, classes).

    Raise LitmeterError, with the end of the process's log, where a model cannot be loaded or run.
    """
    processes = 1 if device == "cuda" else min(whole_cores(), len(photos))
    answers: list[list[Any]] = [[None] * len(photos) for _ in configurations]
    keys = set(InferenceSettings.model_fields)
    job = {
        "exported": str(folders.exported),
        "compiled": str(folders.compiled),
        "device": device,
        "configurations": [settings.model_dump(include=keys) for settings in configurations],
    }
    with bar(len(configurations) * len(photos), "answers", "photo") as progress:

        def run_share(first: int, on_start: OnStart) -> None:
            numbers = range(first, len(photos), processes)
            share = job | {"photos": [str(photos[number]) for number in numbers]}
            with json_lines_process(
                "litmeter.classifier.model.answers",
                share,
                keeping_freed_memory(),
                "the process that runs the model",
                on_start,
            ) as process:
                for _ in range(len(configurations) * len(numbers)):
                    configuration, position, probabilities = process.answer()
                    answers[configuration][numbers[position]] = probabilities
                    progress.update()

        run_parallel([partial(run_share, first) for first in range(processes)], processes)
    return [np.array(probabilities, dtype=np.float64) for probabilities in answers]


def main() -> None:
    """Read a job from standard input; print an answer in JSON for each configuration and photo."""
    from litmeter.classifier.model.predictor import Predictor  # imports torch, which takes seconds

    job = json.loads(sys.stdin.readline())
    folders = ModelFolders(Path(job["exported"]), Path(job["compiled"]))
    for number, settings in enumerate(job["configurations"]):
        predictor = Predictor(folders, job["device"], InferenceSettings.model_validate(settings), threads=1)
        for photo, path in enumerate(job["photos"]):
            image = predictor.preprocess(Path(path).read_bytes())
            [probabilities] = predictor.predict([image]).tolist()
            print(json.dumps([number, photo, probabilities]), flush=True)


if __name__ == "__main__":
    main()
