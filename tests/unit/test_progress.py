"""What a long run prints."""

from __future__ import annotations

import pytest

from servebench.system.progress import WIDTH, print_wrapped


def test_a_long_line_is_wrapped_and_its_continuation_indented(capsys: pytest.CaptureFixture[str]) -> None:
    text = "e1_baseline: " + " ".join(f"word{number}" for number in range(60))
    print_wrapped(f"{text}\nshort")
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= WIDTH
    assert [line.startswith("    ") for line in lines] == [False, *[True] * (len(lines) - 2), False]
    assert " ".join(line.strip() for line in lines[:-1]) == text
    assert lines[-1] == "short"
