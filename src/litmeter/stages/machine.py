"""Stage ``machine``: check all of params.yaml, then write what the other stages depend on besides it.

It runs first in every ``dvc repro``, so that a mistake is found before anything is trained. The fingerprint
changes only with what bears on figures; then every stage that measures runs again. The stage ``compile``
depends on another file, of what compiles alone. Hashes stand for what dvc.yaml cannot name: files and
sections that params.yaml may have, and downloaded photos. When one changes, what rests on it is made again.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from litmeter.errors import LitmeterError, LoadError, ParamsError
from litmeter.load.bodies import from_environment
from litmeter.params import Params, load_params, params_on
from litmeter.paths import DVC_FILE, INPUTS, MACHINE, left_out
from litmeter.say.progress import duration, print_wrapped
from litmeter.stages import comparison
from litmeter.stages.order import last_seconds
from litmeter.system.device import resolve_device
from litmeter.system.dvc_file import code_files
from litmeter.system.files import digest, read_json, write_json
from litmeter.system.gpu import cuda_available
from litmeter.system.machine import fingerprint


def main() -> tuple[dict[str, Any], list[str]]:
    """Check params.yaml, then write the fingerprint and the hashes.

    Return the machine, and sentences about params.yaml on this machine and about the run that begins.
    """
    params = load_params()
    check_params(params)
    if sentence := left_out(params.configurations()):
        print_wrapped(sentence)
    known = read_json(MACHINE) if MACHINE.exists() else {}
    # A project with stages of a model has litmeter's code, and depends on that; others depend on its version.
    machine = fingerprint(*(() if params.stages else (code_files(DVC_FILE, "comparison"), "litmeter")))
    for kind in params.kinds:
        machine |= kind.facts(params)
    write_json(MACHINE, machine)
    write_json(INPUTS, inputs(params))
    device = resolve_device(params.device, machine["gpu"] is not None)
    said = [
        sentence
        for kind in params.kinds
        for sentence in kind.remarks(params, device, machine, changed=machine != known)
    ]
    with suppress(LitmeterError, OSError):  # before the first run there are no results
        if params.served_digest() and (ahead := change_ahead(*params_on(machine))):
            said.append(ahead)
    return machine, said


def inputs(params: Params) -> dict[str, str]:
    """Digests of what users send, with headers as params.yaml has them, and of ``costs``."""
    sent = params.load.model_dump_json(include={"request_body", "content_type", "headers"})
    sent += params.bodies().digest if params.load.bodies else ""
    found = {"sent": sent, "costs": params.model_dump_json(include={"costs"})}
    return {name: digest(own.encode()) for name, own in found.items()}


def change_ahead(params: Params, device: str) -> str | None:
    """Which configurations changed since the last results, and how long they take.

    None where no row of the last results is kept. Raise LitmeterError or OSError where the model or the
    photos are missing.
    """
    signatures = comparison.signatures_of(params, device, params.bodies())
    last = comparison.read_last()
    _, kept, budget_s = comparison.planned(params, device, signatures, last)
    if last is None or not kept:
        return None
    changed = [name for name, own in signatures.items() if last.signatures.get(name) != own]
    took = last_seconds()
    seconds = budget_s + sum(took.get(f"benchmark {name}", 0.0) for name in changed)
    return f"{', '.join(changed)} changed: about {duration(seconds)}, if nothing else did"


def check_params(params: Params) -> None:
    """Raise ParamsError for a model, folder, file or device that does not exist on this machine."""
    device = resolve_device(params.device, cuda_available())
    from_environment(params.load.headers)
    if params.load.bodies is not None:
        try:
            params.bodies()
        except LoadError as error:
            raise ParamsError(f"load.bodies: {error}") from error
    for kind in params.kinds:
        kind.check_here(params, device)
