"""``litmeter experiments``: rates of all experiments of `dvc exp run`, what each changed, and what it did."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from litmeter.params import ParamsLoader
from litmeter.paths import OVER_BEFORE
from litmeter.report.changes import changed_params
from litmeter.report.claims import change_sentence
from litmeter.system.progress import print_wrapped

FILTER = ["--drop", ".*", "--keep", "Experiment|Created|candidate|^e[0-9]+$"]
"""Choice of DVC's columns: all others (hashes of data and models, params) would hide the rates."""


def main() -> int:
    """Print DVC's table, and below it a line for each experiment; return DVC's exit status."""
    command = [sys.executable, "-m", "dvc", "exp", "show", "--no-pager", *FILTER]
    status = subprocess.run(command).returncode
    for name, base, revision in experiments():
        print_wrapped(describe(name, base, revision))
    return status


def experiments() -> Iterator[tuple[str, str, str]]:
    """Name, base and revision of each experiment, the oldest first."""
    command = ["git", "for-each-ref", "--sort=creatordate", "--format=%(refname) %(objectname)", "refs/exps/"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for line in listed.splitlines():
        reference, revision = line.split()
        # refs/exps/BA/SE.../NAME; refs/exps/exec, celery and the like are DVC's own.
        match reference.split("/")[2:]:
            case [begin, end, name] if len(begin) == 2 and len(begin + end) == 40:
                yield name, begin + end, revision


def describe(name: str, base: str, revision: str) -> str:
    """What an experiment changed in params.yaml, and how its section serve compares with that before."""
    before, after = (_read(commit, "params.yaml") for commit in (base, revision))
    found = _read(revision, str(OVER_BEFORE))
    # What came of an experiment whose base had it, too, is the base's.
    compared = bool(found.get("ratio")) and found != _read(base, str(OVER_BEFORE))
    said = [
        f"{key} {old} -> {new}"
        for key, (old, new) in changed_params(before, after).items()
        if not (compared and key.startswith("serve."))
    ]
    said += [change_sentence(found).rstrip(".")] if compared else []
    return f"{name}: {'; '.join(said) or 'no key of params.yaml has changed'}"


def _read(commit: str, path: str) -> Mapping[str, Any]:
    """A YAML or JSON file of a commit; empty where it has none."""
    shown = subprocess.run(["git", "show", f"{commit}:{path}"], capture_output=True, text=True)
    if shown.returncode:
        return {}
    content = json.loads(shown.stdout) if path.endswith(".json") else yaml.load(shown.stdout, ParamsLoader)  # noqa: S506
    return content if isinstance(content, dict) else {}
