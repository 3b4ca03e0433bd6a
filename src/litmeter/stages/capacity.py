"""Stage ``capacity NAME``: the highest rate at which a configuration keeps to the objective."""

from __future__ import annotations

import dataclasses
from datetime import datetime, timezone
from pathlib import Path

from litmeter.data.index import read_index
from litmeter.load import load_generator
from litmeter.measure.capacity import capacity
from litmeter.measure.log import Log
from litmeter.measure.rows import TurnRow
from litmeter.measure.run import progress, run
from litmeter.measure.subjects import Served
from litmeter.model.card import exported_weights, read_card
from litmeter.model.device import params_on
from litmeter.paths import MACHINE, MODEL, CapacityPaths
from litmeter.report.machines import capacity_sentence
from litmeter.report.tables import describe
from litmeter.serve.client import CONTENT_TYPES, request_bodies
from litmeter.system.files import all_or_nothing, check_writable, digest, read_json, write_json, write_rows
from litmeter.system.machine import exclusive_machine
from litmeter.system.progress import print_wrapped


def main(name: str) -> None:
    """Search the capacity of the configuration ``name`` of params.yaml, and write it with its turns."""
    params, device = params_on(read_json(MACHINE))
    serve, load, objective = params.configuration(name), params.load, params.objective
    read_card(MODEL.exported)
    bodies = request_bodies([Path(photo.path) for photo in read_index().photos], load.request_body)
    paths = CapacityPaths(name)
    check_writable(paths.outputs)
    print_wrapped(f"{name}: {describe(serve, device)}; {objective.max_s:g} s")
    with exclusive_machine(), load_generator(bodies, CONTENT_TYPES[load.request_body]) as sender:
        subjects = {name: Served(name, serve, sender, MODEL, device, load.timeout_s)}
        schedule = capacity([name], objective, load.timeout_s)
        with progress(objective.max_s, f"{name}: capacity") as show:
            found = run(schedule, subjects, Log(), objective.max_s, show)[name]
    provenance = {
        "machine": read_json(MACHINE)["id"],
        "weights_sha256": exported_weights(MODEL.exported),
        "settings": digest(serve.model_dump_json().encode()),
        "measured_at": f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC",
    }
    with all_or_nothing():
        write_json(paths.metrics, dataclasses.asdict(found.metrics) | provenance)
        write_rows(paths.probes, TurnRow, found.rows)
    print_wrapped(capacity_sentence(name, found.metrics))
