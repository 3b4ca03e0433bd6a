"""Stage ``machine``: check all of params.yaml, then write what the other stages depend on besides it.

It runs first in every ``dvc repro``, so that a mistake is found before anything is trained. The fingerprint
changes only with what bears on figures; then what measures runs again. The model is compiled again by what
compiles alone, which has a file of its own. The hashes are those of files that params.yaml names and dvc.yaml
cannot, downloaded photos among them; where a content changes, the model is trained again.
"""

from __future__ import annotations

import difflib
import timeit
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from litmeter.errors import LitmeterError, LoadError, ModelError, ParamsError
from litmeter.measure.bodies import bodies_of
from litmeter.model.card import read_card, sha256
from litmeter.model.device import check_precision, has_bfloat16, params_on, resolve_device
from litmeter.model.own import files_of_factory, files_of_onnx
from litmeter.params import PACKAGE_MODEL, ModelSettings, Params, load_params, section_of
from litmeter.paths import COMPILERS, DOWNLOAD, DVC_FILE, MACHINE, MODEL, WEIGHTS, left_out
from litmeter.say.progress import duration, print_wrapped
from litmeter.stages import comparison
from litmeter.stages.order import seconds_file, whole_run
from litmeter.system.files import code_files, read_json, write_json
from litmeter.system.gpu import cuda_available
from litmeter.system.machine import compilers, fingerprint

WITHOUT_FILE = ("package", "hub", "none")
"""Values of ``model.pretrained`` that name no file."""


GPU_USERS = 64
ON_A_GPU = (
    f"dvc exp run -S 'load.users=[1,8,{GPU_USERS}]' -S comparison.users={GPU_USERS} "
    "-S 'compile.batch_sizes=[1,2,4,8,16,32]' "
    "-S serve.max_batch_size=32 -S experiments.e7_tuned.max_batch_size=32"
)
"""What suits a GPU of a T4's size."""


def main() -> tuple[dict[str, Any], list[str]]:
    """Check params.yaml, then write the fingerprint and the hashes.

    Return the machine, and sentences about params.yaml on it and what is ahead.
    """
    params = load_params()
    check_params(params)
    if sentence := left_out(params.configurations()):
        print_wrapped(sentence)
    known = read_json(MACHINE) if MACHINE.exists() else {}
    if not params.has_classifier:
        machine = fingerprint(code_files(DVC_FILE, "comparison"), "litmeter")
    else:  # stages depend on the code of litmeter
        half = {"bfloat16": has_bfloat16()}
        machine, downloaded = fingerprint() | half, None
        if params.data.download:
            from litmeter.data.sources import download  # whose import takes seconds

            downloaded = download()
        write_json(DOWNLOAD, {"sha256": downloaded})
        write_json(WEIGHTS, given_weights(params.model))
        write_json(COMPILERS, compilers() | half)
    write_json(MACHINE, machine)
    said = []
    if params.has_classifier:
        native = machine["bfloat16"]
        halves = [name for name, serve in params.configurations().items() if serve.precision == "half"]
        emulating = [] if native else halves
        device = resolve_device(params.device, machine["gpu"] is not None)
        if device == "cpu" and (emulating or machine != known):
            said.append(said_of_half(emulating, native, slowdown_by_half()))
        if device == "cuda" and max(params.load.users) < GPU_USERS:
            said.append(f"users and packages of params.yaml are for two cores; for a GPU: {ON_A_GPU}")
    with suppress(LitmeterError, OSError):  # before the first run there is nothing that could have changed
        there = MODEL.exported.exists() or not params.has_classifier
        if there and (ahead := change_ahead(*params_on(machine))):
            return machine, [*said, ahead]
    return machine, [*said, *filter(None, [whole_run(params)])]


SIDE, CHANNELS = 56, 64
"""Of the images that a timed convolution takes, as large as in the middle of a model."""


def slowdown_by_half() -> float:
    """Time of a convolution in bfloat16 over that in float32, each the fastest of several, on one thread."""
    import torch  # takes seconds

    def shortest_s(dtype: torch.dtype) -> float:
        layer = torch.nn.Conv2d(CHANNELS, CHANNELS, 3).to(dtype)
        images = torch.rand(1, CHANNELS, SIDE, SIDE).to(dtype)
        with torch.inference_mode():
            return min(timeit.repeat(lambda: layer(images), number=1, repeat=30))

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    slowdown = shortest_s(torch.bfloat16) / shortest_s(torch.float32)
    torch.set_num_threads(threads)
    return slowdown


def said_of_half(emulating: Sequence[str], native: bool, slowdown: float) -> str:
    """What half precision is on this CPU.

    Args:
        emulating: configurations that ask for it though the CPU has no instructions.
        slowdown: time of a convolution over that in full precision. It decides nothing.
    """
    if native:
        text = f"half precision is native: a convolution takes {slowdown:.2f} times as long as in full"
        return text + (", though; do not count on it" if slowdown > 1 else "")
    text = "this CPU has no bfloat16 instructions; `precision: auto` stands for full"
    if emulating:
        text += (
            f". {', '.join(emulating)} emulate{'s' if len(emulating) == 1 else ''} it, about "
            f"{slowdown:.0f} times slower; what is far behind gets a short measurement"
        )
    return text


def change_ahead(params: Params, device: str) -> str | None:
    """What changed since the last results, and how long it takes; None where all is measured.

    Raise LitmeterError or OSError where the model or the photos are not there yet.
    """
    signatures = comparison.signatures_of(params, device, bodies_of(params.load).contents)
    last = comparison.read_last()
    _, kept, budget_s = comparison.planned(params, device, signatures, last)
    if last is None or not kept:
        return None
    changed = [name for name, own in signatures.items() if last.signatures.get(name) != own]
    seconds = sum(read_json(seconds_file(("benchmark", name)))["seconds"] for name in changed)
    return f"{', '.join(changed)} changed: about {duration(budget_s + seconds)}, if nothing else did"


def given_weights(model: ModelSettings) -> dict[str, str | None]:
    """SHA-256 of the files that ``model`` names, by key; None where it names none."""
    pretrained = None if model.pretrained in (None, *WITHOUT_FILE) else model.pretrained
    files = {"checkpoint": model.checkpoint, "pretrained": pretrained}
    found = {key: sha256(Path(file)) if file else None for key, file in files.items()}
    if model.factory:
        found["factory"] = sha256(*files_of_factory(model.factory))
    if model.onnx:
        found["onnx"] = sha256(*files_of_onnx(Path(model.onnx)))
    return found


def check_params(params: Params) -> None:
    """Raise ParamsError for a model, folder, file or device that does not exist on this machine."""
    device = resolve_device(params.device, cuda_available())
    if params.load.bodies is not None:
        try:
            bodies_of(params.load)
        except LoadError as error:
            raise ParamsError(f"load.bodies: {error}") from error
    if not params.has_classifier:
        return
    model = params.model
    if model.name:
        check_model_name(model.name)
        check_pretrained(model.name, str(model.pretrained))
    elif model.factory:
        files_of_factory(model.factory)
    elif not Path(str(model.onnx)).is_file():
        raise ParamsError(f"model.onnx: got {model.onnx!r}; allowed: an existing file")
    elif device != "cpu":
        raise ParamsError(f"device: got {params.device!r}, {device} here; allowed with model.onnx: cpu")
    if not params.data.download and not Path(params.data.folder).is_dir():
        raise ParamsError(f"data.folder: got {params.data.folder!r}; allowed: an existing folder")
    if model.checkpoint and not Path(model.checkpoint).is_file():
        raise ParamsError(f"model.checkpoint: got {model.checkpoint!r}; allowed: null or a file")
    for name, serve in params.configurations().items():
        check_precision(serve.precision, device, f"{section_of(name)}.precision")


def check_pretrained(name: str, pretrained: str) -> None:
    """Raise ParamsError where there are no such weights for timm's model ``name``."""
    if pretrained == "package" and name != PACKAGE_MODEL:
        raise ParamsError(
            f"model.pretrained: got 'package', which has weights of {PACKAGE_MODEL} only, for "
            f"{name}; allowed: hub, none, or the path of a state dict"
        )
    if pretrained not in WITHOUT_FILE and not Path(pretrained).is_file():
        allowed = "package, hub, none, or an existing file"
        raise ParamsError(f"model.pretrained: got {pretrained!r}; allowed: {allowed}")


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
