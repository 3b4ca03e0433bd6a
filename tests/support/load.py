"""A load for tests."""

from __future__ import annotations

from servebench.params import LoadSettings


def short_load(users: int) -> LoadSettings:
    """Photos for half a second."""
    return LoadSettings(
        users=(users,),
        requests=10,
        min_s=0.5,
        max_s=0.5,
        warmup_s=0.1,
        timeout_s=30.0,
        request_body="image",
        seed=1,
    )
