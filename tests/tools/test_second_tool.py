"""The load tools that `litmeter verify` compares with, for real."""

from __future__ import annotations

import shutil

import pytest

from litmeter.selftest import second_tool
from litmeter.selftest.stub import BODY, running_stub


@pytest.mark.parametrize("name", ["wrk", "hey"])
def test_the_real_second_tool_sends_our_body(name: str) -> None:
    tool = shutil.which(name)
    assert tool is not None, f"this test runs {name}: `apt-get install {name}` (Debian, Ubuntu)"
    with running_stub(0.02, 2) as stub:
        rate = second_tool.rate_by(tool, stub.url, BODY, users=2, seconds=1)
        log = stub.log()
    assert 10 < rate < 110
    assert len(log) >= 10
