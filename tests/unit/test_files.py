"""Files are written whole or not at all; tables of dataclasses are read back as they were written."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytest

from litmeter.measure.rows import ComparisonRow, TurnRow
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


TURN = turn("e1", "served", 40.5, void="2 failed, 1 timed out", warnings='a "comma", and a\nline')


def unknown(row: Any) -> Any:
    """A row without what may be unknown."""
    return replace(row, **{field.name: None for field in fields(row) if "None" in str(field.type)})


ROWS: list[TurnRow | ComparisonRow] = [
    TURN,
    unknown(TURN),
    compared("e1", 40.0, 1),
    unknown(compared("e1", 40.0, 1)),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: type(row).__name__)
def test_a_row_comes_back_equal_and_of_the_same_types(tmp_path: Path, row: Any) -> None:
    path = tmp_path / "rows.csv"
    write_rows(path, type(row), [row, row])
    back = read_rows(path, type(row))
    assert back == [row, row]
    assert [type(value) for value in asdict(back[0]).values()] == [
        type(value) for value in asdict(row).values()
    ]


def test_a_column_that_is_no_field_any_more_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("users,stage,mean_ms,clock\n4,queue,1.0,2\n")
    assert read_rows(path, StageRow) == [StageRow(4, "queue", 1.0)]


def test_a_table_without_rows_keeps_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    write_rows(path, StageRow, [])
    assert path.read_text() == "users,stage,mean_ms\n"
    assert read_rows(path, StageRow) == []


@pytest.mark.parametrize("text", ["", "users,step,mean_ms\n4,queue,1.0\n"])
def test_missing_columns_are_refused_with_those_expected(tmp_path: Path, text: str) -> None:
    path = tmp_path / "stages.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"stages\.csv: expected the columns users, stage, mean_ms"):
        read_rows(path, StageRow)


@pytest.mark.parametrize("row", ["4.5,queue,1.0", "4,queue,"])
def test_a_value_of_another_type_is_refused(tmp_path: Path, row: str) -> None:
    path = tmp_path / "stages.csv"
    path.write_text(f"users,stage,mean_ms\n{row}\n")
    with pytest.raises(ValueError, match=r"users|mean_ms"):
        read_rows(path, StageRow)


@pytest.mark.parametrize("row", ["4,queue", "4,queue,1.0,2.0"])
def test_a_row_of_another_length_is_refused(tmp_path: Path, row: str) -> None:
    path = tmp_path / "stages.csv"
    path.write_text(f"users,stage,mean_ms\n{row}\n")
    with pytest.raises(ValueError, match=r"stages\.csv: a row has more or fewer fields"):
        read_rows(path, StageRow)


@dataclass(frozen=True)
class Switch:
    on: bool | None


def test_a_truth_value_comes_back_and_another_word_for_it_is_refused(tmp_path: Path) -> None:
    path, rows = tmp_path / "switches.csv", [Switch(True), Switch(False), Switch(None)]
    write_rows(path, Switch, rows)
    assert read_rows(path, Switch) == rows
    path.write_text("on\nmaybe\n")
    with pytest.raises(ValueError, match="maybe"):
        read_rows(path, Switch)


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
