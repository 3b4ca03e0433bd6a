"""Whether every photo gets its own answer from the loaded server: against the same predictor in-process.

Precision, packages and preprocessing are the same on both sides, so only the size of a batch, which
changes the order of sums, may move a probability.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from litmeter.classifier.accuracy import probabilities
from litmeter.classifier.model.predictor import Predictor
from litmeter.kinds.classifier import Classifier
from litmeter.kinds.configuration import Configuration
from litmeter.measure.log import Log
from litmeter.measure.run import run
from litmeter.measure.subjects import Served
from litmeter.measure.turn import Schedule, Turn, measure, serve
from litmeter.paths import MODEL
from litmeter.stats.records import LoadRecord
from litmeter.system.machine import exclusive_machine
from studies.harness import DEVICE, TIMEOUT_S, configuration, load_plan, photo_paths, sender, write_result

CONFIGURATIONS = ("candidate", "e7_tuned")
USERS = 32
REQUESTS = 1110
"""Three times all photos."""
SECONDS, LONGEST_S = 1.0, 60.0


def one_after_another() -> Schedule[dict[str, LoadRecord]]:
    """Serve each configuration alone and load it once."""
    records = {}
    plan = load_plan(USERS, SECONDS, seed=0, longest_s=LONGEST_S, requests=REQUESTS, warmup_s=0.0)
    plan = replace(plan, keep_answers=True)
    for name in CONFIGURATIONS:
        yield from serve([name])
        records[name] = (yield from measure(Turn(name, plan))).requests
    return records


def differences(settings: Configuration, record: LoadRecord) -> dict[str, Any]:
    """The largest difference of an answer's probability from its photo's in-process."""
    assert isinstance(settings, Classifier)
    predictor = Predictor(MODEL, DEVICE, settings, settings.threads_per_worker)
    photos = [path.read_bytes() for path in photo_paths()]
    own = [predictor.predict([predictor.preprocess(photo)])[0].numpy() for photo in photos]
    found = [
        float(np.abs(probabilities(answer, predictor.card.classes) - own[body]).max())
        for body, answer in zip(record.body, record.answers, strict=True)
    ]
    return {
        "largest_difference": round(max(found), 4),
        "answers": len(found),
        "photos_not_sent": len(photos) - len(set(record.body.tolist())),
    }


def main() -> None:
    """Load each configuration; keep and print what came of it."""
    settings = {name: configuration(name) for name in CONFIGURATIONS}
    with exclusive_machine(), sender("image") as generator:
        subjects = {name: Served(name, own, generator, DEVICE, TIMEOUT_S) for name, own in settings.items()}
        records = run(one_after_another(), subjects, Log(), LONGEST_S)
    found = {name: differences(settings[name], record) for name, record in records.items()}
    write_result("answers", found)
    print(found)


if __name__ == "__main__":
    main()
