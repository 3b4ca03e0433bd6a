"""Stage ``tune``: search the configuration that serves most, and write it with all that raced."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from litmeter.data.index import read_index
from litmeter.model.card import read_card
from litmeter.model.compiled.manifest import read_manifest
from litmeter.model.device import resolve_device
from litmeter.model.reference import read_reference
from litmeter.params import KNOBS, Params, load_params
from litmeter.paths import (
    MACHINE,
    MODEL,
    ON_DEMAND_DVC_FILE,
    TUNE_KNOBS,
    TUNE_METRICS,
    TUNE_RECORD,
    TUNE_TABLE,
)
from litmeter.report.printed import capacity_text
from litmeter.serve.client import request_bodies
from litmeter.system.files import (
    all_or_nothing,
    check_writable,
    code_digest,
    digest,
    read_json,
    rounded,
    write_json,
    write_rows,
)
from litmeter.system.machine import exclusive_machine
from litmeter.system.progress import print_wrapped
from litmeter.system.tables import text_table
from litmeter.tune.record import Record
from litmeter.tune.rows import HEAD, KnobRow, TuneRow, tune_cells
from litmeter.tune.search import Job, Outcome, search
from litmeter.tune.space import machine_of


def main() -> None:
    """Search, and write the result.

    Raises:
        LitmeterError: no configuration can run; a model, server or load generator failed; or a file cannot
            be read or written.
    """
    params = load_params()
    device = resolve_device(params.device, read_json(MACHINE)["gpu"] is not None)
    photos = [Path(photo.path) for photo in read_index().photos]
    bodies = request_bodies(photos, params.load.request_body)
    check_writable([TUNE_METRICS, TUNE_TABLE, TUNE_KNOBS])
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
        outcome = search(job, Record(TUNE_RECORD, signature_of(params, device, bodies)))
    with all_or_nothing():
        write_json(TUNE_METRICS, metrics_of(params, outcome))
        write_rows(TUNE_TABLE, TuneRow, outcome.rows)
        write_rows(TUNE_KNOBS, KnobRow, outcome.knobs)
    print(text_table(HEAD, tune_cells(outcome.rows)))
    print_wrapped("`litmeter tune --apply` writes the winner into params.yaml")


def signature_of(params: Params, device: str, bodies: list[bytes]) -> str:
    """Hash of all that rates and costs depend on, except the configurations themselves."""
    others = {key: value for key, value in params.serve.model_dump().items() if key not in KNOBS}
    content: dict[str, Any] = {
        "machine": read_json(MACHINE)["id"],
        "model": read_card(MODEL.exported).weights_sha256,
        "packages": [one.sha256 for one in read_manifest(MODEL, device).packages],
        "code": code_digest(ON_DEMAND_DVC_FILE, "tune"),
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
        "capacity": capacity and capacity_text(capacity),
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
