"""Files that hold results are written whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from litmeter.system.files import (
    all_or_nothing,
    atomic_folder,
    atomic_write,
    read_json,
    write_csv,
    write_json,
)
from tests.support.tables import read_csv


def test_json_comes_back_with_null_as_none(tmp_path: Path) -> None:
    write_json(tmp_path / "deep/a.json", {"rps": 1.5, "gpu": None})
    assert read_json(tmp_path / "deep/a.json") == {"rps": 1.5, "gpu": None}


def test_a_failed_write_keeps_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"rps": 1.0})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"rps": float("nan")})

    def interrupted() -> None:
        with atomic_write(path) as temporary:
            temporary.write_text("half a fi")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert read_json(path) == {"rps": 1.0}
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


def test_csv_comes_back_as_text_with_none_empty(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", [{"users": 1, "p99_ms": None}, {"users": 8, "p99_ms": 3.25}])
    assert read_csv(tmp_path / "a.csv") == [
        {"users": "1", "p99_ms": ""},
        {"users": "8", "p99_ms": "3.25"},
    ]


def test_json_that_is_no_object_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[1]")
    with pytest.raises(ValueError, match="expected an object"):
        read_json(tmp_path / "a.json")


def test_files_written_all_or_nothing_are_replaced_together(tmp_path: Path) -> None:
    first, second = tmp_path / "a.json", tmp_path / "b.csv"
    write_json(first, {"run": 1})

    def fails() -> None:
        with all_or_nothing():
            write_json(first, {"run": 2})
            write_csv(second, [{"run": 2}])
            assert read_json(first) == {"run": 1}
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fails()
    assert read_json(first) == {"run": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]
    with all_or_nothing():
        write_json(first, {"run": 3})
        write_csv(second, [{"run": 3}])
    assert read_json(first) == {"run": 3}
    assert read_csv(second) == [{"run": "3"}]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.json", "b.csv"]


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "compiled"
    for run in ("one", "two"):
        with atomic_folder(folder) as temporary:
            (temporary / run).touch()
        assert [path.name for path in folder.iterdir()] == [run]

    def fails() -> None:
        with atomic_folder(folder) as temporary:
            (temporary / "three").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fails()
    assert [path.name for path in tmp_path.rglob("*")] == ["compiled", "two"]
