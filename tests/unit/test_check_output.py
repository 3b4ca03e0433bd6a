"""What a check says of what it found: on the terminal, in a summary, as JSON."""

from __future__ import annotations

import json
from dataclasses import replace

from litmeter.cli.check import Found, Limits, Side
from litmeter.cli.revisions import Revisions
from litmeter.kinds.command import Command
from litmeter.measure.comparison_rows import Pair

OLD = Side("old (main)", 95.5, 300.0, 2.0, 9000, 0, "")
NEW = Side("new (working tree)", 87.1, 420.0, 2.5, 8200, 0, "")
SLOWER = Pair(
    *(NEW.name, OLD.name, 0.912, 0.893, 0.931, "slower"),
    *(21.3, 19.8, 1.076, 0.99, 1.17, "no difference resolved"),
)
SETTINGS = Command(command="serve {port}")
REVISIONS = Revisions(
    "f" * 40, (SETTINGS, SETTINGS), ["models"], " a.py | 2 +-", ["serve.max_batch_size: 1 -> 4"]
)
FOUND = Found(REVISIONS, 8, 180.0, 6, Limits(0.05, None, None), OLD, NEW, SLOWER)


def with_ratio(ratio: float, low: float, high: float) -> Found:
    return replace(FOUND, pair=replace(SLOWER, ratio=ratio, low=low, high=high))


def test_a_sentence_with_both_rates_the_interval_and_the_bound() -> None:
    said = FOUND.sentence().splitlines()[0]
    assert said.startswith("slower: new (working tree) answers 0.912 (0.893 to 0.931) times")
    assert "87.1 and 95.5" in said
    assert said.endswith("below 0.95")
    assert FOUND.exit_code == 1


def test_an_open_one_says_what_it_would_take() -> None:
    found = with_ratio(1.0, 0.93, 1.075)
    assert found.exit_code == 3
    assert "--seconds 600 would probably tell" in found.sentence()
    assert "--seconds 600" in found.markdown()
    assert "more than an hour" in with_ratio(0.951, 0.9, 1.005).sentence()


def test_a_longer_p95_fails_a_check_and_an_open_one_does_not() -> None:
    passed = with_ratio(1.0, 0.98, 1.02)
    assert passed.exit_code == 0
    pair = replace(passed.pair, p95_low=1.06, p95_high=1.1)
    assert replace(passed, pair=pair).exit_code == 1
    at_the_margin = replace(pair, p95_low=1.05)  # 1 / 0.95 is 1.053
    assert replace(passed, pair=at_the_margin).exit_code == 0


def test_limits() -> None:
    passed = with_ratio(1.0, 0.98, 1.02)
    assert replace(passed, limits=Limits(0.05, 420.0, 2.5)).exit_code == 0
    over = replace(passed, limits=Limits(0.05, 400.0, 2.4))
    assert over.exit_code == 1
    assert len(over.exceeded) == 2
    assert over.markdown().startswith("### litmeter check: over a limit\n")


def test_the_summary_and_json_have_all_figures() -> None:
    text = FOUND.markdown()
    for expected in ("fffffffff", "0.912 (0.893 to 0.931)", "| 95.5 |", "| 87.1 |", "a.py | 2 +-", "1 -> 4"):
        assert expected in text
    found = json.loads(json.dumps(FOUND.as_json()))
    assert (found["rate"], found["p95"], found["exit_code"]) == ("slower", "open", 1)
    assert found["new_over_old"]["high"] == 0.931


def test_what_else_used_the_machine_is_said_with_the_verdict() -> None:
    said = "In 70 of 72 turns others used the cores (python), up to 60% of them"
    found = replace(FOUND, said=[said])
    assert found.sentence().endswith(said)
    assert said in found.markdown()
