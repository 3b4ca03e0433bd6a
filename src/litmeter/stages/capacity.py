"""Stage ``capacity NAME``: the highest rate at which a configuration keeps to the objective."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from litmeter.data.index import read_index
from litmeter.load import load_generator
from litmeter.measure.capacity import CoreSpeeds, ProbeRow, measure_capacity
from litmeter.model.card import exported_weights, read_card
from litmeter.model.device import resolve_device
from litmeter.params import Params, load_params
from litmeter.paths import MACHINE, MODEL, CapacityPaths
from litmeter.report.printed import capacity_text, describe
from litmeter.serve.client import CONTENT_TYPES, request_bodies
from litmeter.serve.launcher import running_server
from litmeter.system.files import all_or_nothing, check_writable, read_json, write_json, write_rows
from litmeter.system.machine import exclusive_machine
from litmeter.system.progress import print_wrapped


def main(name: str) -> None:
    """Search the capacity of the configuration ``name`` of params.yaml, and write it with its probes.

    Raises:
        LitmeterError: there is no such configuration or no exported model, the server or the load generator
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
    check_writable(paths.outputs)
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
    print_wrapped(f"{name}: {capacity_text(result.metrics)}")


def provenance(params: Params, name: str) -> dict[str, str | None]:
    """What a capacity holds for: machine, model (None where there is none here) and configuration."""
    return {
        "machine": read_json(MACHINE)["id"],
        "weights_sha256": exported_weights(MODEL.exported),
        "serve": json.dumps(params.configuration(name).model_dump(), sort_keys=True),
    }
