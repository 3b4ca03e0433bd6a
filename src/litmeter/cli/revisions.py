"""What ``litmeter check`` serves: a revision in a worktree, and the working tree."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from litmeter.cli.own import Sent, configuration_here, settings_of
from litmeter.cli.quick import copy_project
from litmeter.cli.requirements import changed_requirements
from litmeter.errors import UsageError
from litmeter.kinds.command import Command
from litmeter.kinds.configuration import Configuration
from litmeter.kinds.registry import kind_of
from litmeter.params import Params
from litmeter.paths import DVC_LOCK, MODEL
from litmeter.report.git import changes, commit_of, forget_removed, git, share_ignored, worktree
from litmeter.settings import CANDIDATE, PARAMS_FILE, read_sections
from litmeter.system.temporary import scratch


class Revisions(NamedTuple):
    """Two trees that can be served.

    Attributes:
        commit: that of the revision.
        settings: what the revision serves, and what the working tree serves.
        shared: paths that git ignores and both trees use.
        files: what git says of the difference.
        keys: changed keys of params.yaml, each with both values.
    """

    commit: str
    settings: tuple[Configuration, Configuration]
    shared: list[str]
    files: str
    keys: list[str]


@contextmanager
def revisions(
    against: str, command: str | None, configuration: str, sent: Sent, *, own_model: bool
) -> Iterator[Revisions]:
    """Check out the revision ``against`` beside the working tree until the block is left.

    Raise UsageError or ParamsError where one of the trees has nothing to serve, or they need other packages.
    """
    with ExitStack() as stack:
        forget_removed()
        commit = commit_of(against)
        root = stack.enter_context(worktree(commit))
        old = root / git("rev-parse", "--show-prefix").strip()
        if not old.is_dir():
            raise UsageError(f"{against}: it has no folder {Path.cwd().name}")
        if changed := changed_requirements(old, Path()):
            raise UsageError(
                f"{against} needs other packages, and both would run with the same: {'; '.join(changed)}"
            )
        if own_model:
            _check_out(old, against)
        shared = share_ignored(Path(git("rev-parse", "--show-toplevel").strip()), root)
        keys = _changed_keys(_read_params(old), _read_params(Path()))  # before _served writes params.yaml
        trees = {against: old, "working tree": Path.cwd()}
        if command is not None:
            [given] = settings_of([f"command={command}"], sent).values()
            if (here := given.get("folder")) is None:
                raise UsageError(f"--command: got {command!r}; allowed: FILE.py, module:Class, or a command")
            below = os.path.relpath(here)
            settings = [
                configuration_here({**given, "folder": str(tree / below)}, "--command: ")
                for tree in trees.values()
            ]
        else:
            settings = [
                stack.enter_context(_served(tree, configuration, name)) for name, tree in trees.items()
            ]
        yield Revisions(commit, (settings[0], settings[1]), shared, changes(commit), keys)


@contextmanager
def _served(tree: Path, configuration: str, name: str) -> Iterator[Configuration]:
    """The ``configuration`` in the params.yaml of a tree; a classifier is served by the tree's own code."""
    content = _read_params(tree)
    section = content.get("serve") if configuration == CANDIDATE else None
    section = section or content.get("experiments", {}).get(configuration)
    if section is None:
        raise UsageError(f"{name}: {PARAMS_FILE} has no {Params.section_of(configuration)}")
    if (keys := kind_of(section).in_tree(section, tree)) is not None:
        yield configuration_here(keys, f"{name}: ")
        return
    with ExitStack() as stack:
        if tree == Path.cwd():  # its params.yaml must stay, and edits during the check must not count
            tree = stack.enter_context(scratch())
            copy_project(tree)
            share_ignored(Path(), tree)
        (tree / PARAMS_FILE).write_text(yaml.safe_dump({**content, "serve": section}), encoding="utf-8")
        words = [sys.executable, "-m", "litmeter.cli.main", "serve", "--port"]
        yield Command(command=f"{shlex.join(words)} {{port}}", folder=str(tree))


def _read_params(tree: Path) -> dict[str, Any]:
    """The unchecked params.yaml of a tree, whose own code checks it; empty where there is none."""
    return read_sections(tree / PARAMS_FILE) if (tree / PARAMS_FILE).exists() else {}


def _changed_keys(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Changed keys, each with both values."""
    found = []
    for key in {**old, **new}:
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            found += _changed_keys(before, after, f"{prefix}{key}.")
        elif before != after:
            found.append(f"{prefix}{key}: {before} -> {after}")
    return found


def _check_out(tree: Path, name: str) -> None:
    """Bring the models and data of a revision from DVC's cache, or its remote, into its tree."""
    dvc = shutil.which("dvc", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if dvc is None:
        raise UsageError("--own-model: DVC is not installed")
    for kept in (".dvc/cache", ".dvc/config.local"):
        if Path(kept).exists():
            (tree / kept).symlink_to(Path(kept).absolute())
    lock = (tree / DVC_LOCK).read_text(encoding="utf-8") if (tree / DVC_LOCK).exists() else ""
    models = [str(path) for path in (MODEL.exported, MODEL.compiled) if f"path: {path}" in lock]
    said = ""
    for verb in ("checkout", "pull"):
        words = [dvc, "--cd", str(tree), verb, *models]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if not done.returncode:
            return
        said = said or " ".join(done.stderr.split())
    raise UsageError(f"--own-model: {name}: {said}")
