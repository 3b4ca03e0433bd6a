"""``litmeter quick`` and ``tune``, and capacity on other machines: what params.yaml says."""

from __future__ import annotations

import io
import json
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
from litmeter.errors import LitmeterError, ParamsError, ReportError, UsageError
from litmeter.model.card import served_digest
from litmeter.params import PARAMS_FILE, ParamsLoader, load_params
from litmeter.paths import DVC_LOCK, MACHINE, SECONDS, TUNE_METRICS
from litmeter.stages.order import COMPARISON_ONLY
from litmeter.system.files import read_json
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
        print("quick: trains, compiles and compares in a temporary copy; results are not kept", flush=True)
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
    params["train"]["epochs"] = min(EPOCHS, params["train"]["epochs"])
    sizes = params["compile"]["batch_sizes"]
    params["compile"]["batch_sizes"] = sorted({min(sizes), max(sizes)}) if sizes else []
    configurations = [params["serve"], *params["experiments"].values()]
    if not any(one.get("precision") == "int8" for one in configurations):
        params["compile"]["int8_photos"] = 0
    params["comparison"]["seconds"] = min(COMPARISON_S, params["comparison"]["seconds"])
    path.write_text(yaml.safe_dump(params))


def tune(*, apply: bool = False) -> None:
    """Search the fastest configuration, or apply it.

    Args:
        apply: write the last search's winner into params.yaml instead
    """
    if apply:
        apply_winner()
    else:
        from litmeter.stages.tune import main as search

        search()


def apply_winner() -> None:
    """Write the winner into the section ``serve`` of params.yaml; comments and layout stay.

    Raise ReportError without a result for this model on this machine, ParamsError where params.yaml does not
    allow the winner.
    """
    from dvc.utils.hydra import apply_overrides  # takes a second

    params = load_params()
    serve = params.serve
    try:
        metrics = read_json(TUNE_METRICS)
        winner, found_for = metrics["winner"], (metrics["machine"], metrics["weights_sha256"])
        changed = {key: value for key, value in winner.items() if getattr(serve, key) != value}
        here = (read_json(MACHINE)["id"], served_digest(params))
    except OSError as error:
        raise ReportError(f"{error.filename}: {error.strerror}; `make tune` makes it") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ReportError(f"{TUNE_METRICS}: malformed; `make tune` makes it again") from error
    if found_for != here:
        raise ReportError(f"{TUNE_METRICS}: found on another machine or for another model; run `make tune`")
    before = PARAMS_FILE.read_text(encoding="utf-8")
    section = yaml.load(before, ParamsLoader)["serve"]  # noqa: S506 -- a SafeLoader
    overrides = []  # as `dvc exp run -S` takes them: + adds a key, and JSON's words are Hydra's
    for key, value in changed.items():
        text = value if isinstance(value, str) else json.dumps(value)
        overrides.append(f"{'' if key in section else '+'}serve.{key}={text}")
    if overrides:
        apply_overrides(PARAMS_FILE, overrides)
    try:
        load_params()
    except ParamsError:
        PARAMS_FILE.write_text(before, encoding="utf-8")
        raise
    lines = [f"{key}: {getattr(serve, key)} -> {value}" for key, value in changed.items()]
    print("\n".join(lines) or f"{PARAMS_FILE} has the winner already")
