"""Stage ``tune``: search the configuration that serves most, and write it with all that raced."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from litmeter.data.index import read_index
from litmeter.load import LoadGenerator, load_generator
from litmeter.measure.bodies import bodies_of
from litmeter.measure.log import unfinished_log
from litmeter.measure.run import run
from litmeter.measure.subjects import InProcess, Served, Subject
from litmeter.model.answers import answers_of
from litmeter.model.card import read_card
from litmeter.model.compiled.manifest import read_manifest
from litmeter.model.device import params_on
from litmeter.model.reference import read_reference
from litmeter.params import KNOBS, Params, ServeSettings
from litmeter.paths import MACHINE, MODEL, ON_DEMAND_DVC_FILE, TUNE_KNOBS, TUNE_METRICS, TUNE_TABLE
from litmeter.report.tables import capacity_text
from litmeter.system import files
from litmeter.system.machine import exclusive_machine
from litmeter.system.progress import print_wrapped
from litmeter.system.tables import text_table
from litmeter.tune.rows import HEAD, KnobRow, TuneRow, tune_cells
from litmeter.tune.search import Job, Outcome, search
from litmeter.tune.space import machine_of, name_of, space_of


def main() -> None:
    """Search, and write the result. A search that was stopped goes on where it was."""
    params, device = params_on(files.read_json(MACHINE))
    photos = [Path(photo.path) for photo in read_index().photos]
    bodies = bodies_of(params.load)
    files.check_writable([TUNE_METRICS, TUNE_TABLE, TUNE_KNOBS])
    job = job_of(params, device, photos)
    log = unfinished_log("tune", key_of(params, device, bodies.contents))
    with exclusive_machine(), load_generator(*bodies) as generator:
        subjects = subjects_of(job, generator, device, photos)
        outcome = run(search(job), subjects, log, params.tune.max_s)
    with files.all_or_nothing():
        files.write_json(TUNE_METRICS, metrics_of(params, outcome, log.reached_s))
        files.write_rows(TUNE_TABLE, TuneRow, outcome.rows)
        files.write_rows(TUNE_KNOBS, KnobRow, outcome.knobs)
    log.remove_unfinished()
    print(text_table(HEAD, tune_cells(outcome.rows)))
    print_wrapped("`litmeter tune --apply` writes the winner into params.yaml")


def job_of(params: Params, device: str, photos: Sequence[Path]) -> Job:
    """What the search works on."""
    machine = machine_of(device, photos)
    space = space_of(params.tune, params.serve, machine)
    agreement = agreement_of(device, photos)
    return Job(params.tune, params.serve, params.load, params.objective, machine, space, agreement)


def agreement_of(device: str, photos: Sequence[Path]) -> Callable[[ServeSettings], float]:
    """The share of the photos with the label of full precision, by what answers depend on, each found once.

    Photos that the model was fitted to are left out: with them it agrees too well.
    """
    reference = read_reference(MODEL.exported)
    numbers = [number for number, split in enumerate(reference.splits) if split != "train"]
    expected = reference.probabilities[numbers].argmax(axis=1)
    found: dict[tuple[str, str, bool], float] = {}

    def agreement(settings: ServeSettings) -> float:
        key = settings.precision, settings.preprocess, settings.compiled
        if key not in found:
            [answers] = answers_of(MODEL, device, [settings], [photos[number] for number in numbers])
            found[key] = float((answers.argmax(axis=1) == expected).mean())
        return found[key]

    return agreement


def subjects_of(job: Job, sender: LoadGenerator, device: str, photos: Sequence[Path]) -> dict[str, Subject]:
    """All that the search may measure."""
    timeout_s = job.load.timeout_s
    subjects: dict[str, Subject] = {
        part.subject: Served(part.name, part.settings, sender, MODEL, "cpu", timeout_s, null_model=True)
        if part.kind == "request"
        else InProcess(part.name, part.settings, MODEL, device, photos)
        for part in job.parts
    }
    for one in job.configurations:
        subjects[name_of(one)] = Served(name_of(one), one, sender, MODEL, device, timeout_s)
    return subjects


def key_of(params: Params, device: str, bodies: list[bytes]) -> str:
    """Hash of all that the turns of a search depend on."""
    content: dict[str, Any] = {
        "machine": files.read_json(MACHINE)["id"],
        "model": read_card(MODEL.exported).weights_sha256,
        "packages": [one.sha256 for one in read_manifest(MODEL, device).packages],
        "code": files.code_digest(ON_DEMAND_DVC_FILE, "tune"),
        "device": device,
        "bodies": files.digest(b"".join(bodies)),
        "params": params.model_dump(include={"load", "objective", "serve", "tune"}),
    }
    return files.digest(json.dumps(content, sort_keys=True).encode())


def metrics_of(params: Params, outcome: Outcome, seconds: float) -> dict[str, Any]:
    """Content of metrics/tune.json."""
    first, capacity = outcome.rows[0], outcome.capacity
    columns = ("rate_rps", "over_serve", "over_serve_low", "over_serve_high", "p95_ms", "memory_mib")
    return {
        "goal": params.tune.goal,
        "users": params.tune.users,
        "winner": {knob: getattr(outcome.winner, knob) for knob in KNOBS},
        **{column: getattr(first, column) for column in (*columns, "agreement")},
        "capacity_status": capacity and capacity.status,
        "capacity_rps": capacity and capacity.capacity_rps,
        "capacity_low_rps": capacity and capacity.low_rps,
        "capacity_high_rps": capacity and capacity.high_rps,
        "capacity": capacity and capacity_text(capacity),
        "equal": sum(row.status == "equal" for row in outcome.rows),
        "not_resolved": sum(row.status == "not resolved" for row in outcome.rows),
        "model_error": files.rounded(outcome.prediction_error, 3),
        "combinations": outcome.combinations,
        "raced": len(outcome.rows),
        "rounds": outcome.rounds,
        "settled": outcome.settled,
        "seconds": round(seconds),
        "machine": files.read_json(MACHINE)["id"],
        "weights_sha256": read_card(MODEL.exported).weights_sha256,
        "left_out": dict(outcome.left_out),
    }
