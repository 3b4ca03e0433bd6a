"""Ten minutes at 80% of the peak: whether memory, file handles and the tail of latency stay what they were.

An open loop of Poisson arrivals, so that a stall is not hidden by users who wait for it.
"""

from __future__ import annotations

from statistics import mean, median

import numpy as np

from litmeter.params import load_params
from litmeter.stats.records import OK
from litmeter.system.machine import exclusive_machine
from litmeter.system.progress import bar
from studies.harness import Case, load_plan, memory_mib, process_tree, run_load, write_result

SHARE = 0.8
MINUTES = 10
MINUTE_S = 60.0
CONNECTIONS = 256
USERS = 8
PEAK_S = 10.0
SAMPLE_EVERY_S = 5.0


def handles(root_pid: int) -> int:
    """File handles of a server's whole process tree, besides its clients' connections."""
    return sum(own.num_fds() - len(own.net_connections("tcp")) for own in process_tree(root_pid))


def main() -> None:
    """Soak the server that `make serve` starts; keep and print what each minute was like."""
    case = Case(load_params().serve, users=(USERS,), seconds=PEAK_S)
    samples: list[tuple[float, float, int]] = []
    with exclusive_machine(), case.running() as server:
        rate_rps = SHARE * case.load(server, 0)[USERS].throughput_rps
        seconds = MINUTES * MINUTE_S
        plan = load_plan(CONNECTIONS, seconds, seed=0, warmup_s=0.0, rate_rps=rate_rps)
        with bar(round(seconds), "soak", "s") as progress:

            def follow(users: int, answers: int, elapsed: float) -> None:
                progress.update(round(elapsed) - progress.n)
                if elapsed >= len(samples) * SAMPLE_EVERY_S:
                    samples.append((elapsed, memory_mib(server.pid), handles(server.pid)))

            [record] = run_load(server, case.form, [plan], on_progress=follow)
    minute = ((record.end - record.window[0]) // MINUTE_S).astype(int)
    latency_ms = 1000 * (record.end - record.start)
    by_minute = [[own for own in samples if own[0] // MINUTE_S == number] for number in range(MINUTES)]
    result = {
        "rate_rps": round(rate_rps, 1),
        "requests": len(record.status),
        "without_a_good_answer": int((record.status != OK).sum()),
        "p99_ms": [round(float(np.percentile(latency_ms[minute == one], 99)), 1) for one in range(MINUTES)],
        "rss_mib": [round(mean(mib for _, mib, _ in own), 1) for own in by_minute],
        # Within a sample connections come and go, and bodies are handed over: a minute's median.
        "handles": [median(count for _, _, count in own) for own in by_minute],
    }
    write_result("soak", result)
    for name, values in result.items():
        print(f"{name}: {values}")


if __name__ == "__main__":
    main()
