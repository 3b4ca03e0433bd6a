"""The table of all kinds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from litmeter.kinds.classifier import Classifier
from litmeter.kinds.command import Command
from litmeter.kinds.configuration import Configuration
from litmeter.kinds.lit_api import LitApi
from litmeter.kinds.script import Script
from litmeter.kinds.url import Url

KINDS: tuple[type[Configuration], ...] = (Url, LitApi, Script, Command, Classifier)
"""The first that recognises a server on a command line takes it. The last needs no key in params.yaml."""


def kind_of(keys: Any) -> type[Configuration]:
    """The kind of a configuration with these keys; a key with null counts as absent."""
    given = keys if isinstance(keys, Mapping) else {}
    return next((kind for kind in KINDS if given.get(kind.key) is not None), KINDS[-1])


def read(keys: Any) -> Configuration:
    """The configuration with these keys; raise ValidationError."""
    return kind_of(keys).model_validate(keys)
