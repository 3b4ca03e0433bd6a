"""One short level: all that a comparison of many servers needs of each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from servebench.data.index import read_index
from servebench.errors import LoadError
from servebench.load import CONTENT_TYPE, LevelPlan, generate, photo_bodies
from servebench.measure.level import level_row
from servebench.measure.telemetry import Usage
from servebench.serving.running import RunningServer


def all_bodies() -> list[bytes]:
    """The request bodies of all photos."""
    return photo_bodies([Path(photo.path) for photo in read_index().photos])


def all_photos() -> list[bytes]:
    """All photos as they are."""
    return [Path(photo.path).read_bytes() for photo in read_index().photos]


def short_rates(
    server: RunningServer,
    bodies: Sequence[bytes],
    users: Sequence[int],
    seconds: float,
    seed: int,
    *,
    content_type: str = CONTENT_TYPE,
) -> dict[int, float]:
    """Requests per second by number of users, each measured for ``seconds``.

    Raises:
        LoadError: a request failed, so that the rate would not be that of a server that works.
    """
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
    rows = [
        level_row(level, Usage()) for level in generate(f"{server.url}/predict", bodies, content_type, plan)
    ]
    for row in rows:
        if row["failed"] or row["timed_out"]:
            lost = row["failed"] + row["timed_out"]
            raise LoadError(f"{lost} of {row['sent']} requests failed with {row['users']} users")
    return {row["users"]: row["throughput_rps"] for row in rows}
