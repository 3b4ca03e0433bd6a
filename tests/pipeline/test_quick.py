"""`litmeter quick`, beside results that are kept."""

from __future__ import annotations

import re

from tests.pipeline.conftest import Clone, results_of


def test_a_quick_comparison_keeps_nothing(ran: Clone) -> None:
    before = results_of(ran)
    output = ran.run(str(ran.path / ".venv/bin/litmeter"), "quick").stdout
    assert "results are not kept" in output
    assert re.search(r"^\| candidate +\| +1 \|", output, re.MULTILINE)
    assert results_of(ran) == before
    assert ran.git("status", "--porcelain") == ""
