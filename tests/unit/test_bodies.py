"""Which files become which request bodies."""

from __future__ import annotations

from pathlib import Path

import pytest

from litmeter.errors import LoadError
from litmeter.load.bodies import Bodies, read_bodies
from litmeter.measure.loadtest import bodies_to_send


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of two bodies, and JSON lines beside it."""
    (tmp_path / "lines.jsonl").write_text('{"a": 1}\n\n{"a": 2}\n')
    (made := tmp_path / "bodies").mkdir()
    for name, content in {"2.json": "two", "1.json": "one", ".hidden": "none"}.items():
        (made / name).write_text(content)
    return made


def test_lines_files_and_folders_are_bodies_in_order(folder: Path, tmp_path: Path) -> None:
    lines, json = [b'{"a": 1}', b'{"a": 2}'], "application/json"
    assert read_bodies(tmp_path / "lines.jsonl") == Bodies(lines, json)
    assert read_bodies(folder) == Bodies([b"one", b"two"], json)
    assert read_bodies(folder / "2.json", "text/x") == Bodies([b"two"], "text/x")
    given = [folder, tmp_path / "lines.jsonl", folder / "1.json"]
    assert bodies_to_send(given, [], json, None) == [b"one", b"two", *lines, b"one"]


def test_what_is_no_body_is_one_line(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    (folder / "3.png").write_bytes(b"three")
    for path, message in {
        tmp_path / "nonsuch": "No such file",
        tmp_path / "empty.jsonl": "no request body in it",
        folder: r"several content types \(application/json, image/png\)",
    }.items():
        with pytest.raises(LoadError, match=message):
            read_bodies(path)
    assert len(read_bodies(folder, "text/x").contents) == 3
