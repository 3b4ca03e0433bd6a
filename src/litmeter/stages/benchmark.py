"""Stage ``benchmark NAME``: serve one configuration, and measure what it alone can say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from litmeter.data.index import read_index
from litmeter.load import load_generator
from litmeter.measure.accuracy import compare
from litmeter.measure.bodies import bodies_of
from litmeter.measure.figures import failed_rows
from litmeter.measure.levels import NULL_SERVER, SECONDS, Alone, by_users, levels, reported
from litmeter.measure.log import Log
from litmeter.measure.preflight import refuse_faulty
from litmeter.measure.run import progress, run
from litmeter.measure.subjects import Served
from litmeter.model.card import served_card
from litmeter.model.compiled.manifest import split_note
from litmeter.model.device import dtype_name, params_on
from litmeter.model.reference import read_reference
from litmeter.paths import MACHINE, MODEL, BenchmarkPaths
from litmeter.report.tables import describe
from litmeter.say.progress import print_wrapped
from litmeter.say.tables import number_cell, pluralise
from litmeter.stats.rates import percentile
from litmeter.system.files import all_or_nothing, check_writable, read_json, rounded, write_json


def main(name: str) -> None:
    """Benchmark the configuration ``name`` of params.yaml and write its results."""
    params, device = params_on(read_json(MACHINE))
    serve, load = params.configuration(name), params.load
    served_card(params)
    paths = BenchmarkPaths(name)
    check_writable(paths.files)
    sends_photos = serve.kind == "classifier" and load.bodies is None
    photos = read_index().photos if sends_photos else []
    bodies = bodies_of(load)
    tested = [number for number, photo in enumerate(photos) if photo.split == "test"]
    log = Log()
    with load_generator(*bodies) as sender:
        print_wrapped(f"{name}: {describe(serve, device)}")
        refuse_faulty({name: serve}, bodies, device, load.timeout_s)
        if note := split_note(MODEL, device, serve):
            print_wrapped(f"{name}: {note}")
        subjects = {name: Served(name, serve, sender, MODEL, device, load.timeout_s)}
        if serve.kind != "command":
            null = Served(NULL_SERVER, serve, sender, MODEL, device, load.timeout_s, null_model=True)
            subjects[NULL_SERVER] = null
        schedule = levels(name, load, len(bodies.contents), tested, null_server=NULL_SERVER in subjects)
        with progress(SECONDS, name) as show:
            alone = run(schedule, subjects, log, SECONDS, show)
    accuracy: dict[str, Any] = {}
    if sends_photos:
        dtype = dtype_name(serve.precision, device)
        accuracy = compare(read_reference(MODEL.exported), alone.answers, dtype, serve.preprocess)
    metrics = metrics_of(name, log, alone, accuracy)
    for row in log.rows:
        p50, p95 = (number_cell(ms, 0) for ms in (row.p50_ms, row.p95_ms))
        said = [f"p50 {p50} ms, p95 {p95} ms", row.void and f"void: {row.void}", row.warnings]
        rate = f"{row.subject}, {pluralise(row.users or 0, 'user')}: {number_cell(row.rate_rps, 1)} req/s"
        print_wrapped(f"{rate}, {'; '.join(filter(None, said))}")
    said = [f"{name}: ready after {metrics['ready_s']} s, {metrics['memory_mib']} MiB"]
    if accuracy:
        said += [
            f"of {accuracy['photos']} test photos {accuracy['agreement']} have full precision's label and "
            f"{accuracy['accuracy']} the right one",
            f"{accuracy['mismatched']} answers belong to another request",
        ]
    print_wrapped("; ".join(said))
    with all_or_nothing():
        log.write(paths.turns, paths.samples)
        write_json(paths.metrics, metrics)


def metrics_of(name: str, log: Log, alone: Alone, accuracy: Mapping[str, Any]) -> dict[str, Any]:
    """Content of metrics/benchmark/NAME.json.

    The rate is that of the level whose first turn was the fastest, from its last turn. ``accuracy`` is empty
    where users send something else than photos.
    """
    own = by_users(log.rows, name)
    best, null = reported(own), [row for row in log.rows if row.subject == NULL_SERVER]
    latencies_ms = log.latencies_ms()
    lone = [np.array([]), *(latencies_ms[row.turn] for row in own.get(1, []))]
    return {
        "throughput_rps": rounded(best.rate_rps, 2) if best else None,
        "lone_p50_ms": rounded(percentile(np.concatenate(lone), 50), 2),
        "ready_s": rounded(alone.ready_s, 2),
        "memory_mib": rounded(max(row.memory_mib or 0.0 for row in log.rows if row.subject == name), 0),
        **({"null_rps": rounded(null[0].rate_rps, 1)} if null else {}),
        **{
            key: accuracy[key] for key in ("accuracy", "agreement", "photos", "mismatched") if key in accuracy
        },
        "failed": failed_rows([row for rows in own.values() for row in rows]),
    }
