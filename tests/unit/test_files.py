"""Files are written whole or not at all; tables of dataclasses are read back as they were written."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytest

from litmeter.system.files import (
    all_or_nothing,
    atomic_folder,
    atomic_write,
    read_json,
    read_rows,
    write_csv,
    write_json,
    write_rows,
)
from tests.support.synthetic_results import compared, turn
from tests.support.tables import read_csv


@dataclass(frozen=True)
class StageRow:
    users: int
    stage: str
    mean_ms: float
    on: bool | None = None


def unknown(row: Any) -> Any:
    """A row without what may be unknown."""
    return replace(row, **{field.name: None for field in fields(row) if "None" in str(field.type)})


TURN = turn("e1", "served", 40.5, void="2 failed, 1 timed out", warnings='a "comma", and a\nline')
KNOWN = [
    TURN,
    compared("e1", 40.0, 1),
    StageRow(4, "queue", 1.0, on=True),
    StageRow(4, "queue", 1.0, on=False),
]


@pytest.mark.parametrize("row", [*KNOWN, *map(unknown, KNOWN)], ids=lambda row: type(row).__name__)
def test_a_row_comes_back_equal_and_of_the_same_types(tmp_path: Path, row: Any) -> None:
    path = tmp_path / "rows.csv"
    write_rows(path, type(row), [row, row])
    back = read_rows(path, type(row))
    assert back == [row, row]
    assert [type(value) for value in asdict(back[0]).values()] == [
        type(value) for value in asdict(row).values()
    ]


def test_a_column_that_is_no_field_any_more_is_ignored(tmp_path: Path) -> None:
    (path := tmp_path / "rows.csv").write_text("users,stage,mean_ms,clock\n4,queue,1.0,2\n")
    assert read_rows(path, StageRow) == [StageRow(4, "queue", 1.0)]


def test_a_table_without_rows_keeps_its_columns(tmp_path: Path) -> None:
    write_rows(path := tmp_path / "rows.csv", StageRow, [])
    assert path.read_text() == "users,stage,mean_ms,on\n"
    assert read_rows(path, StageRow) == []


HEAD = "users,stage,mean_ms\n"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", r"stages\.csv.*users, stage, mean_ms"),
        ("users,step,mean_ms\n4,queue,1.0\n", r"stages\.csv.*users, stage, mean_ms"),
        (HEAD + "4.5,queue,1.0\n", "users"),
        (HEAD + "4,queue,\n", "mean_ms"),
        (HEAD + "4,queue\n", r"stages\.csv"),
        (HEAD + "4,queue,1.0,2.0\n", r"stages\.csv"),
        (HEAD.replace("\n", ",on\n4,queue,1.0,maybe\n"), "maybe"),
    ],
)
def test_another_table_is_refused(tmp_path: Path, text: str, named: str) -> None:
    (path := tmp_path / "stages.csv").write_text(text)
    with pytest.raises(ValueError, match=named):
        read_rows(path, StageRow)


def test_json_that_is_no_object_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[1]")
    with pytest.raises(ValueError, match="expected an object"):
        read_json(tmp_path / "a.json")


def interrupted(block: AbstractContextManager[Any], write: Callable[[Any], object]) -> None:
    """Write in the block, which is interrupted then."""
    with suppress(KeyboardInterrupt), block as given:
        write(given)
        raise KeyboardInterrupt


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_a_failed_write_keeps_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"rps": 1.0})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"rps": float("nan")})
    interrupted(atomic_write(path), lambda temporary: temporary.write_text("half a fi"))
    assert read_json(path) == {"rps": 1.0}
    assert names(tmp_path) == ["a.json"]


def test_files_written_all_or_nothing_are_replaced_together(tmp_path: Path) -> None:
    first, second = tmp_path / "a.json", tmp_path / "b.csv"
    write_json(first, {"run": 1})

    def write(run: int) -> None:
        write_json(first, {"run": run})
        write_csv(second, [{"run": run}])
        assert read_json(first) == {"run": 1}

    interrupted(all_or_nothing(), lambda _: write(2))
    assert read_json(first) == {"run": 1}
    assert names(tmp_path) == ["a.json"]
    with all_or_nothing():
        write(3)
    assert read_json(first) == {"run": 3}
    assert read_csv(second) == [{"run": "3"}]
    assert names(tmp_path) == ["a.json", "b.csv"]


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "compiled"
    for run in ("one", "two"):
        with atomic_folder(folder) as temporary:
            (temporary / run).touch()
        assert names(folder) == [run]
    interrupted(atomic_folder(folder), lambda temporary: (temporary / "three").touch())
    assert [path.name for path in tmp_path.rglob("*")] == ["compiled", "two"]
