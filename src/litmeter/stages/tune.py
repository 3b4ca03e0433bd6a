"""Stage ``tune``: search the configuration that serves most, and write it with all that raced."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from litmeter.benchmark.capacity_rows import sentence
from litmeter.benchmark.telemetry import available_cores
from litmeter.data.index import read_index
from litmeter.errors import ModelError
from litmeter.inference.card import INTERPOLATIONS, read_card
from litmeter.inference.compiled.manifest import packages_to_use, read_manifest
from litmeter.inference.device import (
    PRECISIONS,
    cannot_run_reason,
    dtype_name,
    precisions_on,
    resolve_device,
)
from litmeter.inference.reference import read_reference
from litmeter.params import KNOBS, Params, load_params
from litmeter.paths import (
    MACHINE,
    MODEL,
    TUNE_DVC_FILE,
    TUNE_KNOBS,
    TUNE_METRICS,
    TUNE_PICTURE,
    TUNE_STUDY,
    TUNE_TABLE,
)
from litmeter.report.charts.png import save
from litmeter.report.charts.tune import tune
from litmeter.serving.client import request_bodies
from litmeter.system.files import all_or_nothing, check_writable, read_json, rounded, write_json
from litmeter.system.machine_lock import exclusive_machine
from litmeter.system.progress import print_wrapped
from litmeter.system.rows import write_rows
from litmeter.system.signature import code_digest, digest
from litmeter.system.tables import text_table
from litmeter.tune.rows import HEAD, KnobRow, TuneRow, tune_cells
from litmeter.tune.run import Job, Outcome, search
from litmeter.tune.space import Machine
from litmeter.tune.study import Study


def main(storage: str | None = None) -> None:
    """Search, and write the result.

    Args:
        storage: URL of the database that keeps the study; None: a file of SQLite's.

    Raises:
        LitmeterError: no configuration can run; a model, server or load generator failed; the storage
            cannot be reached, or results cannot be written.
    """
    params = load_params()
    device = resolve_device(params.device, read_json(MACHINE)["gpu"] is not None)
    photos = [Path(photo.path) for photo in read_index().photos]
    bodies = request_bodies(photos, params.load.request_body)
    check_writable([TUNE_METRICS, TUNE_TABLE, TUNE_KNOBS, TUNE_PICTURE])
    study = Study(storage or f"sqlite:///{TUNE_STUDY}", signature_of(params, device, bodies))
    job = Job(
        params.tune,
        params.serve,
        params.load,
        params.objective,
        MODEL,
        photos,
        bodies,
        read_reference(MODEL.exported),
        machine_of(device, photos),
    )
    with exclusive_machine():
        outcome = search(job, study)
    with all_or_nothing():
        write_json(TUNE_METRICS, metrics_of(params, outcome))
        write_rows(TUNE_TABLE, TuneRow, outcome.rows)
        write_rows(TUNE_KNOBS, KnobRow, outcome.knobs)
        save(TUNE_PICTURE, [tune(outcome.rows)])
    print(text_table(HEAD, tune_cells(outcome.rows)))
    print_wrapped("`litmeter tune --apply` writes the winner into params.yaml")


def machine_of(device: str, photos: Sequence[Path]) -> Machine:
    """This machine, as far as it decides what can run."""
    card = read_card(MODEL.exported)
    precisions = {one: "for CPUs only" for one in PRECISIONS if one not in precisions_on(device)}
    compiled = {}
    for precision in precisions_on(device):
        if reason := cannot_run_reason(dtype_name(precision, device), device):
            precisions[precision] = reason
        try:
            packages = packages_to_use(MODEL, device, precision)
        except ModelError as error:
            compiled[precision] = str(error)
            continue
        if not any(package.batch_size == 1 for package in packages):
            compiled[precision] = "no package for a single image is used"
    preprocess = {}
    if card.interpolation not in INTERPOLATIONS:
        preprocess = dict.fromkeys(("torchvision", "scaled"), f"it does not resize by {card.interpolation}")
    elif largest_side(photos) < 2 * card.resized_side:
        preprocess = {"scaled": "no photo is twice as large as the model needs it"}
    return Machine(device, max(1, int(available_cores())), precisions, compiled, preprocess)


def largest_side(photos: Sequence[Path]) -> int:
    """Of all photos' shorter sides the longest, in pixels."""
    sides = []
    for path in photos:
        with Image.open(path) as photo:
            sides.append(min(photo.size))
    return max(sides)


def signature_of(params: Params, device: str, bodies: list[bytes]) -> str:
    """Hash of all that rates and costs depend on, except the configurations themselves."""
    others = {key: value for key, value in params.serve.model_dump().items() if key not in KNOBS}
    content: dict[str, Any] = {
        "machine": read_json(MACHINE)["id"],
        "model": read_card(MODEL.exported).weights_sha256,
        "packages": [one.sha256 for one in read_manifest(MODEL, device).packages],
        "code": code_digest(TUNE_DVC_FILE, "tune", without="src/litmeter/report"),
        "device": device,
        "bodies": digest(b"".join(bodies)),
        "load": params.load.model_dump(exclude={"users"}),
        "users": params.tune.users,
        "others": others,
    }
    return digest(json.dumps(content, sort_keys=True).encode())


def metrics_of(params: Params, outcome: Outcome) -> dict[str, Any]:
    """Content of metrics/tune.json."""
    first = outcome.rows[0]
    capacity = outcome.capacity
    return {
        "goal": params.tune.goal,
        "users": params.tune.users,
        "winner": {knob: getattr(outcome.winner, knob) for knob in KNOBS},
        "rate_rps": first.rate_rps,
        "over_serve": first.over_serve,
        "over_serve_low": first.over_serve_low,
        "over_serve_high": first.over_serve_high,
        "p95_ms": first.p95_ms,
        "memory_mib": first.memory_mib,
        "agreement": first.agreement,
        "capacity_status": capacity and capacity.status,
        "capacity_rps": capacity and capacity.capacity_rps,
        "capacity_low_rps": capacity and capacity.low_rps,
        "capacity_high_rps": capacity and capacity.high_rps,
        "capacity": capacity and sentence(capacity),
        "equal": sum(row.status == "equal" for row in outcome.rows),
        "not_resolved": sum(row.status == "not resolved" for row in outcome.rows),
        "model_error": rounded(outcome.model_error, 3),
        "combinations": outcome.combinations,
        "raced": len(outcome.rows),
        "rounds": outcome.rounds,
        "settled": outcome.settled,
        "seconds": round(outcome.seconds),
        "machine": read_json(MACHINE)["id"],
        "weights_sha256": read_card(MODEL.exported).weights_sha256,
        "left_out": dict(outcome.left_out),
    }
