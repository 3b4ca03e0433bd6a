"""CSV files whose columns are the fields of a dataclass."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import MISSING, Field, asdict, fields
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any, ClassVar, Protocol, TypeVar, get_args, get_type_hints

from litmeter.system.files import write_csv


class Dataclass(Protocol):
    """Any dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


Row = TypeVar("Row", bound=Dataclass)


def write_rows(path: Path, kind: type[Row], rows: Sequence[Row]) -> None:
    """Write ``rows``, all of them of ``kind``, with its fields as columns; None becomes an empty field."""
    write_csv(path, [asdict(row) for row in rows], [field.name for field in fields(kind)])


def read_rows(path: Path, kind: type[Row]) -> list[Row]:
    """The rows of ``path``, an empty field of an optional column as None.

    Files of earlier code may have more columns, which are ignored, and lack those whose field has a default.

    Raises:
        OSError: the file cannot be read.
        ValueError: a column is missing, or a value is not of its field's type.
    """
    types = _field_types(kind)
    needed = {field.name for field in fields(kind) if field.default is MISSING}
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if not needed <= set(reader.fieldnames or ()):
            raise ValueError(f"{path}: expected the columns {', '.join(types)}")
        rows = list(reader)
    if any(None in row or None in row.values() for row in rows):
        raise ValueError(f"{path}: a row has more or fewer fields than there are columns")
    return [
        kind(**{name: _parse(row[name], value_type) for name, value_type in types.items() if name in row})
        for row in rows
    ]


@cache
def _field_types(kind: type[Any]) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}


def _parse(text: str, kind: Any) -> Any:
    """``text`` as a value of ``kind``: str, int, float or bool, or one of these or None."""
    options = get_args(kind) or (kind,)
    if NoneType in options and text == "":
        return None
    [value_type] = [option for option in options if option is not NoneType]
    if value_type is bool:
        if text not in ("True", "False"):
            raise ValueError(f"expected True or False, got {text!r}")
        return text == "True"
    return value_type(text)
