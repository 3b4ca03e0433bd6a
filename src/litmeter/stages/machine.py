"""Stage ``machine``: check all of params.yaml, then write what the other stages depend on besides it.

It runs first in every ``dvc repro``, so that a mistake is found before anything is trained. The fingerprint
changes only with hardware or libraries; then what measures runs again. The hashes are those of files that
params.yaml names and dvc.yaml cannot; where a content changes, the model is trained again.
"""

from __future__ import annotations

import difflib
from contextlib import suppress
from pathlib import Path

from litmeter.errors import ModelError, ParamsError
from litmeter.model.card import read_card, sha256
from litmeter.model.device import check_precision, resolve_device
from litmeter.params import PACKAGE_MODEL, ModelSettings, Params, load_params, section_of
from litmeter.paths import MACHINE, MODEL, WEIGHTS, check_no_orphans
from litmeter.stages.order import whole_run
from litmeter.system.files import write_json
from litmeter.system.machine import cuda_available, describe_machine, fingerprint
from litmeter.system.progress import print_wrapped

WITHOUT_FILE = ("package", "hub", "none")
"""Values of ``model.pretrained`` that name no file."""


def main() -> None:
    """Check params.yaml, then write the fingerprint and the hashes."""
    params = load_params()
    check_no_orphans(params.configurations())
    check_params(params)
    machine = fingerprint()
    write_json(MACHINE, machine)
    write_json(WEIGHTS, given_weights(params.model))
    print_wrapped(describe_machine(machine))
    if sentence := whole_run(params):
        print_wrapped(sentence)


def given_weights(model: ModelSettings) -> dict[str, str | None]:
    """SHA-256 of the files that ``model`` names, by key; None where it names none."""
    pretrained = None if model.pretrained in WITHOUT_FILE else model.pretrained
    files = {"checkpoint": model.checkpoint, "pretrained": pretrained}
    return {key: sha256(Path(file)) if file else None for key, file in files.items()}


def check_params(params: Params) -> None:
    """Raise ParamsError for a model, folder, file or device that does not exist on this machine."""
    model, pretrained = params.model, params.model.pretrained
    check_model_name(model.name)
    if not params.data.download and not Path(params.data.folder).is_dir():
        raise ParamsError(f"data.folder: got {params.data.folder!r}; allowed: an existing folder")
    if model.checkpoint and not Path(model.checkpoint).is_file():
        raise ParamsError(f"model.checkpoint: got {model.checkpoint!r}; allowed: null or a file")
    if pretrained == "package" and model.name != PACKAGE_MODEL:
        raise ParamsError(
            f"model.pretrained: got 'package', which has weights of {PACKAGE_MODEL} only, for "
            f"{model.name}; allowed: hub, none, or the path of a state dict"
        )
    if pretrained not in WITHOUT_FILE and not Path(pretrained).is_file():
        allowed = "package, hub, none, or an existing file"
        raise ParamsError(f"model.pretrained: got {pretrained!r}; allowed: {allowed}")
    device = resolve_device(params.device, cuda_available())
    for name, serve in params.configurations().items():
        check_precision(serve.precision, device, f"{section_of(name)}.precision")


def check_model_name(name: str) -> None:
    """Raise ParamsError where timm has no such model; the one that is exported is not looked up."""
    with suppress(ModelError):
        if read_card(MODEL.exported).architecture == name:
            return
    from litmeter.model.model import timm  # takes seconds

    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"; near it: {', '.join(near)}" if near else ""
        raise ParamsError(f"model.name: got {name!r}; allowed: any model of timm {timm.__version__}{hint}")
