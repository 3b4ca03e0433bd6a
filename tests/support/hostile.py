"""A project whose names and messages are attacks on the pages that show them."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from litmeter.measure.rows import TurnRow
from litmeter.paths import COMPARISON, COMPARISON_TURNS, MACHINE
from litmeter.system.files import read_json, read_rows, write_json, write_rows

SCRIPT = "<script>window.owned = 1</script>"
PICTURE = '<img src=x onerror="window.owned = 2">'
LINK = "[click](javascript:window.owned=3) ![seen](https://example.org/seen.png) <https://example.org>"
MARKUP = "a | b ` c `` d \\| *e* __f__ ~~g~~ $h$ &lt; \\"
COMMAND = f"./b {SCRIPT} | {PICTURE} ` --port {{port}}"
"""Not too long for a table."""
KWARGS = {f"key{PICTURE}": f"{LINK}\n\n# {SCRIPT}\n| x | y |\u2028\v| z", "plain": MARKUP}
REASON = f"{SCRIPT} {PICTURE} {LINK} {MARKUP}"
BRANCH = 'x"><script>window.owned=4</script>'
API = {"api": "server:MyAPI", "threads_per_worker": 1}
EXPERIMENTS: dict[str, dict[str, Any]] = {
    "one": {"command": COMMAND},
    "two": {**API, "api_kwargs": KWARGS},
    "three": API,
}


def write_hostile_project(write_project: Callable[[dict[str, dict[str, Any]]], None]) -> None:
    """Write the project into the current folder."""
    write_project(EXPERIMENTS)
    write_json(MACHINE, read_json(MACHINE) | {"cpu": f"CPU {REASON}", "gpu": SCRIPT})
    over = {"changes": {f"command{PICTURE}": [COMMAND, REASON]}, "ratio": 1.5, "low": 1.4, "high": 1.6}
    hostile = {"unavailable": {"one": REASON}, "over_before": over}
    write_json(COMPARISON, read_json(COMPARISON) | hostile)
    turns = read_rows(COMPARISON_TURNS, TurnRow)
    told = [replace(row, warnings=REASON) for row in turns[1:]]
    write_rows(COMPARISON_TURNS, TurnRow, [replace(turns[0], void=REASON), *told])


def commit_hostile_branch(write_project: Callable[[dict[str, dict[str, Any]]], None]) -> None:
    """Make a repository in the current folder with a harmless branch main and the hostile BRANCH."""

    def git(*words: str) -> None:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b.example")
        subprocess.run(["git", *identity, *words], check=True, capture_output=True)

    def commit() -> None:
        Path("dvc.lock").write_text("stages: {}\n")
        git("add", ".")
        git("commit", "-m", "results")

    git("init", "-b", "main")
    write_project({"three": API})
    commit()
    git("checkout", "-b", BRANCH)
    write_hostile_project(write_project)
    commit()
