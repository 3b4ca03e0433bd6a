"""One short level: all that a comparison of many servers needs of each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from servebench.benchmark.levels import LevelRow, level_row
from servebench.benchmark.telemetry import Telemetry
from servebench.data.index import read_index
from servebench.errors import LoadError
from servebench.loadgen import CONTENT_TYPES, LoadPlan, generate, request_bodies
from servebench.serving.launcher import RunningServer


def photo_paths() -> list[Path]:
    """All photos."""
    return [Path(photo.path) for photo in read_index().photos]


def all_bodies(form: str = "json") -> list[bytes]:
    """The request bodies of all photos, in the form of ``serve.request_body``."""
    return request_bodies(photo_paths(), form)


def short_levels(
    server: RunningServer,
    bodies: Sequence[bytes],
    users: Sequence[int],
    seconds: float,
    seed: int,
    form: str = "json",
    requests: int = 1,
    lossless: bool = True,
) -> dict[int, LevelRow]:
    """A level by number of users, each measured for ``seconds`` or until ``requests`` were answered.

    Args:
        lossless: every request has to be answered; else a rate is that of the good answers.

    Raises:
        LoadError: a request failed, so that the rate would not be that of a server that works.
    """
    plan = [
        LoadPlan(
            users=number,
            requests=requests,
            warmup_s=0.5,
            min_s=seconds,
            max_s=seconds if requests == 1 else 10 * seconds,
            max_windows=3,
            timeout_s=30.0,
            seed=seed,
        )
        for number in users
    ]
    url = f"{server.url}/predict"
    with Telemetry(server.pid, interval_s=0.1) as telemetry:
        levels = generate(url, bodies, CONTENT_TYPES[form], plan, on_start=telemetry.follow_client)
        rows = [level_row(level, telemetry.usage(*level.window)) for level in levels]
    for row in rows:
        if lossless and (row["failed"] or row["timed_out"]):
            lost = row["failed"] + row["timed_out"]
            raise LoadError(f"{lost} of {row['sent']} requests failed with {row['users']} users")
    return {row["users"]: row for row in rows}


def short_rates(
    server: RunningServer,
    bodies: Sequence[bytes],
    users: Sequence[int],
    seconds: float,
    seed: int,
    form: str = "json",
) -> dict[int, float]:
    """Requests per second by number of users, each measured for ``seconds``."""
    levels = short_levels(server, bodies, users, seconds, seed, form)
    return {number: row["throughput_rps"] for number, row in levels.items()}
