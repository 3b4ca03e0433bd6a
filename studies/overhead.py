"""What serving adds to `e7_tuned` in-process: latency of a lone user, tails under load, CPU when idle."""

from __future__ import annotations

import time
from statistics import mean

from litmeter.load.bodies import Bodies
from litmeter.measure.log import Log
from litmeter.measure.run import run
from litmeter.measure.subjects import InProcess, Served, Subject
from litmeter.measure.turn import Schedule, Turn, Work, in_process, measure, serve
from litmeter.system.machine import exclusive_machine
from studies.harness import (
    DEVICE,
    TIMEOUT_S,
    check_answered,
    configuration,
    known,
    load_plan,
    process_tree,
    sender,
    summary,
    watched_server,
    write_result,
)

CONFIGURATION = "e7_tuned"
SECONDS, LONGEST_S = 3.0, 30.0
ALONE = Work("pipeline", batch_size=1, seconds=1.0, busy=1)
TAIL_USERS = (8, 32)
REQUESTS_P99 = 664
IDLE_S, SETTLE_S = 10.0, 2.0
ROUNDS = 5
ROUND_S = 30.0


def rounds() -> Schedule[list[dict[str, float]]]:
    """In each round start anew, and measure in-process before and after the server."""
    found = []
    for number in range(ROUNDS):
        yield from serve([])
        yield from serve([CONFIGURATION, in_process(CONFIGURATION)])
        before = yield from measure(Turn(in_process(CONFIGURATION), ALONE, number))
        lone = yield from measure(Turn(CONFIGURATION, load_plan(1, SECONDS, seed=number), number))
        tails = {}
        for users in TAIL_USERS:
            plan = load_plan(users, SECONDS, seed=number, longest_s=LONGEST_S, requests=REQUESTS_P99)
            row = (yield from measure(Turn(CONFIGURATION, plan, number))).row
            tails[f"p99_over_p50_{users}_users"] = known(row.p99_ms) / known(row.p50_ms)
        after = yield from measure(Turn(in_process(CONFIGURATION), ALONE, number))
        in_process_ms = 1000 / mean(known(one.row.rate_rps) for one in (before, after))
        lone_user_ms = known(lone.row.p50_ms)
        lone_user = {"lone_user_ms": lone_user_ms, "lone_user_over_in_process": lone_user_ms / in_process_ms}
        found.append({"in_process_ms": in_process_ms, **lone_user, **tails})
    return found


def idle_percent() -> float:
    """Of one core, by all of the server's processes while nobody asks anything."""
    with watched_server(configuration(CONFIGURATION)) as (server, _):
        time.sleep(SETTLE_S)
        tree = process_tree(server.process.pid)

        def used_s() -> float:
            return sum(sum(process.cpu_times()[:2]) for process in tree)

        before = used_s()
        time.sleep(IDLE_S)
        return 100 * (used_s() - before) / IDLE_S


def main() -> None:
    """Measure, and keep and print all figures."""
    settings, log = configuration(CONFIGURATION), Log()
    with exclusive_machine():
        with sender("image") as generator:
            subjects: dict[str, Subject] = {
                CONFIGURATION: Served(CONFIGURATION, settings, generator, DEVICE, TIMEOUT_S),
                in_process(CONFIGURATION): InProcess(
                    CONFIGURATION, settings, DEVICE, Bodies([], "image/jpeg")
                ),
            }
            found = run(rounds(), subjects, log, ROUNDS * ROUND_S)
        check_answered(log.rows)
        idle = round(idle_percent(), 2)
    result = {**{key: summary([one[key] for one in found]) for key in found[0]}, "idle_percent": idle}
    write_result("overhead", result)
    for name, figure in result.items():
        print(f"{name}: {figure}")


if __name__ == "__main__":
    main()
