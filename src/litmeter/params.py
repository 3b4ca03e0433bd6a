"""All of params.yaml: its sections, and what must hold between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SerializeAsAny, ValidationError, model_validator

from litmeter.classifier.data.settings import DataSettings
from litmeter.classifier.model.settings import CompileSettings, ModelSettings
from litmeter.classifier.training.settings import TrainSettings
from litmeter.errors import LoadError, ParamsError
from litmeter.kinds.configuration import Configuration, Host, TuneSettings
from litmeter.kinds.costs import Costs
from litmeter.kinds.registry import KINDS, kind_of
from litmeter.load.bodies import Bodies, from_environment, read_bodies
from litmeter.load.settings import LoadSettings
from litmeter.paths import DVC_FILE
from litmeter.settings import (
    CANDIDATE,
    PARAMS_FILE,
    Count,
    Device,
    Miss,
    OneOrMore,
    Positive,
    Section,
    Seed,
    checked,
    explain,
    read_sections,
)
from litmeter.stats.records import Limits
from litmeter.system.cores import whole_cores
from litmeter.system.device import resolve_device
from litmeter.system.dvc_file import code_digest

RESERVED = {CANDIDATE: "the serve section", "before": "what the serve section was", "comparison": "the stage"}
"""Names that no experiment may take: results have them."""


class ObjectiveSettings(Section):
    """What users must get, and how `make capacity` searches the highest rate at which they do."""

    slo_ms: Positive | None = Field(None, description="how long a request may take")
    first_ms: Positive | None = Field(None, description="how long its first piece may take, of a stream")
    piece_ms: Positive | None = Field(
        None, description="how long its further pieces, or tokens, may take in the mean"
    )
    miss: Miss
    configurations: OneOrMore[str] = Field(description="those whose capacity `make capacity` measures")
    tolerance: Annotated[float, Field(ge=0.01, le=0.5)] = Field(
        description="of the capacity, share by which the interval of a resolved one reaches to either side"
    )
    max_s: Positive = Field(description="how long the search of one capacity takes")
    seed: Seed = Field(description="seed of the arrivals")

    @model_validator(mode="after")
    def _check_limits(self) -> ObjectiveSettings:
        if not self.limits.text:
            raise ValueError("expected slo_ms, first_ms or piece_ms, at least one of them")
        return self

    @property
    def limits(self) -> Limits:
        """What a request must keep to."""
        return Limits(self.slo_ms, self.first_ms, self.piece_ms)


class ComparisonSettings(Section):
    """How all configurations are compared: served at once, loaded in turn."""

    reference: str = Field(description="name of the configuration that ratios are taken to")
    users: Count = Field(description="requests in flight at once, the same for all configurations")
    seconds: Positive = Field(description="budget, the servers' starts included")


ExperimentName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=40)]


def _read(place: str, section: type[Section], content: Any) -> Section:
    """A section; raise ValueError with its place for what is none."""
    try:
        return section.model_validate(content)
    except ValidationError as error:
        said = explain(error, section)
        raise ValueError(f"{place}{':' if said.startswith(': ') else '.'}{said.removeprefix(':')}") from None


def _read_configuration(place: str, keys: Any) -> Section:
    """The same of a configuration, by its kind, of which an absent key may be null."""
    if isinstance(keys, Mapping):
        kinds = {kind.key for kind in KINDS}
        keys = {key: value for key, value in keys.items() if value is not None or key not in kinds}
    return _read(place, kind_of(keys), keys)


def _absent(section: type[Section]) -> Any:
    """The default of a section that may be absent: one without the values that must be given."""
    return Field(default_factory=section.model_construct)


class Params(Section):
    """All of params.yaml.

    A section may be absent, and is empty then, if no served kind needs it; ``train`` also where a model of
    one's own is taken as it is. Without ``serve`` there is no candidate.
    """

    device: Device = Field("auto", description="what trains and serves the model")
    data: DataSettings = _absent(DataSettings)
    model: ModelSettings = _absent(ModelSettings)
    train: TrainSettings | None = None
    serve: SerializeAsAny[Configuration] = Field(default_factory=KINDS[-1])
    experiments: Annotated[dict[ExperimentName, SerializeAsAny[Configuration]], Field(min_length=1)]
    compile: CompileSettings = _absent(CompileSettings)
    load: LoadSettings
    objective: ObjectiveSettings
    comparison: ComparisonSettings
    tune: SerializeAsAny[TuneSettings]
    costs: dict[str, Costs] = Field({}, description="of an item, by configuration, where no method says them")

    @model_validator(mode="before")
    @classmethod
    def _read_kinds(cls, content: Any) -> Any:
        """Read configurations by their kinds, and ``tune`` by that of ``serve``, if it can be searched."""
        if not isinstance(content, Mapping):
            return content
        found = dict(content)
        if isinstance(own := content.get("serve"), Mapping):
            found["serve"] = _read_configuration("serve", own)
        if isinstance(experiments := content.get("experiments"), Mapping):
            found["experiments"] = {
                name: _read_configuration(f"experiments.{name}", keys) for name, keys in experiments.items()
            }
        if isinstance(costs := content.get("costs"), Mapping):
            found["costs"] = {name: _read(f"costs.{name}", Costs, own) for name, own in costs.items()}
        kind = type(own) if isinstance(own, Configuration) else kind_of(own)
        if isinstance(given := content.get("tune", {}), Mapping) and not kind.knobs:
            others = {key for one in KINDS for key in one.knobs}  # as of the kind that serve: was
            given = {key: value for key, value in given.items() if key not in others}
        if not isinstance(given, TuneSettings):
            found["tune"] = _read("tune", kind.tune_section, given)
        return found

    @model_validator(mode="after")
    def _check(self) -> Params:
        for kind in self.kinds:
            kind.check(self)
        if self.load.bodies is None and not any(kind.brings_bodies for kind in self.kinds):
            raise ValueError("load.bodies: missing; it must be given where no classifier is served")
        if taken := RESERVED.keys() & self.experiments.keys():
            name = min(taken)
            raise ValueError(f"experiments.{name}: this name belongs to {RESERVED[name]}")
        named = {
            "comparison.reference": [self.comparison.reference],
            "objective.configurations": self.objective.configurations,
            "costs": self.costs,
        }
        known = self.configurations()
        for key, name in ((key, name) for key, names in named.items() for name in names):
            if name not in known:
                raise ValueError(f"{key}: got {name!r}; allowed: {', '.join(known)}")
        return self

    @property
    def kinds(self) -> list[type[Configuration]]:
        """Those that are served, each once."""
        return list(dict.fromkeys(type(one) for one in self.configurations().values()))

    @property
    def stages(self) -> set[str]:
        """Stages that there are besides those that measure."""
        return {stage for kind in self.kinds for stage in kind.stages}

    def on(self, machine: Host, ask_native: Callable[[], bool]) -> Params:
        """The same with what ``auto`` stands for on ``machine``; see ``Configuration.resolved``."""
        found = {name: one.resolved(machine, ask_native) for name, one in self.configurations().items()}
        candidate = {"serve": found.pop(CANDIDATE)} if CANDIDATE in found else {}
        return self.model_copy(update={**candidate, "experiments": found})

    def configurations(self) -> dict[str, Configuration]:
        """Every configuration that is benchmarked, by name: the experiments, then the candidate."""
        candidate = {CANDIDATE: self.serve} if "serve" in self.model_fields_set else {}
        return {**self.experiments, **candidate}

    def configuration(self, name: str) -> Configuration:
        """The configuration called ``name``; raise ParamsError where there is none."""
        known = self.configurations()
        if name not in known:
            raise ParamsError(f"no experiment {name!r} in {PARAMS_FILE}; there are: {', '.join(known)}")
        return known[name]

    @staticmethod
    def section_of(name: str) -> str:
        """The key in params.yaml under which the settings of the configuration ``name`` stand."""
        return "serve" if name == CANDIDATE else f"experiments.{name}"

    def bodies(self) -> Bodies:
        """What users send: what ``load`` names, else what a kind has of its own; raise LoadError without."""
        headers = from_environment(self.load.headers)
        if self.load.bodies is not None:
            return read_bodies(Path(self.load.bodies), self.load.content_type)._replace(headers=headers)
        for kind in self.kinds:
            if (own := kind.own_bodies(self.load)) is not None:
                return own._replace(headers=headers)
        raise LoadError("load.bodies: missing")

    def served_digest(self) -> str | None:
        """Hash of the model that stages make; without such stages, of the files on which figures depend.

        None where these are not there: the model in a fresh clone, dvc.yaml in a revision.
        """
        for kind in self.kinds:
            if kind.stages:
                return kind.model_digest()
        return code_digest(DVC_FILE, "comparison") if DVC_FILE.exists() else None

    def served_card(self) -> dict[str, Any] | None:
        """What describes that model; None without such stages. Raise ModelError where it is missing."""
        return next((kind.model_card() for kind in self.kinds if kind.stages), None)


def changed_settings(before: Configuration, after: Configuration) -> dict[str, tuple[Any, Any]]:
    """Each key that differs, with its values before and after, as JSON has them."""
    old, new = before.model_dump(mode="json"), after.model_dump(mode="json")
    return {key: (old.get(key), new.get(key)) for key in old | new if old.get(key) != new.get(key)}


def load_params(path: Path = PARAMS_FILE) -> Params:
    """Read and check all of ``path``; raise ParamsError: the first wrong key, its value, what is allowed."""
    return checked(Params, read_sections(path), f"{path}: ")


def params_on(machine: Mapping[str, Any]) -> tuple[Params, str]:
    """params.yaml with what ``auto`` stands for on a machine (metrics/machine.json), and its device."""
    params = load_params()
    device = resolve_device(params.device, machine["gpu"] is not None)
    cores = max(1, int(machine.get("cores", 1)))  # the facts for compilers have none
    return params.on(Host(device, cores), lambda: half_is_native(machine, device)), device


def half_is_native(machine: Mapping[str, Any], device: str) -> bool:
    """Whether ``device`` of a machine (metrics/machine.json) has instructions for half precision."""
    return device != "cpu" or bool(machine.get("bfloat16"))


def params_here(params: Params | None = None) -> tuple[Params, str]:
    """``params_on`` this machine, where metrics/machine.json may be missing; also of other ``params``."""
    from litmeter.classifier.model.precision import has_bfloat16
    from litmeter.system.gpu import cuda_available  # whose imports take time

    params = load_params() if params is None else params
    device = resolve_device(params.device, cuda_available())
    return params.on(Host(device, whole_cores()), lambda: device != "cpu" or has_bfloat16()), device
