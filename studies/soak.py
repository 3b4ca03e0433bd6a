"""Ten minutes at 80% of the peak: whether memory, file handles and the tail of latency stay what they were.

An open loop of Poisson arrivals, so that a stall is not hidden by users who wait for it; a turn a minute.
"""

from __future__ import annotations

from collections import defaultdict
from statistics import mean, median

from litmeter.measure.log import Log
from litmeter.measure.run import run
from litmeter.measure.turn import Schedule, Turn, measure
from litmeter.system.machine import exclusive_machine
from studies.harness import (
    SERVER,
    configuration,
    known,
    load_plan,
    memory_mib,
    process_tree,
    watched_server,
    write_result,
)

SHARE = 0.8
MINUTES = 10
MINUTE_S = 60.0
CONNECTIONS = 256
USERS = 8
PEAK_S = 10.0
SAMPLE_EVERY_S = 5.0


def soak() -> Schedule[None]:
    """The peak, and minutes at a share of it."""
    peak = yield from measure(Turn(SERVER, load_plan(USERS, PEAK_S, seed=0), note="peak"))
    rate_rps = SHARE * known(peak.row.rate_rps)
    for number in range(1, MINUTES + 1):
        plan = load_plan(CONNECTIONS, MINUTE_S, seed=number, warmup_s=0.0, rate_rps=rate_rps)
        yield from measure(Turn(SERVER, plan, number, note=f"minute {number}"))


def main() -> None:
    """Soak the server that `make serve` starts; keep and print what each minute was like."""
    samples: dict[str, list[tuple[float, float, int]]] = defaultdict(list)
    log = Log()
    with exclusive_machine(), watched_server(configuration("candidate")) as (server, subjects):

        def watch(text: str, seconds: float, end_s: float) -> None:
            own = samples[text]
            if not own or seconds >= own[-1][0] + SAMPLE_EVERY_S:
                tree = process_tree(server.process.pid)
                handles = sum(one.num_fds() - len(one.net_connections("tcp")) for one in tree)  # not clients'
                own.append((seconds, memory_mib(server.process.pid), handles))

        run(soak(), subjects, log, PEAK_S + MINUTES * MINUTE_S, watch)
    _, *rows = log.rows
    by_minute = [own for text, own in samples.items() if text.startswith("minute")]
    result = {
        "rate_rps": rows[0].offered_rps,
        "requests": sum(row.sent for row in rows),
        "without_a_good_answer": sum(row.failed + row.timed_out for row in rows),
        "p99_ms": [row.p99_ms for row in rows],
        "rss_mib": [round(mean(mib for _, mib, _ in own), 1) for own in by_minute],
        # Within a sample connections come and go, and bodies are handed over: a minute's median.
        "handles": [median(count for _, _, count in own) for own in by_minute],
    }
    write_result("soak", result)
    for name, values in result.items():
        print(f"{name}: {values}")


if __name__ == "__main__":
    main()
