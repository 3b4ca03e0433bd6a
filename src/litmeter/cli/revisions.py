"""What ``litmeter check`` serves: of a revision, in a worktree of its own, and of the working tree."""

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

from litmeter.cli.own import Sent, settings_of
from litmeter.cli.quick import copy_project
from litmeter.cli.requirements import changed_requirements
from litmeter.errors import UsageError
from litmeter.kinds.command import Command
from litmeter.kinds.configuration import Configuration
from litmeter.kinds.registry import kind_of
from litmeter.params import Params
from litmeter.paths import MODEL
from litmeter.report.git import changes, commit_of, forget_removed, git, share_ignored, worktree
from litmeter.settings import CANDIDATE, PARAMS_FILE, checked, read_sections
from litmeter.system.temporary import scratch


class Revisions(NamedTuple):
    """Two revisions that can be served.

    Attributes:
        commit: the old one's.
        settings: of the old one and of the new.
        shared: what git ignores and both use.
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
    """Lay out the revision ``against`` until the block is left, beside the working tree.

    Raise UsageError or ParamsError where one of both has nothing to serve, or the two need other packages.
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
        keys = _changed_keys(_read_params(old), _read_params(Path()))  # before a copy is changed
        if command is not None:
            [given] = settings_of([f"command={command}"], sent).values()
            if (here := given.get("folder")) is None:
                raise UsageError(
                    f"--command: got {command!r}; allowed: a command with {{port}}, or module:Class"
                )
            folders = [tree / os.path.relpath(here) for tree in (old, Path.cwd())]
            found = [_settings({**given, "folder": str(folder)}, "--command") for folder in folders]
        else:
            found = [
                stack.enter_context(_served(tree, configuration, name))
                for tree, name in ((old, against), (Path.cwd(), "working tree"))
            ]
        for settings, name in zip(found, (against, "working tree"), strict=True):
            _check_own_litmeter(settings, name)
        yield Revisions(commit, (found[0], found[1]), shared, changes(commit), keys)


@contextmanager
def _served(tree: Path, configuration: str, name: str) -> Iterator[Configuration]:
    """The settings of a configuration of a tree's params.yaml; a tree's own code serves a classifier."""
    content = _read_params(tree)
    section = content.get("serve") if configuration == CANDIDATE else None
    section = section or content.get("experiments", {}).get(configuration)
    if section is None:
        raise UsageError(f"{name}: {PARAMS_FILE} has no {Params.section_of(configuration)}")
    if (keys := kind_of(section).in_tree(section, tree)) is not None:
        yield _settings(keys, name)
        return
    with ExitStack() as stack:
        if tree == Path.cwd():
            tree = stack.enter_context(_copy())
        (tree / PARAMS_FILE).write_text(yaml.safe_dump({**content, "serve": section}), encoding="utf-8")
        # The package had another name once.
        package = next((path.parts[-3] for path in tree.glob("src/*/cli/main.py")), "litmeter")
        words = [sys.executable, "-m", f"{package}.cli.main", "serve", "--port"]
        yield Command(command=f"{shlex.join(words)} {{port}}", folder=str(tree))


def _settings(content: Mapping[str, Any], name: str) -> Configuration:
    return checked(kind_of(content), content, f"{name}: ")


OWN_SETTINGS = """
import json, sys
from litmeter.direct.settings import LitApiSettings
try:
    LitApiSettings(**json.loads(sys.argv[1]))
except ValueError as error:
    first = error.errors()[0]
    sys.exit(".".join(map(str, first["loc"])) + ": " + first["msg"])
"""
"""Python that reads a LitAPI's settings as a tree's own litmeter does, if it has one."""


def _check_own_litmeter(settings: Configuration, name: str) -> None:
    """Raise UsageError where a LitAPI lies beside a litmeter that does not serve it, as before it did."""
    folders = [(settings.place or Path()) / part for part in ("src", "")]
    if not settings.runs_litmeter or not any((folder / "litmeter").is_dir() for folder in folders):
        return
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders))}
    words = [sys.executable, "-c", OWN_SETTINGS, settings.model_dump_json(exclude_defaults=True)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["it ended"])[-1]
        why = "of another version" if "ModuleNotFoundError" in said else f"that does not serve it ({said})"
        raise UsageError(f"{name}: the LitAPI lies beside a litmeter {why}")


@contextmanager
def _copy() -> Iterator[Path]:
    """A copy of the working tree: its params.yaml can be changed, and edits meanwhile do not matter."""
    with scratch() as folder:
        copy_project(folder)
        share_ignored(Path(), folder)
        yield folder


def _read_params(tree: Path) -> dict[str, Any]:
    """The content of a tree's params.yaml, which other code may check; empty where it has none."""
    return read_sections(tree / PARAMS_FILE) if (tree / PARAMS_FILE).exists() else {}


def _changed_keys(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Changed keys, each with both values."""
    found = []
    for key in [*old, *(key for key in new if key not in old)]:
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            found += _changed_keys(before, after, f"{prefix}{key}.")
        elif before != after:
            found.append(f"{prefix}{key}: {before} -> {after}")
    return found


def _check_out(tree: Path, name: str) -> None:
    """Bring a revision's own models and data from DVC's cache, or its remote, into its tree."""
    dvc = shutil.which("dvc", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if dvc is None:
        raise UsageError("--own-model: DVC is not installed")
    for kept in (".dvc/cache", ".dvc/config.local"):
        if Path(kept).exists():
            (tree / kept).symlink_to(Path(kept).absolute())
    own = [str(path) for path in (MODEL.exported, MODEL.compiled) if f"path: {path}" in _lock(tree)]
    said = ""
    for verb in ("checkout", "pull"):
        words = [dvc, "--cd", str(tree), verb, *own]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if not done.returncode:
            return
        said = said or " ".join(done.stderr.split())
    raise UsageError(f"--own-model: {name}: {said}")


def _lock(tree: Path) -> str:
    lock = tree / "dvc.lock"
    return lock.read_text(encoding="utf-8") if lock.exists() else ""
