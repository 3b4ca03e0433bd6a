"""Base of params.yaml's sections, typed and frozen; one line names a wrong key or value."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

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
Device = Literal["auto", "cpu", "cuda"]

PARAMS_FILE = Path("params.yaml")
CANDIDATE = "candidate"
"""Name of the section ``serve`` in benchmarks."""


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, types are not converted, instances are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ParamsLoader(yaml.SafeLoader):
    """Reads ``1e-5`` as a number, as YAML 1.2 and DVC do (`dvc exp run -S` writes ``1e-05``)."""


ParamsLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def read_sections(path: Path = PARAMS_FILE) -> dict[str, Any]:
    """All sections of ``path``, unchecked; raise ParamsError for an unreadable file."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), ParamsLoader)  # noqa: S506 -- a SafeLoader
    except OSError as error:
        raise ParamsError(f"{path}: cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ParamsError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ParamsError(f"{path}: expected sections, got {type(content).__name__}")
    return content


S = TypeVar("S", bound=Section)


def read_only(kind: type[S]) -> S:
    """The sections of params.yaml that are fields of ``kind``, for a stage that reads only these."""
    content = read_sections()
    return checked(
        kind, {name: content[name] for name in kind.model_fields if name in content}, f"{PARAMS_FILE}: "
    )


def checked(kind: type[S], content: Any, before: str) -> S:
    """``content`` as a ``kind``; raise ParamsError with ``before`` and the text of ``explain``."""
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise ParamsError(f"{before}{explain(error, kind)}") from None


WITHOUT_EFFECT = {"fast_queue": "LitServe 0.2.8 to 0.2.19 take this and do nothing with it; remove it"}
"""Messages for settings that users may know from LitServe."""


def explain(error: ValidationError, kind: type[BaseModel] = BaseModel) -> str:
    """The first of pydantic's errors in one line: key, value, and what a ``kind`` allows."""
    first = error.errors(include_url=False)[0]
    names = [str(name) for name in first["loc"] if name != "[key]"]
    key = ".".join(names)
    message = first["msg"].removeprefix("Value error, ").replace("Input should be", "allowed:")
    if first["type"] == "extra_forbidden":
        allowed = list(_section_at(kind, names[:-1]).model_fields)
        return f"{key}: {WITHOUT_EFFECT.get(names[-1]) or unknown_key(names[-1], allowed)}"
    if first["type"] == "missing":
        return f"{key}: missing; it must be given"
    if first["type"] == "value_error":
        return f"{key}: {message}" if key else message
    if first["type"] == "string_pattern_mismatch" and "[key]" not in first["loc"]:
        message = f"allowed: {_section_at(kind, names[:-1]).model_fields[names[-1]].description}"
    if first["type"] == "too_short" and (fewest := re.search(r"at least \d+ items?", message)):
        message = f"allowed: {fewest[0]}"
    return f"{key}: got {first['input']!r}; {message}"


def unknown_key(key: str, allowed: Sequence[str]) -> str:
    """The message for a key that is not allowed."""
    near = difflib.get_close_matches(key, allowed, n=1)
    meant = f", did you mean {near[0]}?" if near else ";"
    return f"unknown key{meant} allowed: {', '.join(allowed)}"


def _section_at(section: type[BaseModel], parents: list[str]) -> type[BaseModel]:
    """The section at the path ``parents`` below ``section``."""
    for name in parents:
        annotation = section.model_fields[name].annotation
        kinds = get_args(annotation) or (annotation,)  # a section that may be null has two
        section = next(kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel))
    return section
