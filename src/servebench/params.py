"""params.yaml, one section per settings class: typed, frozen, an unknown key is an error."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from servebench.errors import ParamsError

PARAMS_FILE = Path("params.yaml")
CANDIDATE = "candidate"
"""Name under which the ``serve`` section is benchmarked; no experiment may take it."""

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Counts = Annotated[tuple[Annotated[int, Field(ge=1, strict=True)], ...], Field(min_length=1, strict=False)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class ParamsLoader(yaml.SafeLoader):
    """Reads ``1e-5`` as a number, by YAML 1.2, as DVC does (`dvc exp run -S` writes ``1e-05``)."""


ParamsLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, types are not converted, instances are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class DataSettings(Section):
    """Which photographs, and how they are split."""

    folder: str = Field(description="Oxford-IIIT Pet as torchvision lays it out, or class folders")
    download: bool = Field(description="take all 7,349 photos of Oxford-IIIT Pet instead (0.8 GB)")
    task: Literal["species", "breed"] = Field(description="cat/dog, or the 37 breeds")
    val_fraction: Fraction = Field(description="share of the training photos kept for validation")
    test_fraction: Fraction = Field(description="share kept for testing, where no split is given")
    seed: Seed = Field(description="seed of the splits")


class ModelSettings(Section):
    """Which timm model, and where its weights come from."""

    name: str = Field(description="any model that timm can create")
    pretrained: str = Field(description="package, hub, none, or the path of a state dict")
    image_size: Annotated[int, Field(ge=32, le=1024)] = Field(description="side in pixels")
    checkpoint: str | None = Field(description="an existing checkpoint: no fitting, only testing")


class TrainSettings(Section):
    """How the classifier is fine-tuned."""

    epochs: Count = Field(description="passes over the training photos")
    batch_size: Count = Field(description="photos per optimiser step")
    learning_rate: Positive = Field(description="AdamW's rate for the backbone")
    head_learning_rate_factor: Positive = Field(description="the classifier layer learns faster")
    weight_decay: Annotated[float, Field(ge=0)] = Field(description="AdamW's weight decay")
    frozen_share: Annotated[float, Field(ge=0, lt=1)] = Field(
        description="share of the layers, from the input on, that keep their pretrained weights"
    )
    num_workers: Annotated[int, Field(ge=0)] = Field(description="processes that decode photos")
    seed: Seed = Field(description="seed of weights, order and augmentation")


class ServeSettings(Section):
    """One serving configuration. The defaults are LitServe's own."""

    precision: Literal["full", "half"] = Field(
        "full", description="float32, or float16 on a GPU and bfloat16 on a CPU"
    )
    max_batch_size: Count = Field(1, description="requests that one batch may hold")
    batch_timeout_s: Seconds = Field(0.0, description="how long a batch waits to fill")
    workers_per_device: Count = Field(1, description="processes that hold a copy of the model")
    threads_per_worker: Count | None = Field(
        None, description="torch's threads on a CPU; absent: as many as there are cores"
    )
    transport: Literal["litserve", "direct"] = Field(
        "litserve", description="LitServe's queues, or a socket from the HTTP process to the workers"
    )
    preprocess: Literal["timm", "torchvision"] = Field(
        "timm", description="timm's transform on PIL images, or JPEGs decoded and resized by torchvision"
    )
    compiled: bool = Field(
        False, description="the model compiled for this machine (stage compile) instead of timm's modules"
    )
    keep_freed_memory: bool = Field(
        False, description="glibc keeps freed memory for reuse instead of returning it to the kernel"
    )
    max_queue: Count = Field(
        1024, description="requests in flight beyond which the direct transport refuses more"
    )
    max_queue_mib: Count = Field(
        128, description="bytes of their bodies together, beyond which the direct transport refuses more"
    )
    max_megapixels: Annotated[int, Field(ge=1, le=500)] = Field(
        50, description="pixels of an image, above which it is refused before it is decoded"
    )
    worker_timeout_s: Positive = Field(
        30.0, description="a worker that has had a batch for longer hangs: it is killed and replaced (direct)"
    )
    drain_s: Seconds = Field(
        10.0, description="how long a server that is told to stop may take to finish what it has accepted"
    )

    @model_validator(mode="after")
    def _check(self) -> ServeSettings:
        if self.compiled and self.threads_per_worker not in (None, 1):
            raise ValueError(
                f"threads_per_worker ({self.threads_per_worker}): allowed with compiled: 1, on which it runs"
            )
        if self.compiled and self.preprocess != "torchvision":
            raise ValueError(
                "preprocess ('timm'): allowed with compiled: 'torchvision', whose pixels it takes"
            )
        return self


class CompileSettings(Section):
    """What the model is compiled for, in both precisions."""

    batch_sizes: Annotated[tuple[Annotated[int, Field(ge=1, strict=True)], ...], Field(strict=False)] = Field(
        description="one package for each; batches of other sizes are split into these; empty: no compiling"
    )


class LoadSettings(Section):
    """How the server is loaded; the same for every experiment."""

    users: Counts = Field(description="concurrency levels: requests in flight at once")
    requests: Count = Field(description="answers in three windows of a level, at least")
    min_s: Positive = Field(description="seconds of three windows, at least")
    max_s: Positive = Field(description="seconds of three windows, at most")
    warmup_s: Seconds = Field(description="seconds of load thrown away before each level")
    timeout_s: Positive = Field(description="a request without an answer by then has timed out")
    request_body: Literal["json", "image"] = Field(
        description="what every user sends, image files or base64 in JSON; servers take both"
    )
    seed: Seed = Field(description="seed of the order in which users send the photos")

    @model_validator(mode="after")
    def _check(self) -> LoadSettings:
        if self.min_s > self.max_s:
            raise ValueError(f"min_s ({self.min_s}) is above max_s ({self.max_s})")
        if len(set(self.users)) != len(self.users):
            raise ValueError("users names a level twice")
        return self


class ObjectiveSettings(Section):
    """What users must get, and how `make capacity` searches the highest rate at which they do."""

    slo_ms: Positive = Field(description="how long a request may take")
    miss: Annotated[float, Field(gt=0, le=0.5)] = Field(
        description="share of the requests that may take longer or fail"
    )
    configurations: Annotated[tuple[str, ...], Field(min_length=1, strict=False)] = Field(
        description="names of the configurations whose capacity `make capacity` measures"
    )
    tolerance: Annotated[float, Field(ge=0.01, le=0.5)] = Field(
        description="of the capacity, share by which the interval may reach to either side"
    )
    probe_requests: Annotated[int, Field(ge=100)] = Field(description="requests due in a probe")
    max_s: Positive = Field(description="budget per configuration, however far the search has come")
    seed: Seed = Field(description="seed of the arrivals")


class ComparisonSettings(Section):
    """How all configurations are compared: served at once, loaded in turn."""

    reference: str = Field(description="name of the configuration that ratios are taken to")
    users: Counts = Field(description="requests in flight at once, the same for all configurations")
    seconds: Positive = Field(description="budget, the servers' starts included")


class BaselineSettings(Section):
    """How a configuration is measured in-process, without a server."""

    batch_sizes: Counts = Field(description="images per forward pass")
    seconds: Positive = Field(description="measured per batch size")


ExperimentName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=40)]


class Params(Section):
    """All of params.yaml."""

    device: Literal["auto", "cpu", "cuda"] = Field(description="what trains and serves the model")
    data: DataSettings
    model: ModelSettings
    train: TrainSettings
    serve: ServeSettings
    experiments: Annotated[dict[ExperimentName, ServeSettings], Field(min_length=1)]
    compile: CompileSettings
    load: LoadSettings
    objective: ObjectiveSettings
    comparison: ComparisonSettings
    baseline: BaselineSettings

    @model_validator(mode="after")
    def _check(self) -> Params:
        if CANDIDATE in self.experiments:
            raise ValueError(f"experiments.{CANDIDATE}: this name belongs to the serve section")
        known = self.configurations()
        if self.comparison.reference not in known:
            raise ValueError(
                f"comparison.reference: got {self.comparison.reference!r}; allowed: {', '.join(known)}"
            )
        for name in self.objective.configurations:
            if name not in known:
                raise ValueError(f"objective.configurations: got {name!r}; allowed: {', '.join(known)}")
        return self

    def configurations(self) -> dict[str, ServeSettings]:
        """Every configuration that is benchmarked, by name: the experiments, then the candidate."""
        return {**self.experiments, CANDIDATE: self.serve}

    def configuration(self, name: str) -> ServeSettings:
        """The configuration called ``name``.

        Raises:
            ParamsError: there is none.
        """
        known = self.configurations()
        if name not in known:
            raise ParamsError(f"no experiment {name!r} in {PARAMS_FILE}; there are: {', '.join(known)}")
        return known[name]


def load_params(path: Path = PARAMS_FILE) -> Params:
    """Read and check the whole of ``path``.

    Raises:
        ParamsError: naming the first wrong key, what came, and what is allowed.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), ParamsLoader)  # noqa: S506 -- a SafeLoader
    except OSError as error:
        raise ParamsError(f"{path}: cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ParamsError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ParamsError(f"{path}: expected sections, got {type(content).__name__}")
    try:
        return Params.model_validate(content)
    except ValidationError as error:
        raise ParamsError(f"{path}: {_explain(error)}") from None


def _explain(error: ValidationError) -> str:
    """The first of pydantic's errors in one line: key, value, and what is allowed."""
    first = error.errors(include_url=False)[0]
    names = [str(name) for name in first["loc"] if name != "[key]"]
    key = ".".join(names)
    message = first["msg"].removeprefix("Value error, ").replace("Input should be", "allowed:")
    if first["type"] == "extra_forbidden":
        siblings = _allowed_keys(names[:-1])
        return f"{key}: unknown key; allowed: {', '.join(siblings)}"
    if first["type"] == "missing":
        return f"{key}: missing; it must be given"
    if first["type"] == "value_error":
        return f"{key}: {message}" if key else message
    return f"{key}: got {first['input']!r}; {message}"


def _allowed_keys(parents: list[str]) -> list[str]:
    """Keys of the section at the path ``parents``."""
    section: type[BaseModel] = Params
    for name in parents:
        if name == "experiments":
            return list(ServeSettings.model_fields)
        annotation = section.model_fields[name].annotation
        assert isinstance(annotation, type)
        section = annotation
    return list(section.model_fields)
