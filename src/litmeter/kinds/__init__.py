"""What can be measured: each kind is a class in a file of its own, and a line in this table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Discriminator, Tag

from litmeter.kinds.classifier import Classifier
from litmeter.kinds.command import Command
from litmeter.kinds.configuration import Configuration
from litmeter.kinds.lit_api import LitApi
from litmeter.kinds.url import Url
from litmeter.settings import TAG

KEYS: Mapping[str, type[Configuration]] = {"api": LitApi, "command": Command, "url": Url, "": Classifier}
"""Each kind by the key that only its configurations have; the last has none."""
TYPED = (Url, LitApi, Command)
"""Those that a command line may name, in the order in which they recognise it."""
KINDS: Mapping[str, type[Configuration]] = {kind.kind: kind for kind in KEYS.values()}


def kind_of(content: Any) -> type[Configuration]:
    """The kind of a configuration's keys, or of a configuration."""
    if isinstance(content, Configuration):
        return type(content)
    given = content if isinstance(content, Mapping) else {}
    return next(kind for key, kind in KEYS.items() if key in given or not key)


AnyConfiguration = Annotated[
    Annotated[Classifier, Tag(f"{TAG}classifier")]
    | Annotated[LitApi, Tag(f"{TAG}api")]
    | Annotated[Command, Tag(f"{TAG}command")]
    | Annotated[Url, Tag(f"{TAG}url")],
    Discriminator(lambda content: TAG + kind_of(content).kind),
]
"""A section ``serve`` of params.yaml, or an experiment."""


def read(content: Any) -> Configuration:
    """The configuration with these keys; raise ValidationError."""
    return kind_of(content).model_validate(content)
