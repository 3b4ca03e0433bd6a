"""Whether every photo gets its own answer from the loaded server: against the same predictor in-process.

Precision, packages and preprocessing are the same on both sides, so only the size of a batch, which
changes the order of sums, may move a probability.
"""

from __future__ import annotations

import numpy as np

from servebench.benchmark.accuracy import probabilities
from servebench.inference.predictor import Predictor
from servebench.loadgen import CONTENT_TYPES, LoadPlan, generate
from servebench.params import load_params
from servebench.paths import EXPORT_FOLDER
from servebench.serving.launcher import running_server
from servebench.system.machine_lock import exclusive_machine
from studies.goals import keep
from studies.short import all_bodies, photo_paths

USERS = 32
REQUESTS = 1110
"""Three times all photos."""
TARGETS = {"candidate": 1e-3, "e7_tuned": 0.05}
"""Largest difference of a probability: in full precision, and of what bfloat16 rounds to three digits."""


def main() -> None:
    """Load each configuration and keep the largest difference."""
    paths = photo_paths()
    for name, target in TARGETS.items():
        serve = load_params().configuration(name)
        with exclusive_machine():
            plan = LoadPlan(USERS, REQUESTS, 0.0, 1.0, 60.0, 3, 30.0, 0)
            with running_server(EXPORT_FOLDER, serve, "cpu", 30.0) as server:
                form = serve.request_body
                [level] = generate(f"{server.url}/predict", all_bodies(form), CONTENT_TYPES[form], [plan])
            predictor = Predictor(EXPORT_FOLDER, "cpu", serve)
            own = [predictor.predict([predictor.preprocess(path.read_bytes())])[0].numpy() for path in paths]
        classes = predictor.card.classes
        difference = [
            float(np.abs(probabilities(answer, classes) - own[body]).max())
            for body, answer in zip(level.body, map(bytes, level.answer), strict=True)
        ]
        missing = len(paths) - len(set(level.body.tolist()))
        keep(
            f"answers_{name}",
            f"{name}, {USERS} users: largest difference of a probability from the same photo's in-process",
            target,
            [max(difference)],
            at_least=False,
            answers=len(difference),
            photos_not_sent=missing,
        )


if __name__ == "__main__":
    main()
