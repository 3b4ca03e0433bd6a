"""``litmeter verify``: check the load generator against a known server and a second load tool."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from litmeter.benchmark.levels import level_row
from litmeter.benchmark.telemetry import Usage
from litmeter.errors import VerifyError
from litmeter.paths import MACHINE, SELFTEST, SELFTEST_PAGE
from litmeter.selftest.checks import SECOND_TOOL_TOLERANCE, TOLERANCE, Check, against_log
from litmeter.selftest.open_loop import QUEUEING_CASES, check_arrivals, check_queueing, check_stop
from litmeter.selftest.second_tool import find_tool, rate_by
from litmeter.selftest.stub import BODY, running_stub
from litmeter.selftest.stub_load import load_stub
from litmeter.stats.records import LoadRecord
from litmeter.system.files import read_json, write_json, write_section
from litmeter.system.machine import exclusive_machine
from litmeter.system.progress import bar
from litmeter.system.tables import text_table


@dataclass(frozen=True)
class Case:
    """A stub server and its load.

    Attributes:
        service_s: how long a request occupies a slot of the server.
        parallel: number of slots.
        seconds: length of the three windows.
        queueing: the rate is also checked against ``parallel / service_s``.
        in_step: all slots answer at the same time, as a batch does.
    """

    service_s: float
    parallel: int
    users: int
    seconds: float
    queueing: bool = False
    in_step: bool = False

    @property
    def name(self) -> str:
        """Name of the case in the table."""
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
"""Twice as many users as slots: some request always waits, and the server never idles.

The last case is like a server with batches, whose answers the client must read one after another."""
OPEN_LOOP_CHECKS: Sequence[Callable[[], list[Check]]] = (
    check_arrivals,
    *(partial(check_queueing, case) for case in QUEUEING_CASES),
    check_stop,
)
SECOND_TOOL_CASE = Case(0.02, 4, 4, 2.0)
"""A slot for every user: the rate depends on the time that the client takes between two requests."""
ROUNDS = 3
BEGIN = "<!-- checks: written by `litmeter verify` -->"
END = "<!-- end of checks -->"


def main() -> int:
    """Make every check, print and write them; 0 where all have passed, else 1.

    Raises:
        VerifyError: the second tool is missing or failed; the other checks are printed and written.
    """
    failure: VerifyError | None = None
    runs: list[Callable[[], list[Check]]] = [
        *(partial(check_case, case) for case in CASES),
        *OPEN_LOOP_CHECKS,
    ]
    with exclusive_machine(), bar(len(runs) + ROUNDS, "verify", "run") as progress:
        checks: list[Check] = []
        for run in runs:
            checks += run()
            progress.set_postfix_str(checks[-1].name)
            progress.update()
        progress.set_postfix_str("second tool")
        try:
            checks.append(check_second_tool(SECOND_TOOL_CASE, find_tool(), progress))
        except VerifyError as error:
            failure = error
            checks.append(Check("rate, second tool", None, None, "req/s", SECOND_TOOL_TOLERANCE))
    write_checks(checks)
    if failure is not None:
        raise failure
    return 0 if all(check.passed for check in checks) else 1


def check_case(case: Case) -> list[Check]:
    """Check the client's record against the server's log, and the rate against ``parallel / service_s``."""
    with running_stub(case.service_s, case.parallel, in_step=case.in_step) as stub:
        record = load(stub.url, case)
        checks = against_log(case.name, record, stub.log())
    if case.queueing:
        expected = case.parallel / case.service_s
        checks.append(Check(f"{case.name}: rate, queueing", expected, rate_rps(record), "req/s", TOLERANCE))
    return checks


def check_second_tool(case: Case, tool: str, progress: Any) -> Check:
    """Check the rate against that of ``tool``, alternately on the same server; medians, as machines drift."""
    own_rps, tool_rps = [], []
    with running_stub(case.service_s, case.parallel) as stub:
        for _ in range(ROUNDS):
            own_rps.append(rate_rps(load(stub.url, case)))
            tool_rps.append(rate_by(tool, stub.url, BODY, case.users, round(case.seconds)))
            progress.update()
    name = f"{case.name}: rate, {Path(tool).name}"
    return Check(name, median(tool_rps), median(own_rps), "req/s", SECOND_TOOL_TOLERANCE)


def load(url: str, case: Case) -> LoadRecord:
    """Run the load of one case."""
    return load_stub(url, case.users, case.seconds)


def rate_rps(record: LoadRecord) -> float:
    """Throughput as the benchmark reports it."""
    return level_row(record, Usage()).throughput_rps


def write_checks(checks: Sequence[Check]) -> None:
    """Print the checks as a table, and write them into metrics/ and docs/."""
    rows = [
        [
            check.name,
            quantity_cell(check.expected, check.unit),
            quantity_cell(check.measured, check.unit),
            "-" if check.error is None else f"{check.error:+.1%}",
            f"{check.bound:.1%}",
            "passed" if check.passed else "FAILED",
        ]
        for check in checks
    ]
    table = text_table(["check", "expected", "measured", "error", "bound", "verdict"], rows)
    print(table)
    if SELFTEST_PAGE.exists():  # only in the project's folder
        write_section(SELFTEST_PAGE, BEGIN, END, table)
    write_json(
        SELFTEST,
        {
            "machine": read_json(MACHINE)["id"] if MACHINE.exists() else None,
            "checks": [check.record() for check in checks],
            "passed": all(check.passed for check in checks),
        },
    )


def quantity_cell(value: float | None, unit: str) -> str:
    """A value with its unit, at most two decimals, a dash where it is unknown."""
    return "-" if value is None else f"{round(value, 2):.8g} {unit}"
