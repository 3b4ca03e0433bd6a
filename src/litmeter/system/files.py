"""Files and folders written atomically: JSON, and CSV whose columns are a dataclass's fields."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import MISSING, Field, fields
from itertools import chain
from pathlib import Path
from types import NoneType
from typing import Any, ClassVar, Protocol, TypeVar, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, TypeAdapter

from litmeter.errors import LitmeterError, ReportError, StorageError, UsageError, storage_error
from litmeter.system.signals import defer_signals
from litmeter.system.temporary import TEMPORARY_SUFFIX, claim


class Dataclass(Protocol):
    """Any dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


Row = TypeVar("Row", bound=Dataclass)
_transaction: ContextVar[tuple[ExitStack, list[tuple[Path, Path]]] | None] = ContextVar(
    "transaction", default=None
)
"""Clean-up of the enclosing ``all_or_nothing``, and the (temporary, final) paths written so far."""


class Record(BaseModel):
    """Base of JSON files' contents: unknown keys are errors, instances are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` when the block succeeds.

    A reader of ``path`` sees the old file or the whole new file. Raise StorageError.
    """
    with _storage_errors(path):
        if (transaction := _transaction.get()) is None:
            with _temporary_file(path) as temporary:
                yield temporary
                os.replace(temporary, path)
        else:
            cleanup, written = transaction
            temporary = cleanup.enter_context(_temporary_file(path))
            yield temporary
            written.append((temporary, path))


@contextmanager
def all_or_nothing() -> Iterator[None]:
    """Replace all files that the block writes when it succeeds; else none of them."""
    with ExitStack() as cleanup:
        written: list[tuple[Path, Path]] = []
        token = _transaction.set((cleanup, written))
        try:
            yield
        finally:
            _transaction.reset(token)
        with defer_signals():
            for temporary, path in written:
                with _storage_errors(path):
                    os.replace(temporary, path)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder beside ``path``; rename it to ``path`` when the block succeeds."""
    with _storage_errors(path), ExitStack() as cleanup:
        temporary = path.with_name(f".{path.name}{TEMPORARY_SUFFIX}")
        shutil.rmtree(temporary, ignore_errors=True)
        with defer_signals():
            temporary.mkdir(parents=True)
            cleanup.callback(os.close, claim(temporary))
            cleanup.callback(shutil.rmtree, temporary, ignore_errors=True)
        yield temporary
        shutil.rmtree(path, ignore_errors=True)
        os.replace(temporary, path)


def check_writable(paths: Iterable[Path]) -> None:
    """Raise StorageError if any of ``paths`` cannot be written; called before long work."""
    for path in paths:
        with _storage_errors(path), _temporary_file(path):
            pass


def check_outputs(**given: Path | None) -> None:
    """Raise UsageError if an option's output file has no folder, or cannot be written.

    A missing folder is taken for a slip of the user, and not created.
    """
    for option, path in given.items():
        if path is None:
            continue
        if not path.parent.is_dir():
            raise UsageError(f"--{option}: got {path}; there is no folder {path.parent}")
        if path.is_dir():
            raise UsageError(f"--{option}: got {path}; allowed: a file")
        try:
            check_writable([path])
        except StorageError as error:
            raise UsageError(f"--{option}: {error}") from error


@contextmanager
def _temporary_file(path: Path) -> Iterator[Path]:
    """Create a locked file beside ``path``; remove it after the block, unless it was renamed."""
    temporary = path.with_name(f".{path.name}{TEMPORARY_SUFFIX}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as cleanup:
        with defer_signals():
            temporary.touch()
            cleanup.callback(os.close, claim(temporary))
            cleanup.callback(temporary.unlink, missing_ok=True)
        yield temporary


@contextmanager
def _storage_errors(path: Path) -> Iterator[None]:
    """Convert an OSError of a failed write to ``path`` to StorageError."""
    try:
        yield
    except OSError as error:
        explained = storage_error(error, path)
        if explained is None:
            raise
        raise explained from error


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path``, atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_section(path: Path, begin: str, end: str, content: str) -> None:
    """Replace the text between the marker lines ``begin`` and ``end``; raise ReportError without a marker."""
    before, found_begin, section = path.read_text(encoding="utf-8").partition(begin)
    _, found_end, after = section.partition(end)
    if not found_begin or not found_end:
        raise ReportError(f"{path}: the marker {begin if not found_begin else end!r} is missing")
    write_text(path, f"{before}{begin}\n\n{content}\n\n{end}{after}")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write ``content``; None becomes null, NaN and infinity raise ValueError."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``."""
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected an object, got {type(content).__name__}")
    return content


@contextmanager
def reading(path: Path, command: str, error: type[LitmeterError]) -> Iterator[None]:
    """Raise ``error``, which names the ``command`` that makes the file, if it is missing or malformed."""
    try:
        yield
    except OSError as cause:
        raise error(f"{cause.filename}: {cause.strerror}; `{command}` makes it") from cause
    except (KeyError, TypeError, ValueError) as cause:
        reason = " ".join(str(cause).split())
        raise error(f"{path}: malformed ({reason}); `{command}` makes it again") from cause


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], fields: Sequence[str] = ()) -> None:
    """Write ``rows`` with the columns ``fields``, or the first row's keys; None becomes an empty field."""
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(
            file, fieldnames=list(fields or (rows[0] if rows else ())), lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows(rows)


def append_line(path: Path, line: str) -> None:
    """Append a line to a file, which may be missing; raise StorageError."""
    with _storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")


def rounded(value: float | None, digits: int) -> float | None:
    """``value`` with ``digits`` decimals; None stays None."""
    return None if value is None else round(value, digits)


def write_rows(path: Path, kind: type[Row], rows: Sequence[Row]) -> None:
    """Write ``rows`` with the fields of ``kind`` as columns; None becomes an empty field.

    A mapping field becomes a column FIELD.KEY per key of any row, after all other columns.
    """
    mappings = _mappings(kind)
    plain = [field.name for field in fields(kind) if field.name not in mappings]
    content = []
    for row in rows:
        spread = {f"{name}.{key}": value for name in mappings for key, value in getattr(row, name).items()}
        content.append({name: getattr(row, name) for name in plain} | spread)
    write_csv(path, content, list(dict.fromkeys(chain(plain, *content))))


def read_rows(path: Path, kind: type[Row]) -> list[Row]:
    """The rows of ``path``; empty fields of optional columns become None.

    Columns without a field, of earlier code, are ignored; fields with a default need no column. Raise
    ValueError for other missing columns, and for values of the wrong type.
    """
    hints, mappings = get_type_hints(kind), _mappings(kind)
    nullable = {name for name, hint in hints.items() if NoneType in get_args(hint)}
    needed = {field.name for field in fields(kind) if field.default is field.default_factory is MISSING}
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if not needed <= set(reader.fieldnames or ()):
            raise ValueError(f"{path}: expected the columns {', '.join(hints)}")
        rows = list(reader)
    if any(None in row or None in row.values() for row in rows):
        raise ValueError(f"{path}: a row has more or fewer fields than there are columns")
    values: list[dict[str, Any]] = [
        {name: None if text == "" and name in nullable else text for name, text in row.items()}
        | {name: _spread(row, f"{name}.") for name in mappings}
        for row in rows
    ]
    return TypeAdapter(list[kind]).validate_python(values)  # type: ignore[valid-type]


def _spread(row: Mapping[str, str], prefix: str) -> dict[str, str]:
    return {
        column.removeprefix(prefix): text
        for column, text in row.items()
        if column.startswith(prefix) and text
    }


def _mappings(kind: type[Row]) -> list[str]:
    """Names of the mapping fields of ``kind``."""
    return [name for name, hint in get_type_hints(kind).items() if get_origin(hint) is Mapping]


def digest(content: bytes) -> str:
    """The first 16 hexadecimal digits of the SHA-256 hash."""
    return hashlib.sha256(content).hexdigest()[:16]


def json_digest(content: Mapping[str, Any]) -> str:
    """Digest of what becomes JSON, in whatever order its keys are."""
    return digest(json.dumps(content, sort_keys=True).encode())
