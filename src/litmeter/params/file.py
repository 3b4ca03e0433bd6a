"""The whole of params.yaml, and how it is read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from litmeter.errors import ParamsError
from litmeter.params.sections import (
    ComparisonSettings,
    CompileSettings,
    DataSettings,
    LoadSettings,
    ModelSettings,
    ObjectiveSettings,
    Section,
    ServeSettings,
    TrainSettings,
    TuneSettings,
)

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
    tune: TuneSettings

    @model_validator(mode="after")
    def _check(self) -> Params:
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


def section_of(name: str) -> str:
    """The key in params.yaml under which the settings of the configuration ``name`` stand."""
    return "serve" if name == CANDIDATE else f"experiments.{name}"


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
        raise ParamsError(f"{path}: {explain(error)}") from None


def explain(error: ValidationError) -> str:
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
    if first["type"] == "too_short" and (fewest := re.search(r"at least \d+ items?", message)):
        message = f"allowed: {fewest[0]}"
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
