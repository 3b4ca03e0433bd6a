"""``litmeter quick``, and capacity on other machines: the pipeline in a copy of the project."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO

import yaml

from litmeter.cli.cluster import as_started, on_each_node
from litmeter.errors import LitmeterError, UsageError
from litmeter.params import load_params
from litmeter.paths import DVC_LOCK, SECONDS
from litmeter.stages.order import COMPARISON_ONLY
from litmeter.system.processes import log_tail, process_group
from litmeter.system.temporary import scratch

EPOCHS = 1
COMPARISON_S = 60.0
"""Of ``quick``, at most, whatever params.yaml says."""


def quick() -> int:
    """Run the pipeline up to ``comparison`` in a copy of the project; return DVC's exit status."""
    files = project_files()
    load_params()  # a mistake is reported with the path of the project's own file
    with scratch() as folder:
        for file in files:
            target = folder / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, target)
        shorten(folder / "params.yaml")
        print("quick: runs up to the comparison in a temporary copy; results are not kept", flush=True)
        return reproduce(folder, "comparison", {**os.environ, COMPARISON_ONLY: "1"})


def reproduce(
    folder: Path, target: str, environment: Mapping[str, str], output: IO[bytes] | None = None
) -> int:
    """Run the pipeline up to ``target`` in a copy of the project without git; return DVC's exit status."""
    import dvc  # noqa: F401 -- where it is not installed, this is said

    (folder / ".dvc/config.local").write_text("[core]\n    no_scm = true\n")
    search_path = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    command = ["dvc", "--cd", str(folder), "repro", target]
    environment = {**environment, "PATH": search_path}
    with process_group(command, env=environment, stdout=output, stderr=output) as process:
        return process.wait()


CAPACITY = "ondemand/dvc.yaml:capacity"
CAPACITY_RESULTS = ("metrics/capacity", "plots/capacity")
BROUGHT_BACK = ("params.yaml", "metrics/machine.json", *CAPACITY_RESULTS)
"""Files and folders."""


def measure_on_cluster(address: str, show: Callable[[str], None]) -> Iterator[tuple[str, bytes]]:
    """Measure the capacity of the last commit on each machine of a Ray cluster in turn.

    Args:
        address: HOST:PORT
        show: called with a line about a machine; one that fails is left out.

    Yields:
        the machine's name, and BROUGHT_BACK as a zip file.

    Raises:
        UsageError: this is no project, or ``address`` is not allowed; LoadError: it cannot be reached.
    """
    packed = subprocess.run(["git", "archive", "--format=zip", "HEAD"], capture_output=True, check=False)
    if packed.returncode:
        raise UsageError(f"{Path.cwd()} is not the project's folder, a git repository with a commit")
    yield from on_each_node(address, measure_capacity, packed.stdout, show)


def measure_capacity(project: bytes) -> bytes:
    """Measure the capacity of a zipped ``project`` on this node; return BROUGHT_BACK as a zip file.

    Raise LitmeterError where the pipeline fails.
    """
    with scratch() as folder, (log := folder / "log").open("wb") as output:
        copy = folder / "project"
        zipfile.ZipFile(io.BytesIO(project)).extractall(copy)
        for results in CAPACITY_RESULTS:
            shutil.rmtree(copy / results, ignore_errors=True)
        if status := reproduce(copy, CAPACITY, as_started(), output):
            raise LitmeterError(f"`dvc repro {CAPACITY}` failed (exit status {status}){log_tail(log)}")
        found = io.BytesIO()
        with zipfile.ZipFile(found, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in BROUGHT_BACK:
                for path in sorted([copy / name, *(copy / name).rglob("*")]):
                    archive.write(path, path.relative_to(copy))
        return found.getvalue()


def project_files() -> list[Path]:
    """The project's files that git does not ignore, except results; raise UsageError where it is none."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    names = [Path(name) for name in listed.stdout.split("\0") if name]
    if listed.returncode or Path("params.yaml") not in names:
        raise UsageError(f"{Path.cwd()} is not the project's folder, a git repository with params.yaml")
    # DVC would leave out what has not changed since an earlier run; how long that took is kept, and said.
    results = {path for path in names if path == DVC_LOCK or path.parts[0] in ("assets", "metrics", "plots")}
    return [
        path for path in names if path.is_file() and (path not in results or path.is_relative_to(SECONDS))
    ]


def shorten(path: Path) -> None:
    """Have the params.yaml at ``path`` train, compile and compare for a short time."""
    params = yaml.safe_load(path.read_bytes())
    if params.get("train"):
        params["train"]["epochs"] = min(EPOCHS, params["train"]["epochs"])
    if "compile" in params:
        sizes = params["compile"]["batch_sizes"]
        params["compile"]["batch_sizes"] = sorted({min(sizes), max(sizes)}) if sizes else []
        configurations = [params["serve"], *params["experiments"].values()]
        if not any(one.get("precision") == "int8" for one in configurations):
            params["compile"]["int8_photos"] = 0
    params["comparison"]["seconds"] = min(COMPARISON_S, params["comparison"]["seconds"])
    path.write_text(yaml.safe_dump(params))
