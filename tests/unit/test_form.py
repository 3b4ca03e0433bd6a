"""Bodies of forms: what a parser of e-mails, which takes the same parts, finds in them."""

from __future__ import annotations

from email import message_from_bytes
from pathlib import Path
from typing import Any

import pytest

from litmeter.cli.form import form_bodies
from litmeter.cli.load import Requests
from litmeter.cli.own import Sent, read_given
from litmeter.errors import UsageError
from litmeter.load.bodies import Bodies


def parts(bodies: Bodies, number: int = 0) -> list[tuple[Any, ...]]:
    """Name, file name, content type and content of each field."""
    head = f"Content-Type: {bodies.content_type}\r\n\r\n".encode()
    found = message_from_bytes(head + bodies.contents[number]).get_payload()
    names = [part.get_param("name", header="content-disposition") for part in found]
    rest = [(part.get_filename(), part.get_content_type(), part.get_payload(decode=True)) for part in found]
    return [(name, *one) for name, one in zip(names, rest, strict=True)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("cat.jpg").write_bytes(bytes(range(256)) + b"\r\n--")
    Path("photos").mkdir()
    for name in ("b.png", "a.png", ".hidden"):
        Path("photos", name).write_text(name)
    Path("empty").mkdir()
    return tmp_path


def test_files_and_values_are_fields_of_one_body(folder: Path) -> None:
    bodies = form_bodies(["image=@cat.jpg", "language=", "equation=a=b"])
    assert len(bodies.contents) == 1
    assert parts(bodies) == [
        ("image", "cat.jpg", "image/jpeg", Path("cat.jpg").read_bytes()),
        ("language", None, "text/plain", b""),
        ("equation", None, "text/plain", b"a=b"),
    ]
    assert form_bodies(["image=@cat.jpg", "language=", "equation=a=b"]) == bodies  # the same bytes


def test_a_folder_gives_a_body_for_each_file(folder: Path) -> None:
    bodies = form_bodies(["image=@photos", "size=1"])
    found = [parts(bodies, number) for number in range(len(bodies.contents))]
    assert [one[0][1] for one in found] == ["a.png", "b.png"]
    assert {one[1] for one in found} == {("size", None, "text/plain", b"1")}


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ("image", "--form: expected NAME=VALUE or NAME=@FILE, got 'image'"),
        ("=@cat.jpg", "got '=@cat.jpg'"),
        ("image=@dog.jpg", "--form image=@dog.jpg: No such file"),
        ("image=@empty", "--form image=@empty: no file"),
    ],
)
def test_a_field_that_is_none_is_named(folder: Path, field: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        form_bodies(["a=b", field])


@pytest.mark.parametrize("other", [{"body": [Path("cat.jpg")]}, {"content_type": "image/jpeg"}])
def test_a_form_is_sent_instead_of_other_bodies(folder: Path, other: dict[str, Any]) -> None:
    assert read_given(Sent(form=["a=b"])) == Requests(url="http://a/", form=["a=b"]).bodies
    option = min(other).replace("_", "-")
    with pytest.raises(UsageError, match=f"--form: not together with --{option}"):
        read_given(Sent(form=["a=b"], **other))
    with pytest.raises(UsageError, match=f"--form: not together with --{option}"):
        _ = Requests(url="http://a/", form=["a=b"], **other).bodies
