"""Files that hold results: written whole or not at all, and read back."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from servebench.errors import storage_error
from servebench.system.signals import defer_signals
from servebench.system.temporary import STALE_SUFFIX, claim

Row = Mapping[str, Any]


_transaction: ContextVar[tuple[ExitStack, list[tuple[Path, Path]]] | None] = ContextVar(
    "transaction", default=None
)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block ends without an error.

    Whoever reads ``path`` sees the old file or the new one, never a part.

    Raises:
        StorageError: it cannot be written.
    """
    with _explained(path):
        if (files := _transaction.get()) is None:
            with _temporary(path) as temporary:
                yield temporary
                os.replace(temporary, path)
        else:
            stack, waiting = files
            temporary = stack.enter_context(_temporary(path))
            yield temporary
            waiting.append((temporary, path))


@contextmanager
def all_or_nothing() -> Iterator[None]:
    """Let all files that the block writes take their places when it ends without an error, or none."""
    with ExitStack() as stack:
        waiting: list[tuple[Path, Path]] = []
        token = _transaction.set((stack, waiting))
        try:
            yield
        finally:
            _transaction.reset(token)
        with defer_signals():
            for temporary, path in waiting:
                with _explained(path):
                    os.replace(temporary, path)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A new folder beside ``path`` that takes its place when the block ends without an error."""
    with _explained(path), ExitStack() as cleanup:
        temporary = _name(path)
        shutil.rmtree(temporary, ignore_errors=True)
        with defer_signals():
            temporary.mkdir(parents=True)
            cleanup.callback(os.close, claim(temporary))
            cleanup.callback(shutil.rmtree, temporary, ignore_errors=True)
        yield temporary
        shutil.rmtree(path, ignore_errors=True)
        os.replace(temporary, path)


def check_writable(paths: Iterable[Path]) -> None:
    """Raise StorageError if one of ``paths`` cannot be written, before the work that it is for."""
    for path in paths:
        with _explained(path), _temporary(path):
            pass


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """A file beside ``path``, gone when the block is left."""
    temporary = _name(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as cleanup:
        with defer_signals():
            temporary.touch()
            cleanup.callback(os.close, claim(temporary))
            cleanup.callback(temporary.unlink, missing_ok=True)
        yield temporary


def _name(path: Path) -> Path:
    return path.with_name(f".{path.name}{STALE_SUFFIX}")


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        explained = storage_error(error, path)
        if explained is None:
            raise
        raise explained from error


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write ``content`` in a stable form; NaN and infinity are refused, unknown is null."""
    text = json.dumps(content, indent=2, allow_nan=False)
    with atomic_write(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """The object that ``path`` holds."""
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected an object, got {type(content).__name__}")
    return content


def write_csv(path: Path, rows: Sequence[Row], fields: Sequence[str] = ()) -> None:
    """Write ``rows``, which all have the keys of the first; None becomes an empty field.

    Args:
        fields: the keys, where there may be no row.
    """
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0] if rows else fields), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of ``path``, every field as text; an empty one stands for unknown."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def rounded(value: float | None, digits: int) -> float | None:
    """``value`` with ``digits`` decimals, None as it is."""
    return None if value is None else round(value, digits)
