"""``litmeter compare``: configurations of params.yaml, or the user's own servers."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from cyclopts import Parameter

from litmeter.cli.own import OWN, USERS, Own, check_only_own, is_own, project, settings_of
from litmeter.errors import UsageError
from litmeter.kinds.configuration import Configuration
from litmeter.load import load_generator
from litmeter.measure.checks import check_all, refuse_faulty
from litmeter.measure.comparison_rows import Counted, Pair, comparison_rows, counted, pairs, streams
from litmeter.measure.log import Log
from litmeter.measure.rounds import head_to_head
from litmeter.measure.rows import ComparisonRow
from litmeter.measure.run import progress, run
from litmeter.measure.subjects import Served
from litmeter.params import params_here
from litmeter.report.claims import claims, disturbances, failures, partly_streamed, unexpected_streams
from litmeter.report.diagnosis import NOT_AVAILABLE
from litmeter.report.pages import render
from litmeter.report.snapshot import read_snapshot
from litmeter.report.tables import differences, pairs_table
from litmeter.say.progress import print_wrapped
from litmeter.say.tables import p95_of, pluralise
from litmeter.settings import Positive
from litmeter.stages import comparison
from litmeter.system.files import write_text
from litmeter.system.machine import exclusive_machine

COLUMNS = (
    *("rate_rps", "ratio", "ratio_low", "ratio_high", "share_of_fastest", "share_low", "share_high", "rank"),
    *("p50_ms", "p95_ms", "stream", "answers", "failed", "rounds"),
)
"""Fields of a comparison's row that --json prints."""


def compare(
    *servers: Annotated[str, Parameter(name="SERVER", required=True)],
    own: Own = OWN,
    seconds: Positive = 120.0,
    as_json: Annotated[bool, Parameter(name="--json")] = False,
) -> int:
    """Compare servers: which is faster, by how much, and how sure that is.

    All are served at once and loaded in turn. A server may be given twice: the two differ by chance alone.
    The exit status is 1 if a server fails more than 1% of its requests.

    Args:
        servers: configurations of params.yaml; or your own, NAME=SPEC, where SPEC is a script (FILE.py) or
            module:Class, both with settings to change as key=value, a command that runs a script, any other
            command with {port}, or the URL of a server that runs already
        seconds: in all, the servers' starts included
        as_json: print JSON instead of a table
    """
    if len(servers) < 2 and not is_own(servers[0]):
        raise UsageError("two configurations are needed, at least")
    with redirect_stdout(sys.stderr):
        if any(map(is_own, servers)):
            found = compare_own(servers, own, seconds)
        else:
            check_only_own(own)
            found = compare_configurations(servers, seconds)
    if as_json:
        print(json.dumps(found.as_json(), indent=2))
    else:
        print(found.table)
        print_wrapped("\n".join(found.said))
    return int(any(row.fails for row in found.rows))


@dataclass(frozen=True)
class Found:
    """The result of a comparison.

    Attributes:
        unit: what rates count; None where some servers stream and others do not, and no rate is compared.
        causes: what holds a server back, by its name, where that is known.
        table, said: for a terminal: all figures, and sentences about them.
    """

    users: int
    rows: Sequence[ComparisonRow]
    causes: Mapping[str, str]
    pairs: Sequence[Pair]
    unit: Counted | None
    table: str
    said: Sequence[str]

    def as_json(self) -> dict[str, Any]:
        """What --json prints; docs/your-own-server.md explains each key."""
        configurations = [
            {
                "name": row.experiment,
                **{column: getattr(row, column) for column in COLUMNS},
                "held_back_by": self.causes.get(row.experiment),
            }
            for row in self.rows
        ]
        return {
            "users": self.users,
            "unit": self.unit,
            "p95_of": p95_of(streams(self.rows)),
            "configurations": configurations,
            "pairs": [asdict(pair) for pair in self.pairs],
        }


def compare_configurations(names: Sequence[str], seconds: float) -> Found:
    """Compare configurations of params.yaml head to head, for exactly this time."""
    params, device = params_here()
    settings, load = dict[str, Configuration](), params.load
    for place, name in enumerate(names):
        before = names[:place].count(name)
        settings[f"{name} ({before + 1})" if before else name] = params.configuration(name)
    for serve in settings.values():
        serve.check_there()
    bodies, log, users = params.bodies(), Log(), params.comparison.users
    print_wrapped(f"{', '.join(settings)} in turn, at {pluralise(users, 'user')}: about {seconds:.0f} s")
    with exclusive_machine():
        refuse_faulty(check_all(settings, bodies, device, load.timeout_s))
        with load_generator(*bodies) as sender, progress(seconds, "compare") as show:
            subjects = {
                name: Served(name, serve, sender, device, load.timeout_s) for name, serve in settings.items()
            }
            schedule = head_to_head(list(settings), users, seconds, seed=load.seed, timeout_s=load.timeout_s)
            run(schedule, subjects, log, seconds, show)
    names, times_ms = list(settings), log.stream_times_ms()
    found = pairs(names, names[0], log.rows, log.first_ms())
    rows = comparison_rows(names, names[0], log.rows, log.latencies_ms(), params.objective.miss, (), times_ms)
    unit = counted(rows)
    streamed = (*unexpected_streams(bodies.contents, log.rows), *partly_streamed(rows))
    doubts = (*streamed, *disturbances(log.rows))
    claimed = [claim.plain for claim in (failures(rows), *doubts) if claim]
    said = [*differences(settings, device), *claimed]
    return Found(users, rows, {}, found, unit, pairs_table(found, unit, bool(times_ms)), said)


REPEATED = ("body", "form", "chat", "content_type", "path", "ready", "ready_s", "users", "timeout_s")
"""Options that another command needs, too; headers may be secret."""


def compared_as(server: str, ran: Configuration, moves: str | None, sent: Own) -> str:
    """A command that compares a server, which ``ran`` so, with another value of the key that ``moves`` its
    cause; or with more workers, or with another server."""
    values = {
        ran.lever("batch size"): 2 * ran.largest_batch,
        ran.lever("batch window"): 2 * ran.batch_window_s or 0.01,
        ran.lever("workers"): 2 * ran.workers,
    }
    key = moves if moves and moves in values else ran.lever("workers")
    words = ["litmeter", "compare", server, f"{server} {key}={values[key]}" if key else "ANOTHER"]
    for name in (name for name in REPEATED if name in sent.model_fields_set):
        value = getattr(sent, name)
        for one in value if isinstance(value, list) else [value]:
            words += [f"--{name.replace('_', '-')}", str(one)]
    return shlex.join(words)


def compare_own(servers: Sequence[str], own: Own, seconds: float) -> Found:
    """Compare the user's own servers as the stage of a project does; write a page where --report asks."""
    settings, users = settings_of(servers, own), own.users or USERS
    compared = {"reference": next(iter(settings)), "users": users, "seconds": seconds}
    with project({"experiments": settings, "comparison": compared}, own) as params:
        with exclusive_machine():
            log, _ = comparison.main()
        snapshot = read_snapshot()
        made = [*claims(snapshot), *unexpected_streams(params.bodies().contents, log.rows)]
        differ = differences(params.configurations(), snapshot.results[0].device)
        said = [*differ, *(claim.plain for claim in made)]
        if len(settings) == 1 and not snapshot.compared[0].fails:
            [result], [diagnosis] = snapshot.results, snapshot.diagnoses.values()
            command = compared_as(servers[0], result.serve, diagnosis.parameter, own)
            said.append(f"{servers[0]} is measured alone; to compare it: {command}")
        if own.report is not None:
            write_text(own.report, render([snapshot]))
            said.append(f"{own.report}: open it in a browser")
        known = ((name, one.cause) for name, one in snapshot.diagnoses.items())
        causes = {name: cause for name, cause in known if cause not in ("", NOT_AVAILABLE)}
        found = pairs(list(settings), next(iter(settings)), log.rows, log.first_ms())
        unit = counted(snapshot.compared)
        table = snapshot.table(terminal=True)
        if found and streams(log.rows):  # the page has no ratios of first pieces
            table += f"\n\n{pairs_table(found, unit, True)}"
        return Found(users, snapshot.compared, causes, found, unit, table, said)
