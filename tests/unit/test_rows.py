"""Tables whose rows are dataclasses: what is written is read back, what does not fit is refused."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytest

from litmeter.benchmark.rows import BaselineRow, BatchRow, LevelRow, StageRow
from litmeter.inference.precision_rows import PackageRow
from litmeter.system.rows import read_rows, write_rows
from tests.support.synthetic_results import batch, level

LEVEL = level(4, 40.5, invalid_reason="2 failed, 1 timed out", warnings='a "comma", and a\nline')
UNKNOWN = replace(LEVEL, **{field.name: None for field in fields(LevelRow) if "None" in str(field.type)})
ROWS = [
    LEVEL,
    UNKNOWN,
    batch(8, 100.25, 75.0),
    StageRow(4, "queue", 1.25),
    BatchRow(4, "+Inf", 100),
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


def test_the_row_of_unknowns_has_them_and_no_others() -> None:
    assert UNKNOWN.p99_ms is None
    assert UNKNOWN.gpu_percent is None
    assert UNKNOWN.throughput_rps == LEVEL.throughput_rps


def test_a_column_with_a_default_may_be_missing(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(
        "precision,batch_size,eager_ms,compiled_ms,parts_ms,compile_s,skipped_reason\nhalf,1,,,,3.0,\n"
    )
    assert read_rows(path, PackageRow) == [PackageRow("half", 1, None, None, None, 3.0, None, remark=None)]


def test_a_column_that_is_no_field_any_more_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("users,stage,mean_ms,clock\n4,queue,1.0,2\n")
    assert read_rows(path, StageRow) == [StageRow(4, "queue", 1.0)]


@pytest.mark.parametrize("kind", [LevelRow, BaselineRow, StageRow, BatchRow])
def test_a_table_without_rows_keeps_its_columns(tmp_path: Path, kind: Any) -> None:
    path = tmp_path / "rows.csv"
    write_rows(path, kind, [])
    assert path.read_text() == ",".join(field.name for field in fields(kind)) + "\n"
    assert read_rows(path, kind) == []


def test_only_fields_become_columns() -> None:
    """What follows from others, such as whether a level is valid, is not written beside them."""
    assert "valid" not in asdict(LEVEL)
    assert not LEVEL.valid


@pytest.mark.parametrize(
    "text",
    [
        "",
        "users,stage\n4,queue\n",
        "users,step,mean_ms\n4,queue,1.0\n",
    ],
)
def test_missing_columns_are_refused_with_those_expected(tmp_path: Path, text: str) -> None:
    path = tmp_path / "stages.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"stages\.csv: expected the columns users, stage, mean_ms"):
        read_rows(path, StageRow)


def test_columns_may_stand_in_another_order(tmp_path: Path) -> None:
    path = tmp_path / "stages.csv"
    path.write_text("stage,mean_ms,users\nqueue,1.5,4\n")
    assert read_rows(path, StageRow) == [StageRow(4, "queue", 1.5)]


@pytest.mark.parametrize("row", ["four,queue,1.0", "4.5,queue,1.0", "4,queue,fast", "4,queue,", ",queue,1.0"])
def test_a_value_of_another_type_is_refused(tmp_path: Path, row: str) -> None:
    path = tmp_path / "stages.csv"
    path.write_text(f"users,stage,mean_ms\n{row}\n")
    with pytest.raises(ValueError, match=r"invalid literal|could not convert"):
        read_rows(path, StageRow)


@pytest.mark.parametrize("row", ["4,queue", "4", "4,queue,1.0,2.0"])
def test_a_row_of_another_length_is_refused(tmp_path: Path, row: str) -> None:
    path = tmp_path / "stages.csv"
    path.write_text(f"users,stage,mean_ms\n{row}\n")
    with pytest.raises(ValueError, match=r"stages\.csv: a row has more or fewer fields"):
        read_rows(path, StageRow)


@dataclass(frozen=True)
class Switch:
    on: bool | None


@pytest.mark.parametrize("on", [True, False, None])
def test_a_truth_value_comes_back(tmp_path: Path, on: bool | None) -> None:
    path = tmp_path / "switches.csv"
    write_rows(path, Switch, [Switch(on)])
    assert read_rows(path, Switch) == [Switch(on)]


@pytest.mark.parametrize("text", ["1", "true", "yes"])
def test_another_word_for_a_truth_value_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "switches.csv"
    path.write_text(f"on\n{text}\n")
    with pytest.raises(ValueError, match=f"expected True or False, got '{text}'"):
        read_rows(path, Switch)
