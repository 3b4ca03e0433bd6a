"""Contradictory or unreadable options of security: one line, and nothing starts.

Apart from the tests of servers: LitServe's takes a core and a half even while nobody asks.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from litmeter.cli.main import main
from litmeter.direct.binding import KEY_VARIABLE
from litmeter.paths import ModelFolders
from tests.integration.conftest import Pem
from tests.support.servers import make_project


@pytest.mark.parametrize(
    ("options", "key", "reason"),
    [
        ("--host 0.0.0.0", "", KEY_VARIABLE),
        ("", "two words", "ASCII"),
        ("--certificate {certificate}", "", "--certificate-key"),
        ("--certificate {certificate} --certificate-key missing.pem", "", "missing.pem: No such file"),
        ("--certificate {key} --certificate-key {key}", "", "certificate"),
    ],
)
def test_contradictory_options_are_one_line_and_nothing_starts(
    options: str,
    key: str,
    reason: str,
    pem: Pem,
    exported: ModelFolders,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(KEY_VARIABLE, key)
    make_project(tmp_path, exported)
    filled = [option.format(**vars(pem)) for option in options.split()]
    status = main(["serve", *filled])
    error = capsys.readouterr().err
    assert reason in error
    assert error.count("\n") == 1
    assert not (key and key in error)
    assert status == 2


@pytest.mark.parametrize(("content", "reason"), [(None, "No such file"), ("no pem", "PEM")])
def test_a_file_that_holds_no_certificates_is_one_line(
    content: str | None, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    assert main(["predict", "--ca", str(path), "photo.jpg"]) == 2
    error = capsys.readouterr().err
    assert reason in error
    assert error.count("\n") == 1
