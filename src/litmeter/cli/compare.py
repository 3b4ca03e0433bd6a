"""``litmeter compare``: configurations of params.yaml, all served at once and loaded in turn."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from litmeter.data.index import read_index
from litmeter.errors import UsageError
from litmeter.load import load_generator
from litmeter.measure.comparison_rows import pairs
from litmeter.measure.log import Log
from litmeter.measure.rounds import head_to_head
from litmeter.measure.run import progress, run
from litmeter.measure.subjects import Served
from litmeter.model.device import resolve_device
from litmeter.params import Positive, load_params
from litmeter.paths import MODEL
from litmeter.report.tables import pairs_table
from litmeter.serve.client import CONTENT_TYPES, request_bodies
from litmeter.serve.launcher import check_model
from litmeter.system.machine import cuda_available, exclusive_machine
from litmeter.system.progress import print_wrapped


def compare(
    *names: Annotated[str, Parameter(name="NAME", required=True)],
    seconds: Positive = 120.0,
    as_json: Annotated[bool, Parameter(name="--json")] = False,
) -> int:
    """Compare configurations: which is faster, by how much, and how sure that is.

    They take turns for as long as was said beforehand, whatever comes out. A name may be given twice: what
    differs between two servers of one configuration is chance.

    Args:
        names: of experiments, or candidate
        seconds: in all, the servers' starts included; at least 12 rounds are run
        as_json: print JSON instead of a table
    """
    if len(names) < 2:
        raise UsageError("two configurations are needed, at least")
    params = load_params()
    device, load = resolve_device(params.device, cuda_available()), params.load
    settings = {}
    for place, name in enumerate(names):
        again = names[:place].count(name)
        settings[f"{name} ({again + 1})" if again else name] = params.configuration(name)
    for serve in settings.values():
        check_model(MODEL, serve)
    bodies = request_bodies([Path(photo.path) for photo in read_index().photos], load.request_body)
    log, users = Log(), params.comparison.users
    with redirect_stdout(sys.stderr):
        print_wrapped(f"{', '.join(settings)} in turn, at {users} users: about {seconds:.0f} s")
        with exclusive_machine(), load_generator(bodies, CONTENT_TYPES[load.request_body]) as sender:
            subjects = {
                name: Served(name, serve, sender, MODEL, device, load.timeout_s)
                for name, serve in settings.items()
            }
            schedule = head_to_head(list(settings), users, seconds, seed=load.seed, timeout_s=load.timeout_s)
            with progress(seconds, "compare") as show:
                run(schedule, subjects, log, seconds, show)
    found = pairs(list(settings), next(iter(settings)), log.rows, log.latencies_ms())
    if as_json:
        print(json.dumps({"users": users, "pairs": [asdict(pair) for pair in found]}, indent=2))
    else:
        print(pairs_table(found))
    return 0
