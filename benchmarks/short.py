"""One short level: all that a comparison of many servers needs of each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from servebench.data.index import read_index
from servebench.load import CONTENT_TYPE, LevelPlan, generate, photo_bodies
from servebench.measure.level import level_row
from servebench.measure.telemetry import Usage
from servebench.serving.running import RunningServer


def all_bodies() -> list[bytes]:
    """The request bodies of all photos."""
    return photo_bodies([Path(photo.path) for photo in read_index().photos])


def short_rates(
    server: RunningServer, bodies: Sequence[bytes], users: Sequence[int], seconds: float, seed: int
) -> dict[int, float]:
    """Requests per second by number of users, each measured for ``seconds``."""
    plan = [
        LevelPlan(
            users=number,
            requests=1,
            warmup_s=0.5,
            min_s=seconds,
            max_s=seconds,
            max_windows=3,
            timeout_s=30.0,
            seed=seed,
        )
        for number in users
    ]
    levels = generate(f"{server.url}/predict", bodies, CONTENT_TYPE, plan)
    return {level.users: level_row(level, Usage())["throughput_rps"] for level in levels}
