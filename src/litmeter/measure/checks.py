"""Whether configurations may be measured, asked of each kind before anything is timed."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from litmeter.errors import ApiError
from litmeter.kinds.configuration import Checked, Configuration, Preflight
from litmeter.load.bodies import Bodies


def check_all(
    configurations: Mapping[str, Configuration],
    bodies: Bodies,
    device: str,
    timeout_s: float,
    users: int | None = None,
    *,
    quick: bool = False,
) -> dict[str, Checked]:
    """What is found of each, by name, those of a kind together; see ``Configuration.checked``."""
    found: dict[str, Checked] = {}
    for kind in {type(one): None for one in configurations.values()}:
        own = {name: one for name, one in configurations.items() if type(one) is kind}
        found |= kind.checked(own, Preflight(bodies, device, timeout_s, users, quick))
    return {name: found[name] for name in configurations}


def refuse_faulty(found: dict[str, Checked]) -> dict[str, Checked]:
    """Raise ApiError for the first fault of ``check_all``, else print its notes; return ``found``."""
    for one in found.values():
        if one.fault:
            raise ApiError(one.fault)
    for note in dict.fromkeys(note for one in found.values() for note in one.notes):
        print(note, file=sys.stderr)
    return found
