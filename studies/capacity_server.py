"""Whether a real server's capacity repeats, and whether 0.9 of it holds the objective and 1.1 does not.

A study that was stopped goes on with the next run, on the same machine; delete its result to begin anew.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from litmeter.benchmark.capacity import PEAK_S, PROBE_WARMUP_S, CapacityMeter, CoreSpeeds, good_rate_rps
from litmeter.loadgen import LoadGenerator, LoadPlan, load_generator
from litmeter.params import load_params
from litmeter.paths import MODEL
from litmeter.serving.client import CONTENT_TYPES
from litmeter.serving.launcher import running_server
from litmeter.stats.records import WINDOWS, LoadRecord, late_share
from litmeter.system.machine import exclusive_machine
from studies import DEVICE
from studies.harness import all_bodies, read_runs, write_result

RESULT = "capacity_server"
CONFIGURATION = "e7_tuned"
RUNS = 10
MAX_S = 240.0
FACTORS = (0.9, 1.1)
TARGET_RUNS, TARGET_SPREAD = 9, 0.08
CHECKS, CHECK_REQUESTS, CONNECTIONS = 3, 2000, 256
"""Of each factor: a machine's slow second decides a single one."""


@dataclass(frozen=True)
class Check:
    """Loads a server at FACTORS of its capacity, in turn.

    Attributes:
        users: of the closed loop that has shown the peak before.
        share: the capacity, of the peak.
    """

    generator: LoadGenerator
    url: str
    slo_ms: float
    timeout_s: float
    users: int
    share: float
    seed: int

    def late_shares(self) -> dict[str, float]:
        """Share of late requests at each factor, of CHECKS loads together."""
        late: dict[float, list[float]] = {factor: [] for factor in FACTORS}
        for number in range(CHECKS):
            for factor in FACTORS[:: -1 if number % 2 else 1]:
                rate_rps = factor * self.share * self._peak_rps(number)
                record = self._run(number, CONNECTIONS, CHECK_REQUESTS / rate_rps, rate_rps)
                share = late_share(record, self.slo_ms)
                assert share is not None
                late[factor].append(share)
        return {f"{factor:g}": fmean(shares) for factor, shares in late.items()}

    def _peak_rps(self, number: int) -> float:
        """The machine's speed at this moment."""
        return good_rate_rps(self._run(number, self.users, PEAK_S, None))

    def _run(self, number: int, users: int, seconds: float, rate_rps: float | None) -> LoadRecord:
        plan = LoadPlan(
            users=users,
            requests=1,
            warmup_s=PROBE_WARMUP_S,
            min_s=seconds,
            max_s=seconds,
            max_windows=WINDOWS,
            timeout_s=self.timeout_s,
            seed=self.seed,
            repeat=number,
            rate_rps=rate_rps,
        )
        return self.generator.run(self.url, plan)


def run(number: int) -> dict[str, Any]:
    """One search with a server of its own, and the share of late requests at FACTORS of its result."""
    params = load_params()
    settings = params.configuration(CONFIGURATION)
    objective = params.objective.model_copy(update={"max_s": MAX_S, "seed": params.objective.seed + number})
    form, timeout_s = params.load.request_body, params.load.timeout_s
    with (
        running_server(MODEL, settings, DEVICE, timeout_s) as server,
        load_generator(all_bodies(form), CONTENT_TYPES[form]) as generator,
        CoreSpeeds() as cores,
    ):
        url = f"{server.url}/predict"
        meter = CapacityMeter(generator, url, objective, timeout_s, server.check, cores=cores)
        found = meter.measure()
        late = {}
        if found.share:
            check = Check(generator, url, objective.slo_ms, timeout_s, meter.log.users, found.share, number)
            late = check.late_shares()
    return {
        "status": found.status,
        "capacity_rps": found.capacity_rps,
        "share": found.share,
        "share_low": found.share_low,
        "share_high": found.share_high,
        "peak_rps": found.peak_rps,
        "unsteady": found.unsteady,
        "void": found.void,
        "seconds": found.seconds,
        "late": late,
        "probes": [asdict(probe) for probe in meter.search.probes],
        "void_probes": [asdict(row) for row in meter.log.rows if row.void_reason],
    }


def main() -> None:
    """Run RUNS searches, and keep each as soon as it is done."""
    runs = read_runs(RESULT)
    for number in range(len(runs), RUNS):
        with exclusive_machine():
            runs.append(run(number))
        print(f"run {number + 1}: {runs[-1]}", flush=True)
        goal = f"0.9 of it holds and 1.1 misses the objective in {TARGET_RUNS} of {RUNS} runs"
        write_result(RESULT, {"goal": goal, "target_spread": TARGET_SPREAD, "runs": runs})


if __name__ == "__main__":
    main()
