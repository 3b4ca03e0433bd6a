"""Whether every photo gets its own answer from the loaded server: against the same predictor in-process.

Precision, packages and preprocessing are the same on both sides, so only the size of a batch, which
changes the order of sums, may move a probability.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from litmeter.benchmark.accuracy import probabilities
from litmeter.inference.predictor import Predictor
from litmeter.params import ServeSettings, load_params
from litmeter.paths import MODEL
from studies import DEVICE
from studies.goals import keep
from studies.harness import Case, load_plan, measure_rounds, photo_paths, run_load

TARGETS = {"candidate": 1e-3, "e7_tuned": 0.05}
"""Largest difference of a probability: in full precision, and of what bfloat16 rounds to three digits."""
USERS = 32
REQUESTS = 1110
"""Three times all photos."""
SECONDS = 1.0
LONGEST_S = 60.0


def differences(settings: ServeSettings, number: int) -> tuple[list[float], int]:
    """Of each answer from its photo's in-process; and how many photos were not sent."""
    case = Case(settings, users=(USERS,), seconds=SECONDS)
    plan = load_plan(
        users=USERS, seconds=SECONDS, longest_s=LONGEST_S, requests=REQUESTS, warmup_s=0.0, seed=number
    )
    with case.running() as server:
        [record] = run_load(server, case.form, [plan])
    predictor = Predictor(MODEL, DEVICE, settings)
    photos = [path.read_bytes() for path in photo_paths()]
    own = [predictor.predict([predictor.preprocess(photo)])[0].numpy() for photo in photos]
    found = [
        float(np.abs(probabilities(answer, predictor.card.classes) - own[body]).max())
        for body, answer in zip(record.body, map(bytes, record.answer), strict=True)
    ]
    return found, len(photos) - len(set(record.body.tolist()))


def main() -> None:
    """Load each configuration once, and keep the largest difference."""
    params = load_params()
    cases = {name: partial(differences, params.configuration(name)) for name in TARGETS}
    for name, [(found, missing)] in measure_rounds("answers", cases, rounds=1).items():
        keep(
            f"answers_{name}",
            f"{name}, {USERS} users: largest difference of a probability from the same photo's in-process",
            TARGETS[name],
            [max(found)],
            at_least=False,
            answers=len(found),
            photos_not_sent=missing,
        )


if __name__ == "__main__":
    main()
