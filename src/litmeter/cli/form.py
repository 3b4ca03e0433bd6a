"""Bodies of forms (multipart/form-data), of fields as curl's --form takes them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator
from urllib3.filepost import encode_multipart_formdata

from litmeter.errors import UsageError
from litmeter.load.bodies import Bodies, files_at

BOUNDARY = "litmeter-0f3e6a5c9b1d47e28a60c4d7f5b2981e"
"""Between fields; always the same, so that the same files give the same bytes."""


def with_absolute_path(field: str) -> str:
    """A field with the absolute path of its file, if it has one."""
    name, _, value = field.partition("=")
    return f"{name}=@{Path(value[1:]).absolute()}" if value.startswith("@") else field


FormField = Annotated[str, AfterValidator(with_absolute_path)]
"""An argument of --form; its path is relative to the folder in which the command is given."""


def form_bodies(fields: Sequence[str]) -> Bodies:
    """The body of a form of ``fields``, NAME=VALUE or NAME=@FILE; of NAME=@FOLDER one for each of its files.

    Raise UsageError for any other text, and for a file that cannot be read.
    """
    choices: list[list[tuple[str, str | tuple[str, bytes]]]] = []
    for field in fields:
        name, equals, value = field.partition("=")
        if not (name and equals):
            raise UsageError(f"--form: expected NAME=VALUE or NAME=@FILE, got {field!r}")
        parts: list[str | tuple[str, bytes]] = [value]
        if value.startswith("@"):
            try:
                parts = [(file.name, file.read_bytes()) for file in files_at(Path(value[1:]))]
            except OSError as error:
                raise UsageError(f"--form {field}: {error.strerror}") from error
        if not parts:
            raise UsageError(f"--form {field}: no file in it")
        choices.append([(name, part) for part in parts])
    encoded = [encode_multipart_formdata(form, BOUNDARY) for form in product(*choices)]
    return Bodies([content for content, _ in encoded], encoded[0][1])
