"""Stage ``capacity NAME``: the highest rate at which a configuration keeps to the objective."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from servebench.benchmark.capacity import measure_capacity
from servebench.benchmark.capacity_rows import ProbeRow, sentence
from servebench.benchmark.describe import describe
from servebench.benchmark.slow_moments import CoreSpeeds
from servebench.data.index import read_index
from servebench.inference.card import read_card
from servebench.inference.device import resolve_device
from servebench.loadgen import load_generator
from servebench.params import load_params
from servebench.paths import MACHINE, MODEL, CapacityPaths
from servebench.report.capacity import provenance
from servebench.report.charts.capacity import capacity
from servebench.report.charts.png import save
from servebench.serving.client import CONTENT_TYPES, request_bodies
from servebench.serving.launcher import running_server
from servebench.system.files import all_or_nothing, check_writable, read_json, write_json
from servebench.system.machine_lock import exclusive_machine
from servebench.system.progress import print_wrapped
from servebench.system.rows import write_rows


def main(name: str) -> None:
    """Search the capacity of the configuration ``name`` of params.yaml, and write it with its probes.

    Raises:
        ServebenchError: there is no such configuration or no exported model, the server or the load generator
            failed, or results cannot be written.
    """
    params = load_params()
    serve = params.configuration(name)
    read_card(MODEL.exported)
    device = resolve_device(params.device, read_json(MACHINE)["gpu"] is not None)
    photos = [Path(photo.path) for photo in read_index().photos]
    form = params.load.request_body
    bodies = request_bodies(photos, form)
    paths = CapacityPaths(name)
    check_writable(paths.files)
    with exclusive_machine():
        print_wrapped(f"{name}: {describe(serve, device)}; at most {params.objective.max_s:g} s")
        with (
            running_server(MODEL, serve, device, params.load.timeout_s) as server,
            load_generator(bodies, CONTENT_TYPES[form]) as generator,
            CoreSpeeds() as cores,
        ):
            url, timeout_s = f"{server.url}/predict", params.load.timeout_s
            result = measure_capacity(generator, url, params.objective, timeout_s, name, server.check, cores)
    with all_or_nothing():
        write_json(paths.metrics, dataclasses.asdict(result.metrics) | provenance(params, name))
        write_rows(paths.probes, ProbeRow, result.rows)
        save(paths.picture, capacity(name, result))
    print_wrapped(f"{name}: {sentence(result.metrics)}")
