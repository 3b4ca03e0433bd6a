"""``servebench verify``: the instrument against a server that is known, and against a second tool."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from servebench.benchmark.levels import level_row
from servebench.benchmark.telemetry import Usage
from servebench.errors import VerifyError
from servebench.loadgen import LoadPlan, generate
from servebench.paths import MACHINE, SELFTEST, SELFTEST_PAGE
from servebench.selftest.checks import SECOND_TOOL_SHARE, SHARE, Check, against_log
from servebench.selftest.second_tool import find_tool, rate_by
from servebench.selftest.stub import running_stub
from servebench.stats.records import LoadRecord
from servebench.stats.stability import WINDOWS
from servebench.system.documents import write_section
from servebench.system.files import read_json, write_json
from servebench.system.machine_lock import exclusive_machine
from servebench.system.progress import bar
from servebench.system.tables import text_table

BODY = b'{"image": "%s"}' % (b"A" * 45_000)
"""As large as a photograph of the data set in base64."""
WARMUP_S = 0.3
TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Case:
    """A stub server, and how it is loaded.

    Attributes:
        seconds: measured.
        queueing: the rate must be that of queueing arithmetic, too.
        in_step: answers come all at once, as those of a batch do.
    """

    service_s: float
    parallel: int
    users: int
    seconds: float
    queueing: bool = False
    in_step: bool = False

    @property
    def name(self) -> str:
        """The case as the table names it."""
        at_once = " at once" if self.in_step else ""
        return f"{self.service_s * 1000:g} ms x {self.parallel}{at_once}, {self.users} users"


CASES = (
    Case(0.005, 1, 2, 2.0),
    Case(0.005, 4, 8, 2.0),
    Case(0.02, 1, 2, 3.0),
    Case(0.02, 4, 8, 3.0),
    Case(0.1, 1, 2, 5.0, queueing=True),
    Case(0.1, 4, 8, 5.0, queueing=True),
    Case(0.1, 16, 32, 3.0, queueing=True, in_step=True),
)
"""Twice as many users as places: there is always a request that waits, and the server never idles.

The last is what a server with batches does: a client takes the answers of a batch one by one."""
SECOND_TOOL_CASE = Case(0.02, 4, 4, 2.0)
"""A place for every user: the rate then depends on the time that a client itself takes in between."""
ROUNDS = 3
BEGIN = "<!-- checks: written by `servebench verify` -->"
END = "<!-- end of checks -->"


def main() -> int:
    """Make every check, show and write them; 0 where all have passed, else 1.

    Raises:
        VerifyError: the second tool is missing or failed; the other checks are shown and written.
    """
    failure: VerifyError | None = None
    with exclusive_machine(), bar(len(CASES) + ROUNDS, "verify", "run") as progress:
        checks: list[Check] = []
        for case in CASES:
            progress.set_postfix_str(case.name)
            checks += check_case(case)
            progress.update()
        progress.set_postfix_str("second tool")
        try:
            checks.append(check_second_tool(SECOND_TOOL_CASE, find_tool(), progress))
        except VerifyError as error:
            failure = error
            checks.append(Check("rate, second tool", None, None, "req/s", SECOND_TOOL_SHARE))
    report(checks)
    if failure is not None:
        raise failure
    return 0 if all(check.passed for check in checks) else 1


def check_case(case: Case) -> list[Check]:
    """The client's record against the server's log, and against arithmetic where the case asks for it."""
    with running_stub(case.service_s, case.parallel, in_step=case.in_step) as stub:
        record = load(stub.url, case)
        checks = against_log(case.name, record, stub.log())
    if case.queueing:
        expected = case.parallel / case.service_s
        checks.append(Check(f"{case.name}: rate, queueing", expected, rate(record), "req/s", SHARE))
    return checks


def check_second_tool(case: Case, tool: str, progress: Any) -> Check:
    """Our rate against that of ``tool``, in turn on the same server; medians, as machines drift."""
    ours, theirs = [], []
    with running_stub(case.service_s, case.parallel) as stub:
        for _ in range(ROUNDS):
            ours.append(rate(load(stub.url, case)))
            theirs.append(rate_by(tool, stub.url, BODY, case.users, round(case.seconds)))
            progress.update()
    name = f"{case.name}: rate, {Path(tool).name}"
    return Check(name, median(theirs), median(ours), "req/s", SECOND_TOOL_SHARE)


def load(url: str, case: Case) -> LoadRecord:
    """What the load generator records of one case."""
    plan = LoadPlan(
        users=case.users,
        requests=1,
        warmup_s=WARMUP_S,
        min_s=case.seconds,
        max_s=case.seconds,
        max_windows=WINDOWS,
        timeout_s=TIMEOUT_S,
        seed=0,
    )
    [record] = generate(url, [BODY], "application/json", [plan])
    return record


def rate(record: LoadRecord) -> float:
    """The rate that a benchmark would report, requests per second."""
    return level_row(record, Usage()).throughput_rps


def report(checks: Sequence[Check]) -> None:
    """Show the checks as a table, and write them into metrics/ and docs/."""
    rows = [
        [
            check.name,
            quantity(check.expected, check.unit),
            quantity(check.measured, check.unit),
            "-" if check.error is None else f"{check.error:+.1%}",
            f"{check.bound:.1%}",
            "passed" if check.passed else "FAILED",
        ]
        for check in checks
    ]
    table = text_table(["check", "expected", "measured", "error", "bound", "verdict"], rows)
    print(table)
    if SELFTEST_PAGE.exists():  # not where another folder than the project's is worked in
        write_section(SELFTEST_PAGE, BEGIN, END, table)
    write_json(
        SELFTEST,
        {
            "machine": read_json(MACHINE)["id"] if MACHINE.exists() else None,
            "checks": [check.record() for check in checks],
            "passed": all(check.passed for check in checks),
        },
    )


def quantity(value: float | None, unit: str) -> str:
    """A value with its unit, at most two decimals."""
    return "-" if value is None else f"{round(value, 2):.8g} {unit}"
