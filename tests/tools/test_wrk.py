"""wrk, which `litmeter verify` compares with, for real."""

from __future__ import annotations

import shutil

from litmeter.load.stub import BODY, running_stub
from litmeter.selftest import rate_by_wrk


def test_the_real_wrk_sends_our_body() -> None:
    assert shutil.which("wrk") is not None, "this test runs wrk: `apt-get install wrk` (Debian, Ubuntu)"
    with running_stub(0.02, 2) as stub:
        rate = rate_by_wrk(stub.url, BODY, users=2, seconds=1)
        log = stub.log()
    assert 10 < rate < 110
    assert len(log) >= 10
