"""Checks of params.yaml for the classifier, and facts of this machine that its stages depend on."""

from __future__ import annotations

import difflib
import timeit
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from litmeter.classifier.model.card import read_card, sha256
from litmeter.classifier.model.own import files_of_factory, files_of_onnx
from litmeter.classifier.model.precision import check_precision, has_bfloat16
from litmeter.classifier.model.settings import PACKAGE_MODEL, ModelSettings
from litmeter.errors import ModelError, ParamsError
from litmeter.paths import COMPILERS, DOWNLOAD, MODEL, WEIGHTS
from litmeter.system.files import write_json
from litmeter.system.machine import compilers

SECTIONS = ("data", "model", "compile")
WITHOUT_FILE = ("package", "hub", "none")
"""Values of ``model.pretrained`` that name no file."""
GPU_USERS = 64
ON_A_GPU = (
    f"dvc exp run -S 'load.users=[1,8,{GPU_USERS}]' -S comparison.users={GPU_USERS} "
    "-S 'compile.batch_sizes=[1,2,4,8,16,32]' "
    "-S serve.max_batch_size=32 -S experiments.e7_tuned.max_batch_size=32"
)
"""Settings for a GPU of a T4's size."""
SIDE, CHANNELS = 56, 64
"""The input of the timed convolution, as large as in the middle of a model."""


def check(params: Any) -> None:
    """Raise ValueError where sections of params.yaml contradict each other."""
    if missing := set(SECTIONS) - params.model_fields_set:
        raise ValueError(f"{min(missing)}: missing; a classifier needs {', '.join(SECTIONS)}")
    if params.model.name and params.train is None:
        raise ValueError("train: missing; it may be empty only with model.factory and model.onnx")
    for place, serve in _own(params).items():
        if serve.precision == "int8" and not (params.compile.int8_photos and 1 in params.compile.batch_sizes):
            raise ValueError(
                f"{place}.precision: got 'int8'; allowed: full or half, unless "
                "compile.int8_photos is above 0 and compile.batch_sizes has 1"
            )
    if not params.model.onnx:
        return
    if params.train is not None:
        raise ValueError("train: allowed with model.onnx: nothing, as an ONNX file is not trained")
    if 1 not in params.compile.batch_sizes:
        raise ValueError("compile.batch_sizes: 1 is missing, which model.onnx needs")
    for place, serve in _own(params).items():
        if not serve.compiled:
            raise ValueError(f"{place}.compiled: got False; allowed with model.onnx: true")


def _own(params: Any) -> dict[str, Any]:
    """The configurations of the classifier, by their place in params.yaml."""
    return {
        params.section_of(name): serve
        for name, serve in params.configurations().items()
        if serve.kind == "classifier"
    }


def check_files(params: Any, device: str) -> None:
    """Raise ParamsError for a model, folder, file or device that does not exist on this machine."""
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
    for place, serve in _own(params).items():
        check_precision(serve.precision, device, f"{place}.precision")


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
    """Raise ParamsError where timm has no such model; the exported model's name is not looked up."""
    with suppress(ModelError):
        if read_card(MODEL.exported).architecture == name:
            return
    from litmeter.classifier.model.model import timm  # takes seconds

    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"; near it: {', '.join(near)}" if near else ""
        raise ParamsError(f"model.name: got {name!r}; allowed: any model of timm {timm.__version__}{hint}")


def write_facts(params: Any) -> dict[str, Any]:
    """Write hashes of weights and downloaded photos, and what compilers depend on; return other facts."""
    half, downloaded = {"bfloat16": has_bfloat16()}, None
    if params.data.download:
        from litmeter.classifier.data.sources import download  # whose import takes seconds

        downloaded = download()
    write_json(DOWNLOAD, {"sha256": downloaded})
    write_json(WEIGHTS, given_weights(params.model))
    write_json(COMPILERS, compilers() | half)
    return half


def given_weights(model: ModelSettings) -> dict[str, str | None]:
    """SHA-256 of the files that ``model`` names, by key; None for a key without a file."""
    pretrained = None if model.pretrained in (None, *WITHOUT_FILE) else model.pretrained
    files = {"checkpoint": model.checkpoint, "pretrained": pretrained}
    found = {key: sha256(Path(file)) if file else None for key, file in files.items()}
    if model.factory:
        found["factory"] = sha256(*files_of_factory(model.factory))
    if model.onnx:
        found["onnx"] = sha256(*files_of_onnx(Path(model.onnx)))
    return found


def remarks(params: Any, device: str, machine: Mapping[str, Any], *, changed: bool) -> Iterator[str]:
    """Remarks: whether half precision is native to this CPU, if that is news; settings for a GPU."""
    native = machine["bfloat16"]
    emulating = [name for name, serve in params.configurations().items() if serve.native(native) != serve]
    if device == "cpu" and (emulating or changed):
        yield said_of_half(emulating, native, slowdown_by_half())
    if device == "cuda" and max(params.load.users) < GPU_USERS:
        yield f"users and packages of params.yaml are for two cores; for a GPU: {ON_A_GPU}"


def slowdown_by_half() -> float:
    """Time of a convolution in bfloat16 over float32, on one thread; each is the shortest of several."""
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
    """A remark on half precision on this CPU.

    ``emulating`` are configurations that ask for half precision though the CPU has no instructions for it;
    ``slowdown`` is a convolution's time over full precision.
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
