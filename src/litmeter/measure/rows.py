"""The rows of results: a turn, in plots/turns/STAGE.csv, and a compared configuration. None is unknown."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TurnRow:
    """One turn. CPU, machine and stages are of the whole turn, rates and latencies of its measured windows.

    Attributes:
        turn: number in its log, from 0 on; samples/STAGE.csv has each request with this number.
        at_s: when it began, seconds since the log did.
        seconds: that it took.
        round: of a comparison or race, run of a level, or number of the probe.
        subject: a configuration's name, or what the stage names besides.
        work: "served"; in-process "model", "preprocess" or "pipeline".
        users: requests in flight at once; at most, where a rate was offered. None in-process.
        offered_rps: mean rate of arrivals of an open loop.
        batch_size: mean number of requests in a batch; in-process images in each.
        rate_rps: good answers (or images) per second; None where there was no good answer.
        low_rps, high_rps: 95% interval of this turn's rate alone, by parts of its windows.
        bound_rps: where there was no good answer, what the rate was below.
        answers: good answers in the measured windows.
        sent, failed, timed_out: requests of the whole turn: sent = good + failed + timed_out.
        missed: share of the requests that failed or took longer than the objective, where there is one.
        mean_ms, p50_ms, p95_ms, p99_ms: latency of the answers; a percentile needs 1, 130 or 662 of them.
        stage_ms: mean time of a request by stage of the server, as JSON.
        batches: number of batches by the upper bound of their size, as JSON.
        cpu_percent: of the machine's cores.
        server_cores, client_cores: CPU seconds per second of the server's processes and the load generator's.
        http_cpu_ms, workers_cpu_ms, manager_cpu_ms, client_cpu_ms: CPU time per answer (or image) by process.
        late_ms: 99th percentile of the delay from when a request was due until it was sent.
        other_percent, steal_percent: CPU that other processes and the hypervisor took, of the machine.
        cpu_mhz: mean frequency of the cores.
        gpu_percent, gpu_memory_mib, gpu_power_w: of the first CUDA device: mean, highest, mean.
        memory_mib: of the subject's processes, after the turn.
        void: why the turn's figures cannot be relied on, empty where they can.
        warnings: what else the machine did meanwhile.
    """

    turn: int
    at_s: float
    seconds: float
    round: int
    subject: str
    work: str
    users: int | None = None
    offered_rps: float | None = None
    batch_size: float | None = None
    rate_rps: float | None = None
    low_rps: float | None = None
    high_rps: float | None = None
    bound_rps: float | None = None
    answers: int = 0
    sent: int = 0
    failed: int = 0
    timed_out: int = 0
    missed: float | None = None
    mean_ms: float | None = None
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    stage_ms: str = "{}"
    batches: str = "{}"
    cpu_percent: float | None = None
    server_cores: float | None = None
    client_cores: float | None = None
    http_cpu_ms: float | None = None
    workers_cpu_ms: float | None = None
    manager_cpu_ms: float | None = None
    client_cpu_ms: float | None = None
    late_ms: float | None = None
    other_percent: float | None = None
    steal_percent: float | None = None
    cpu_mhz: float | None = None
    gpu_percent: float | None = None
    gpu_memory_mib: float | None = None
    gpu_power_w: float | None = None
    memory_mib: float | None = None
    void: str = ""
    warnings: str = ""

    @property
    def highest_rps(self) -> float:
        """The rate, or what it was below."""
        return self.rate_rps or self.bound_rps or 0.0


@dataclass(frozen=True)
class ComparisonRow:
    """One configuration in plots/comparison.csv, at the comparison's number of users.

    Attributes:
        rate_rps: geometric mean over its turns, with the lowest and the highest rate of a round. None with
            the lowest where a round had no good answer: the highest is a bound then.
        ratio: rate over the reference's, with a simultaneous 95% interval. Where a round had no good answer,
            ``ratio_high`` alone: the ratio is below it.
        share_of_fastest: rate over the fastest one's, paired directly, with a simultaneous 95% interval.
        rank: 1 for the fastest and all that do not differ from it; None for an earlier run's.
        p50_ms, p95_ms: latency over all turns, with 95% intervals.
        answers, failed: good answers, and requests that were refused, failed or timed out.
        rounds, turns: number of rounds in which it was measured, and of its turns.
        earlier: the date of the earlier run whose figures these are; empty for this run's.
        model_rps, pipeline_rps: of the model alone and of the pipeline in-process, geometric means over the
            rounds that have them.
        efficiency: served rate over that of the pipeline, within these rounds, with a 95% interval.
    """

    experiment: str
    users: int
    rate_rps: float | None
    lowest_rps: float | None
    highest_rps: float | None
    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None
    share_of_fastest: float | None
    share_low: float | None
    share_high: float | None
    rank: int | None
    p50_ms: float | None
    p50_low_ms: float | None
    p50_high_ms: float | None
    p95_ms: float | None
    p95_low_ms: float | None
    p95_high_ms: float | None
    answers: int
    failed: int
    rounds: int
    turns: int
    earlier: str = ""
    model_rps: float | None = None
    pipeline_rps: float | None = None
    efficiency: float | None = None
    efficiency_low: float | None = None
    efficiency_high: float | None = None
