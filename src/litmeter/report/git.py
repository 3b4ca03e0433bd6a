"""Revisions of a git repository, in temporary worktrees."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

from litmeter.errors import UsageError
from litmeter.system.processes import process_group
from litmeter.system.temporary import PREFIX, scratch

EXPERIMENTS = "refs/exps/*/*/"
"""Commits of DVC's experiments, below the commit that they started from."""
NOT_SHARED = ("__pycache__", "*.py[co]", "*.so", "*.pyd", "*.egg-info", "build", "dist", ".*_cache", "tmp")
"""Files that are made from code, or belong to a single tree."""


def git(*words: str | Path) -> str:
    """The output of a git command; raise UsageError where it fails.

    The processes that it starts end with it: one of them writes a worktree's files.
    """
    if shutil.which("git") is None:
        raise UsageError("git is not installed")
    pipe = subprocess.PIPE
    with process_group(["git", *map(str, words)], stdout=pipe, stderr=pipe) as process:
        said, errors = map(os.fsdecode, process.communicate())
    if process.returncode:
        raise UsageError(f"git {words[0]}: {' '.join(errors.split())}")
    return said


def commit_of(name: str) -> str:
    """The commit of a revision, or of DVC's experiment ``name``; raise UsageError where there is none."""
    git("rev-parse", "--git-dir")  # raises outside of a repository
    try:
        return git("rev-parse", "--verify", "--end-of-options", f"{name}^{{commit}}").strip()
    except UsageError:
        found = git("for-each-ref", "--format=%(objectname)", f"{EXPERIMENTS}{name}").split()
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(f"{name}: {len(found)} experiments have this name; name one by its commit")
    shallow = git("rev-parse", "--is-shallow-repository").strip() == "true"
    hint = "; this clone is shallow (fetch-depth: 0 clones all)" if shallow else ""
    raise UsageError(f"{name}: neither a revision nor an experiment of `dvc exp list`{hint}")


@contextmanager
def worktree(commit: str) -> Iterator[Path]:
    """Check out ``commit`` in a worktree until the block is left.

    After a kill, ``report_stale_files`` removes the worktree, and the next call removes its registration.
    """
    try:
        with scratch() as folder:
            no_hooks = f"core.hooksPath={os.devnull}"  # DVC's would check out all data
            git("-c", no_hooks, "worktree", "add", "--quiet", "--detach", folder / "tree", commit)
            yield folder / "tree"
    finally:
        forget_removed()


def forget_removed() -> None:
    """Remove the registrations of temporary worktrees that no longer exist; no others."""
    lines = git("worktree", "list", "--porcelain", "-z").split("\0")
    paths = [Path(line.removeprefix("worktree ")) for line in lines if line.startswith("worktree ")]
    for path in paths:
        if path.parent.name.startswith(PREFIX) and not path.exists():
            git("worktree", "remove", "--force", "--force", path)  # also where git was stopped within "add"


def share_ignored(source: Path, target: Path) -> list[str]:
    """Link files that git ignores in ``source`` (models, data, environments) into another tree without them.

    Return the linked paths. Files of NOT_SHARED are left out.
    """
    options = ("--others", "--ignored", "--exclude-standard", "--directory", "-z")
    linked: list[str] = []
    for name in filter(None, git("-C", source, "ls-files", *options).split("\0")):
        _link(source, Path(name), target, linked)
    return linked


def _link(source: Path, path: Path, target: Path, linked: list[str]) -> None:
    if any(fnmatch(part, pattern) for part in path.parts for pattern in NOT_SHARED):
        return
    place = target / path
    if not os.path.lexists(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to((source / path).absolute())
        linked.append(str(path))
    elif (source / path).is_dir() and place.is_dir() and not place.is_symlink():
        for child in sorted((source / path).iterdir()):
            _link(source, child.relative_to(source), target, linked)


def changes(commit: str) -> str:
    """Changed files below the current folder since ``commit``, as `git diff --stat` lists them."""
    tracked = git("diff", "--stat=80,60,12", commit, "--", ".").rstrip("\n")
    untracked = git("ls-files", "--others", "--exclude-standard").splitlines()
    return "\n".join([*filter(None, [tracked]), *(f" {name} | not tracked" for name in untracked)])
