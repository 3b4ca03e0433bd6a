"""What serving adds to `e7_tuned` in-process: latency of a lone user, tails under load, CPU when idle."""

from __future__ import annotations

import time
from statistics import mean

from litmeter.errors import LoadError
from litmeter.measure.inprocess import inprocess_workers
from litmeter.params import BaselineSettings, load_params
from litmeter.paths import MODEL
from studies.harness import DEVICE, Case, measure_rounds, photo_paths, process_tree, summary, write_result

CONFIGURATION = "e7_tuned"
SECONDS = 3.0
ALONE_S = 1.0
TAIL_USERS = (8, 32)
REQUESTS_P99 = 664
IDLE_S, SETTLE_S = 10.0, 2.0
ROUNDS = 5


def overhead(number: int) -> dict[str, float]:
    """One round: in-process before and after the load, in the same environment."""
    settings = load_params().configuration(CONFIGURATION)
    lone = Case(settings, users=(1,), seconds=SECONDS)
    loaded = Case(settings, users=TAIL_USERS, seconds=SECONDS, requests=REQUESTS_P99)
    baseline = BaselineSettings(batch_sizes=(1,), seconds=ALONE_S)
    with inprocess_workers(MODEL, settings, DEVICE, photo_paths(), baseline) as inprocess:

        def alone_rps() -> float:
            return mean(inprocess.run("pipeline", 1, ALONE_S, busy=1)[0])

        inprocess.wait_until_loaded()
        before = alone_rps()
        with lone.running() as server:
            levels = lone.load(server, number) | loaded.load(server, number)
        after = alone_rps()
    in_process_ms, lone_user_ms = 1000 / mean((before, after)), known(levels[1].p50_ms)
    tails = {users: known(levels[users].p99_ms) / known(levels[users].p50_ms) for users in TAIL_USERS}
    return {
        "in_process_ms": in_process_ms,
        "lone_user_ms": lone_user_ms,
        "lone_user_over_in_process": lone_user_ms / in_process_ms,
        **{f"p99_over_p50_{users}_users": tail for users, tail in tails.items()},
    }


def known(percentile_ms: float | None) -> float:
    """A percentile that enough requests support.

    Raises:
        LoadError: too few do.
    """
    if percentile_ms is None:
        raise LoadError("too few requests for this percentile: the machine is too slow, or busy")
    return percentile_ms


def idle_percent() -> float:
    """Of one core, by all of the server's processes while nobody asks anything."""
    with Case(load_params().configuration(CONFIGURATION)).running() as server:
        time.sleep(SETTLE_S)
        tree = process_tree(server.pid)

        def used_s() -> float:
            return sum(sum(process.cpu_times()[:2]) for process in tree)

        before = used_s()
        time.sleep(IDLE_S)
        return 100 * (used_s() - before) / IDLE_S


def main() -> None:
    """Measure, and keep and print all figures."""
    [rounds] = measure_rounds("overhead", {CONFIGURATION: overhead}, ROUNDS).values()
    figures = {key: summary([one[key] for one in rounds]) for key in rounds[0]}
    result = {**figures, "idle_percent": round(idle_percent(), 2)}
    write_result("overhead", result)
    for name, figure in result.items():
        print(f"{name}: {figure}")


if __name__ == "__main__":
    main()
