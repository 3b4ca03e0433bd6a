"""Stage ``benchmark NAME``: serve one configuration, and measure it alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from litmeter.load import load_generator
from litmeter.measure.checks import check_all, refuse_faulty
from litmeter.measure.figures import failed_rows
from litmeter.measure.levels import NULL_SERVER, SECONDS, Alone, by_users, levels, reported
from litmeter.measure.log import Log
from litmeter.measure.rows import BenchmarkMetrics, TurnRow
from litmeter.measure.run import progress, run
from litmeter.measure.subjects import Served
from litmeter.params import params_on
from litmeter.paths import MACHINE, BenchmarkPaths
from litmeter.say.progress import print_wrapped
from litmeter.stats.rates import percentile
from litmeter.system.files import all_or_nothing, check_writable, read_json, rounded, write_json


def main(name: str) -> tuple[Sequence[TurnRow], BenchmarkMetrics]:
    """Benchmark the configuration ``name`` of params.yaml, write its results, and return them."""
    params, device = params_on(read_json(MACHINE))
    serve, load = params.configuration(name), params.load
    params.served_card()
    paths = BenchmarkPaths(name)
    check_writable(paths.outputs)
    bodies, tested, log = params.bodies(), serve.tested(load), Log()
    with load_generator(*bodies) as sender:
        # The comparison, which follows, tries all workers.
        refuse_faulty(check_all({name: serve}, bodies, device, load.timeout_s, quick=True))
        if note := serve.note(device):
            print_wrapped(f"{name}: {note}")
        subjects = {name: Served(name, serve, sender, device, load.timeout_s)}
        if serve.served_by_litmeter:
            subjects[NULL_SERVER] = Served(NULL_SERVER, serve, sender, device, load.timeout_s, null=True)
        schedule = levels(name, load, len(bodies.contents), tested, null_server=NULL_SERVER in subjects)
        with progress(SECONDS, name) as show:
            alone = run(schedule, subjects, log, SECONDS, show)
    metrics = metrics_of(name, log, alone, serve.accuracy(alone.answers, device) if tested else {})
    with all_or_nothing():
        log.write(paths.turns, paths.samples)
        write_json(paths.metrics, metrics.model_dump())
    return log.rows, metrics


def metrics_of(name: str, log: Log, alone: Alone, accuracy: Mapping[str, Any]) -> BenchmarkMetrics:
    """The figures of a benchmark; ``accuracy`` is empty if right answers are not known."""
    own = by_users(log.rows, name)
    best, null = reported(own), [row for row in log.rows if row.subject == NULL_SERVER]
    latencies_ms = log.latencies_ms()
    memory = [row.memory_mib for row in log.rows if row.subject == name and row.memory_mib]
    lone = [np.array([]), *(latencies_ms[row.turn] for row in own.get(1, []))]
    return BenchmarkMetrics(
        throughput_rps=rounded(best.rate_rps, 2) if best else None,
        lone_p50_ms=rounded(percentile(np.concatenate(lone), 50), 2),
        ready_s=rounded(alone.ready_s, 2),
        memory_mib=rounded(max(memory, default=None), 0),
        null_rps=rounded(null[0].rate_rps, 1) if null else None,
        failed=failed_rows([row for rows in own.values() for row in rows]),
        **accuracy,
    )
