"""Results of revisions and of DVC's experiments, laid out from git while they are read."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from litmeter.errors import LitmeterError, ReportError, UsageError
from litmeter.report.snapshot import Snapshot, read_snapshot

READ = ("params.yaml", "metrics", "plots")


def read_revision(name: str) -> Snapshot:
    """The results that a commit holds, or an experiment of `dvc exp run`.

    Raises:
        UsageError: there is no such revision; ReportError: it has no complete results.
    """
    revision = resolve(name)
    archived = subprocess.run(["git", "archive", revision, *READ], capture_output=True)
    if archived.returncode:
        raise ReportError(f"{name}: {archived.stderr.decode(errors='replace').strip()}")
    with TemporaryDirectory(prefix="litmeter-") as folder:
        with tarfile.open(fileobj=io.BytesIO(archived.stdout)) as archive:
            if hasattr(tarfile, "data_filter"):  # not in the first releases of Python 3.10 and 3.11
                archive.extractall(folder, filter="data")
            else:
                archive.extractall(folder)
        with _working_in(Path(folder)):
            try:
                return read_snapshot(name)
            except LitmeterError as error:
                raise ReportError(f"{name}: {error}") from error


def resolve(name: str) -> str:
    """The commit of a revision or an experiment.

    Raises:
        UsageError: there is none.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.scm import RevError, resolve_rev

    try:
        commit: str = resolve_rev(Repo(".").scm, name)
    except (DvcException, RevError) as error:
        raise UsageError(
            f"{name}: neither a revision nor an experiment of `dvc exp list` ({error})"
        ) from error
    return commit


@contextmanager
def _working_in(folder: Path) -> Iterator[None]:
    """All paths of the project are relative to the current folder."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
