"""Whether every photo gets its own answer from the loaded server: against the same predictor in-process.

Precision, packages and preprocessing are the same on both sides, so only the size of a batch, which
changes the order of sums, may move a probability.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from litmeter.measure.accuracy import probabilities
from litmeter.model.predictor import Predictor
from litmeter.params import ServeSettings, load_params
from litmeter.paths import MODEL
from studies.harness import DEVICE, Case, load_plan, measure_rounds, photo_paths, run_load, write_result

CONFIGURATIONS = ("candidate", "e7_tuned")
USERS = 32
REQUESTS = 1110
"""Three times all photos."""
SECONDS = 1.0
LONGEST_S = 60.0


def differences(settings: ServeSettings, number: int) -> dict[str, Any]:
    """The largest difference of an answer's probability from its photo's in-process."""
    case = Case(settings)
    plan = load_plan(USERS, SECONDS, seed=number, longest_s=LONGEST_S, requests=REQUESTS, warmup_s=0.0)
    with case.running() as server:
        [record] = run_load(server, case.form, [plan])
    predictor = Predictor(MODEL, DEVICE, settings)
    photos = [path.read_bytes() for path in photo_paths()]
    own = [predictor.predict([predictor.preprocess(photo)])[0].numpy() for photo in photos]
    found = [
        float(np.abs(probabilities(answer, predictor.card.classes) - own[body]).max())
        for body, answer in zip(record.body, map(bytes, record.answer), strict=True)
    ]
    return {
        "largest_difference": round(max(found), 4),
        "answers": len(found),
        "photos_not_sent": len(photos) - len(set(record.body.tolist())),
    }


def main() -> None:
    """Load each configuration once; keep and print what came of it."""
    params = load_params()
    cases = {name: partial(differences, params.configuration(name)) for name in CONFIGURATIONS}
    found = {name: only for name, [only] in measure_rounds("answers", cases, rounds=1).items()}
    write_result("answers", found)
    print(found)


if __name__ == "__main__":
    main()
