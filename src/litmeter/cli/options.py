"""Options of commands: keys of params.yaml, defaults for a server of one's own, and what goes together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, TypeVar

from cyclopts import Parameter
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, create_model

from litmeter.errors import UsageError
from litmeter.load.settings import LoadSettings
from litmeter.params import ObjectiveSettings
from litmeter.settings import Section

S = TypeVar("S", bound=Section)


def options(shown: Mapping[str, Any], **hidden: Any) -> Callable[[type[S]], type[S]]:
    """Make the fields ``shown`` of a section of params.yaml options, with these defaults.

    The other fields have no option; ``hidden`` are defaults of those that the section itself gives none.
    """

    def decorate(section: type[S]) -> type[S]:
        fields: dict[str, Any] = {}
        for name, field in section.model_fields.items():
            kind: Any = field.rebuild_annotation()
            kind = Annotated[kind, BeforeValidator(items), Parameter(parse=name in shown)]
            default = {**shown, **hidden}.get(name, field.default)
            fields[name] = (kind, Field(default, description=field.description))
        made = create_model(section.__name__, __base__=section, __module__=section.__module__, **fields)
        return Parameter(name="*")(made)

    return decorate


def items(given: Any) -> Any:
    """The items of a list that is typed as ``1,8``; any other value as it is."""
    if not isinstance(given, list):
        return given
    parts = [part.strip() for text in given for part in str(text).split(",")]
    return [int(part) if part.isdecimal() else part for part in parts]


@options(
    {"users": (1, 8), "requests": 130, "warmup_s": 0.5, "seed": 42},
    min_s=2.5,
    max_s=4.0,
    timeout_s=30.0,
    request_body="json",
)
class LoadOptions(LoadSettings):
    """What is sent how often."""

    model_config = ConfigDict(strict=False)


@options(
    {"slo_ms": 100.0, "first_ms": None, "piece_ms": None, "miss": 0.05, "tolerance": 0.1, "seed": 42},
    configurations=("any",),
    max_s=240.0,
)
class ObjectiveOptions(ObjectiveSettings):
    """What users must get, and how the highest rate at which they get it is searched."""

    model_config = ConfigDict(strict=False)


LOAD, OBJECTIVE = LoadOptions.model_validate({}), ObjectiveOptions.model_validate({})


def given_of(options: BaseModel) -> set[str]:
    """The options that were given, as they are typed."""
    return {f"--{name.replace('_', '-')}" for name in options.model_fields_set}


def check_together(given: set[str], rules: Sequence[tuple[str, str, Sequence[str]]]) -> None:
    """Raise UsageError where the ``rules`` do not allow the options ``given`` together."""
    for option, word, others in rules:
        if option in given and given.isdisjoint(others) == (word == "only"):
            raise UsageError(f"{option}: {word} together with {' or '.join(others)}")
