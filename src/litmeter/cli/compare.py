"""``litmeter compare``: configurations of params.yaml, or servers of one's own."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from typing import Annotated

from cyclopts import Parameter

from litmeter.cli.own import OWN, USERS, Own, check_only_own, is_own, project, settings_of
from litmeter.errors import UsageError
from litmeter.load import load_generator
from litmeter.measure.bodies import bodies_of
from litmeter.measure.comparison_rows import Pair, pairs
from litmeter.measure.log import Log
from litmeter.measure.preflight import refuse_faulty
from litmeter.measure.rounds import head_to_head
from litmeter.measure.run import progress, run
from litmeter.measure.subjects import Served
from litmeter.model.device import has_bfloat16, resolve_device
from litmeter.params import Positive, load_params
from litmeter.paths import MODEL
from litmeter.report.claims import claims
from litmeter.report.pages import render
from litmeter.report.snapshot import read_snapshot
from litmeter.report.tables import pairs_table
from litmeter.serve.launcher import check_model
from litmeter.stages import comparison
from litmeter.system.files import check_outputs, write_text
from litmeter.system.machine import cuda_available, exclusive_machine
from litmeter.system.progress import print_wrapped


def compare(
    *servers: Annotated[str, Parameter(name="SERVER", required=True)],
    own: Own = OWN,
    seconds: Positive = 120.0,
    as_json: Annotated[bool, Parameter(name="--json")] = False,
) -> int:
    """Compare servers: which is faster, by how much, and how sure that is.

    All are served at once and loaded in turn. One may be given twice: what differs between two of the same is
    chance.

    Args:
        servers: configurations of params.yaml; or your own, NAME=SPEC, where SPEC is module:Class with keys
            of serve: as key=value, or a command with {port}
        seconds: in all, the servers' starts included
        as_json: print JSON instead of a table
    """
    if len(servers) < 2:
        raise UsageError("two servers are needed, at least")
    ours = any(map(is_own, servers))
    if not ours:
        check_only_own(own)
    with redirect_stdout(sys.stderr):
        users, found, said = (
            compare_own(servers, own, seconds) if ours else compare_configurations(servers, seconds)
        )
    print(
        json.dumps({"users": users, "pairs": [asdict(pair) for pair in found]}, indent=2) if as_json else said
    )
    return 0


def compare_configurations(names: Sequence[str], seconds: float) -> tuple[int, list[Pair], str]:
    """Compare configurations of params.yaml head to head, for a time that nothing found shortens or extends.

    Returns:
        the users, all pairs, and a table of these.
    """
    params = load_params()
    device, load = resolve_device(params.device, cuda_available()), params.load
    params = params.on(lambda: device != "cpu" or has_bfloat16())
    settings = {}
    for place, name in enumerate(names):
        again = names[:place].count(name)
        settings[f"{name} ({again + 1})" if again else name] = params.configuration(name)
    for serve in settings.values():
        check_model(MODEL, serve)
    bodies, log, users = bodies_of(load), Log(), params.comparison.users
    print_wrapped(f"{', '.join(settings)} in turn, at {users} users: about {seconds:.0f} s")
    with exclusive_machine():
        refuse_faulty(settings, bodies, device, load.timeout_s)
        with load_generator(*bodies) as sender, progress(seconds, "compare") as show:
            subjects = {
                name: Served(name, serve, sender, MODEL, device, load.timeout_s)
                for name, serve in settings.items()
            }
            schedule = head_to_head(list(settings), users, seconds, seed=load.seed, timeout_s=load.timeout_s)
            run(schedule, subjects, log, seconds, show)
    found = pairs(list(settings), next(iter(settings)), log.rows, log.latencies_ms())
    return users, found, pairs_table(found)


def compare_own(servers: Sequence[str], own: Own, seconds: float) -> tuple[int, list[Pair], str]:
    """Compare servers of one's own as a project's stage does; write a page, if one is wanted.

    Returns:
        the users, all pairs, and the table of results with what it says.
    """
    settings, users = settings_of(servers, own), own.users or USERS
    reference = next(iter(settings))
    sections = {
        "experiments": settings,
        "comparison": {"reference": reference, "users": users, "seconds": seconds},
    }
    report = own.report and own.report.absolute()
    check_outputs(report=report)
    with project(sections, own):
        log = comparison.measured()
        snapshot = read_snapshot()
        plain = (claim.plain.replace("comparison.seconds", "--seconds") for claim in claims(snapshot))
        said = [snapshot.table(terminal=True), *plain]
        if report is not None:
            write_text(report, render([snapshot]))
            said.append(f"{report}: open it in a browser")
    return users, pairs(list(settings), reference, log.rows, log.latencies_ms()), "\n".join(said)
