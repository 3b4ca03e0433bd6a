"""``litmeter check``: whether the working tree serves slower than a revision, as an exit status."""

from __future__ import annotations

import json
import math
import re
import sys
import traceback
from collections.abc import Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import geometric_mean, median
from typing import Annotated, Any

from cyclopts import Parameter
from pydantic import Field

from litmeter.cli.options import LOAD
from litmeter.cli.own import SENT, USERS, Sent, bodies_for, device_here, own_server, read_given
from litmeter.cli.revisions import Revisions, revisions
from litmeter.errors import NoVerdict, StorageError, UsageError, explained
from litmeter.load import load_generator
from litmeter.load.bodies import from_environment, request_headers
from litmeter.measure.comparison_rows import ONE_STREAMS, Counted, Pair, counted, pairs, rate_in, streams
from litmeter.measure.log import Log
from litmeter.measure.rounds import restarted
from litmeter.measure.run import progress, run
from litmeter.measure.subjects import Served
from litmeter.params import load_params
from litmeter.report.claims import disturbances, unexpected_streams
from litmeter.report.git import commit_of
from litmeter.say.progress import duration, print_wrapped
from litmeter.say.tables import markdown_table, number_cell, p95_name, p95_of, pluralise, rate_cell
from litmeter.settings import CANDIDATE, PARAMS_FILE, Positive
from litmeter.stats.gate import OPEN, P95_ERROR, PASSED, SLOWER, Verdict, exit_status, seconds_needed, verdict
from litmeter.stats.ratios import Ratio
from litmeter.system.files import append_line, check_outputs
from litmeter.system.machine import exclusive_machine

SMALLEST_MARGIN = 0.02
"""Rates of one configuration differ by 1% from start to start."""
ALLOWED = "FILE.py, module:Class, or a command"
STEP_S = 30
"""A longer check is advised in multiples of this."""


def check(
    command: str | None = None,
    *,
    against: Annotated[str, Parameter(help="a commit, a branch, or an experiment of DVC")],
    configuration: str = CANDIDATE,
    sent: Sent = SENT,
    seconds: Positive = 180.0,
    margin: Annotated[float, Field(ge=SMALLEST_MARGIN, lt=1)] = 0.05,
    max_memory_mib: Positive | None = None,
    max_start_s: Positive | None = None,
    own_model: bool = False,
    markdown: Path | None = None,
    as_json: Annotated[bool, Parameter(name="--json")] = False,
) -> int:
    """Check whether the working tree serves slower than a revision.

    Both are served on this machine and loaded in turn.

    Args:
        command: what serves, started in each tree: a script (FILE.py) or module:Class, both with settings
            as key=value, or a command, with {port} if it runs no script (default: what params.yaml says)
        configuration: of each tree's params.yaml, the one to serve
        seconds: in all, the servers' starts included
        margin: share by which the working tree may be slower
        max_memory_mib: that the working tree's server may take
        max_start_s: seconds that it may take to start
        own_model: the revision serves its own model, from DVC's cache, and not that of the working tree
        markdown: a file to which a summary is added
        as_json: print JSON instead of a sentence
    """
    check_outputs(markdown=markdown)
    limits = Limits(margin, max_memory_mib, max_start_s)
    try:
        with redirect_stdout(sys.stderr):
            found = measured(against, command, configuration, sent, seconds, limits, own_model=own_model)
        if markdown is not None:
            append_line(markdown, found.markdown())
    except Exception as error:  # the status of any other exception is that of a slower server
        if (known := explained(error)) is None:
            traceback.print_exc()
        if markdown is not None:
            with suppress(StorageError):
                append_line(markdown, f"### litmeter check: no verdict\n\n```\n{known or error}\n```\n")
        raise NoVerdict(str(known or error)) from error
    if as_json:
        print(json.dumps(found.as_json(), indent=2))
    else:
        print_wrapped(found.sentence())
    return found.exit_code


@dataclass(frozen=True)
class Limits:
    """The share by which the new server may be slower; the memory and the start that it may take."""

    margin: float
    memory_mib: float | None
    start_s: float | None


@dataclass(frozen=True)
class Side:
    """Figures of one revision.

    Its rate is of what ``Found.unit`` says, its memory the largest of all turns, its start the median of all.
    """

    name: str
    rate: float | None
    memory_mib: float | None
    start_s: float
    sent: int
    failed: int
    reason: str

    @classmethod
    def of(cls, name: str, log: Log, starts_s: Sequence[float], unit: Counted) -> Side:
        """The figures of the turns and starts of the revision ``name``."""
        rows = [row for row in log.rows if row.subject == name]
        rates = [rate for row in rows if (rate := rate_in(unit, row))]
        return cls(
            name=name,
            rate=geometric_mean(rates) if len(rates) == len(rows) else None,
            memory_mib=max((row.memory_mib for row in rows if row.memory_mib), default=None),
            start_s=round(median(starts_s), 2),
            sent=sum(row.sent for row in rows),
            failed=sum(row.failed + row.timed_out for row in rows),
            reason=next((row.void for row in rows if row.failed + row.timed_out), ""),
        )


@dataclass(frozen=True)
class Judged:
    """A figure of both revisions, their ratio, new / old, and the verdict on it."""

    old: float | None
    new: float | None
    ratio: Ratio | None
    verdict: Verdict

    @property
    def interval(self) -> str:
        """The ratio with its interval as text; a dash where it is unknown."""
        if self.ratio is None:
            return "-"
        low, high = self.ratio.low, self.ratio.high
        return f"{self.ratio.ratio:.3f}" + ("" if low is None else f" ({low:.3f} to {high:.3f})")

    @property
    def cells(self) -> list[str]:
        """All of it, for a row of a table."""
        return [rate_cell(self.old), rate_cell(self.new), self.interval, self.verdict]


@dataclass(frozen=True)
class Found:
    """The result of a check.

    Attributes:
        pair: of both revisions; its p95 is of the time to the first piece where answers stream.
        unit: what rates count; None where the answers of one revision alone stream, and no rate is compared.
        streams: whether answers stream.
        said: sentences about what else used the machine.
    """

    revisions: Revisions
    users: int
    seconds: float
    starts: int
    limits: Limits
    old: Side
    new: Side
    pair: Pair
    unit: Counted | None = "requests"
    streams: bool = False
    said: Sequence[str] = ()

    @property
    def rate(self) -> Judged:
        """The rates, and whether the new server does less a second."""
        ratio = ratio_of(self.pair.ratio, self.pair.low, self.pair.high)
        return Judged(self.old.rate, self.new.rate, ratio, verdict(ratio, self.limits.margin))

    @property
    def p95(self) -> Judged:
        """The p95, ms, and whether the new is longer, judged by old / new, which falls as the rate does."""
        pair = self.pair
        inverse = ratio_of(*(value and 1 / value for value in (pair.p95_ratio, pair.p95_high, pair.p95_low)))
        ratio = ratio_of(pair.p95_ratio, pair.p95_low, pair.p95_high)
        return Judged(pair.other_p95_ms, pair.p95_ms, ratio, verdict(inverse, self.limits.margin))

    @property
    def exceeded(self) -> list[str]:
        """Sentences about failed requests and exceeded limits of the new server."""
        new, limits, found = self.new, self.limits, []
        if new.failed:
            found.append(f"{new.failed} of {new.sent} requests to it failed (in one turn: {new.reason})")
        if limits.memory_mib is not None and (new.memory_mib or 0) > limits.memory_mib:
            found.append(f"it takes {new.memory_mib:.0f} MiB of memory, allowed: {limits.memory_mib:g}")
        if limits.start_s is not None and new.start_s > limits.start_s:
            found.append(f"it takes {new.start_s:.1f} s to start, allowed: {limits.start_s:g}")
        return found

    @property
    def exit_code(self) -> int:
        """PASSED, SLOWER or OPEN."""
        return exit_status(self.rate.verdict, self.p95.verdict, exceeded=bool(self.exceeded))

    @property
    def advice(self) -> str:
        """Which --seconds would probably give an open rate a verdict, or why none would."""
        if self.unit is None:
            return ONE_STREAMS
        needed_s = seconds_needed(self.rate.ratio, self.limits.margin, self.seconds, self.starts)
        if needed_s is None:
            return "it would probably take more than an hour to tell"
        return f"--seconds {STEP_S * math.ceil(needed_s / STEP_S)} would probably tell"

    def sentence(self) -> str:
        """The verdicts for a terminal, one a line."""
        rate, p95, bound = self.rate, self.p95, 1 - self.limits.margin
        lines = [f"{self.new.name}: {line}" for line in self.exceeded]
        if rate.ratio is not None:
            place = {
                "not slower": f"above {bound:g}",
                "slower": f"below {bound:g}",
                "open": f"on both sides of {bound:g}; {self.advice}",
            }
            lines.append(
                f"{rate.verdict}: {self.new.name} answers {rate.interval} times the {self.unit} per second "
                f"of {self.old.name} ({rate_cell(rate.new)} and {rate_cell(rate.old)}), {place[rate.verdict]}"
            )
        elif self.unit is None:
            lines.append(f"open: {ONE_STREAMS}")
        if p95.ratio is not None:
            lines.append(
                f"{p95_name(self.streams)} {p95.verdict}: {rate_cell(p95.new)} and {rate_cell(p95.old)} ms, "
                f"{p95.interval} times as long"
            )
        return "\n".join([*lines, *self.said])

    def markdown(self) -> str:
        """A section for the summary of a pull request."""
        old, new, limits, seen = self.old, self.new, self.limits, self.revisions
        rows = [
            [f"{self.unit or 'requests'}/s", *self.rate.cells],
            [f"{p95_name(self.streams)}, ms", *self.p95.cells],
            ["memory, MiB", number_cell(old.memory_mib, 0), number_cell(new.memory_mib, 0), "", ""],
            ["start, s", number_cell(old.start_s, 1), number_cell(new.start_s, 1), "", ""],
        ]
        title = {PASSED: "not slower", SLOWER: "slower", OPEN: "open"}[self.exit_code]
        if self.exceeded and self.rate.verdict != "slower":
            title = "failed requests" if new.failed else "over a limit"
        users = pluralise(self.users, "user")
        how = f"{users}, {self.seconds:.0f} s, margin {limits.margin:g}; intervals: 95%, p95 99%"
        parts = [
            f"### litmeter check: {title}",
            *(f"{new.name}: {line}" for line in self.exceeded),
            markdown_table(["", f"{old.name}, {seen.commit[:9]}", new.name, "new / old", "verdict"], rows),
            how + (f"; {self.advice}." if self.rate.verdict == "open" else "."),
            "\n".join([f"{PARAMS_FILE}:", *(f"- `{key}`" for key in seen.keys)]) if seen.keys else "",
            *self.said,
            f"```\n{seen.files}\n```" if seen.files else "No file differs.",
            f"Both use: {', '.join(f'`{path}`' for path in seen.shared)}" if seen.shared else "",
        ]
        return "\n\n".join(filter(None, parts)) + "\n"

    def as_json(self) -> dict[str, Any]:
        """All figures."""
        ratios = ("ratio", "low", "high", "p95_ratio", "p95_low", "p95_high")
        return {
            "exit_code": self.exit_code,
            "rate": self.rate.verdict,
            "unit": self.unit,
            "p95_of": p95_of(self.streams),
            "p95": self.p95.verdict,
            "exceeded": self.exceeded,
            "commit": self.revisions.commit,
            "users": self.users,
            "seconds": self.seconds,
            **{key: asdict(getattr(self, key)) for key in ("limits", "old", "new")},
            "new_over_old": {key: getattr(self.pair, key) for key in ratios},
            "p95_ms": {"old": self.pair.other_p95_ms, "new": self.pair.p95_ms},
        }


def ratio_of(ratio: float | None, low: float | None, high: float | None) -> Ratio | None:
    """A ratio with its interval; None where the ratio is unknown."""
    return None if ratio is None else Ratio(ratio, low, high)


def measured(
    against: str,
    command: str | None,
    configuration: str,
    sent: Sent,
    seconds: float,
    limits: Limits,
    *,
    own_model: bool,
) -> Found:
    """Serve both trees and load them in turn; raise LitmeterError where that is not possible."""
    if not PARAMS_FILE.exists() and command is None:
        raise UsageError(f"COMMAND: missing; FILE.py, module:Class or a command, or {PARAMS_FILE} says it")
    # Where a command and its bodies are given, params.yaml may be of another program.
    params = load_params() if PARAMS_FILE.exists() and (command is None or not sent.sends) else None
    load, users = (params.load, params.comparison.users) if params else (LOAD, USERS)
    if not against:
        raise UsageError("--against: empty; expected a revision, or an experiment of DVC")
    commit_of(against)  # a wrong one is told before the wait for the machine
    device = device_here(params.device if params else "auto")
    users, timeout_s = sent.users or users, sent.timeout_s or load.timeout_s
    if params is not None and not sent.sends:
        bodies = params.bodies()
    elif command is not None:  # without a body, one is made up by the working tree's server
        bodies = bodies_for(own_server(command, [], sent, ALLOWED), sent)
    else:
        bodies = read_given(sent)
    bodies = bodies._replace(headers={**bodies.headers, **from_environment(request_headers(sent.header))})
    short = against[:9] if re.fullmatch("[0-9a-f]{40}", against) else against
    names = (f"old ({short})", "new (working tree)")
    with (
        exclusive_machine(),
        revisions(against, command, configuration, sent, own_model=own_model) as both,
        load_generator(*bodies) as sender,
        progress(seconds, "check") as show,
    ):
        print_wrapped(
            f"{names[0]} and {names[1]} in turn, at {pluralise(users, 'user')}: about {duration(seconds)}"
        )
        subjects = {
            name: Served(name, settings, sender, device, timeout_s)
            for name, settings in zip(names, both.settings, strict=True)
        }
        log = Log()
        schedule = restarted(names, users, seconds, load.seed, timeout_s)
        starts_s, first_rounds = run(schedule, subjects, log, seconds, show)
    unit = counted(log.rows)
    old, new = (Side.of(name, log, starts_s[name], unit or "requests") for name in names)
    if old.failed:
        raise NoVerdict(f"{old.name}: {old.failed} of {old.sent} requests failed ({old.reason})")
    [pair] = pairs(names, names[0], log.rows, log.first_ms(), P95_ERROR, first_rounds)
    took_s = log.rows[-1].at_s + log.rows[-1].seconds
    doubts = (*unexpected_streams(bodies.contents, log.rows), *disturbances(log.rows))
    said = [claim.plain for claim in doubts]
    return Found(
        both, users, took_s, len(first_rounds), limits, old, new, pair, unit, streams(log.rows), said
    )
