"""``litmeter quick``: the pipeline up to the comparison, shortened, in a copy of the project."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from litmeter.errors import UsageError
from litmeter.params import load_params
from litmeter.paths import DVC_FILE, DVC_LOCK
from litmeter.settings import PARAMS_FILE
from litmeter.system.processes import process_group
from litmeter.system.temporary import scratch

MOST_EPOCHS = 1
MOST_COMPARISON_S = 60.0
NOT_COMPARED = ("precisions", "ceilings", "benchmark", "candidate", "report")
"""Stages that the comparison does not need."""


def quick() -> int:
    """Run the pipeline up to ``comparison`` in a copy of the project; return DVC's exit status."""
    import dvc  # noqa: F401 -- a missing DVC is reported here

    with scratch() as folder:
        copy_project(folder)
        load_params()  # an error names the project's own file
        shorten(folder)
        (folder / ".dvc").mkdir(exist_ok=True)  # it may lie above the project
        (folder / ".dvc/config.local").write_text("[core]\n    no_scm = true\n")
        print("quick: runs up to the comparison in a temporary copy; results are not kept", flush=True)
        search_path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        command = ["dvc", "--cd", str(folder), "repro", "comparison"]
        with process_group(command, env={**os.environ, "PATH": search_path}) as process:
            return process.wait()


def copy_project(folder: Path) -> None:
    """Copy the project into ``folder``, without results and files that git ignores.

    Raise UsageError where the current folder has no params.yaml, or is in no git repository.
    """
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    files = [Path(name) for name in listed.stdout.split("\0") if name]
    if listed.returncode or PARAMS_FILE not in files:
        raise UsageError(f"{Path.cwd()} is not the project's folder, a git repository with {PARAMS_FILE}")
    for file in files:
        # By these, DVC would leave out stages that have not changed.
        is_result = file == DVC_LOCK or file.parts[0] in ("assets", "metrics", "plots")
        if file.is_file() and not is_result:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, folder / file)


def shorten(folder: Path) -> None:
    """Have the project in ``folder`` train, compile and compare for a short time, and do nothing else."""
    dvc_file, params_file = folder / DVC_FILE, folder / PARAMS_FILE
    pipeline = yaml.safe_load(dvc_file.read_bytes())
    pipeline["stages"] = {name: own for name, own in pipeline["stages"].items() if name not in NOT_COMPARED}
    dvc_file.write_text(yaml.safe_dump(pipeline, sort_keys=False))
    params = yaml.safe_load(params_file.read_bytes())
    if params.get("train"):
        params["train"]["epochs"] = min(MOST_EPOCHS, params["train"]["epochs"])
    if "compile" in params:
        sizes = params["compile"]["batch_sizes"]
        params["compile"]["batch_sizes"] = sorted({min(sizes), max(sizes)}) if sizes else []
        configurations = [params.get("serve", {}), *params["experiments"].values()]
        if not any(one.get("precision") == "int8" for one in configurations):
            params["compile"]["int8_photos"] = 0
    params["comparison"]["seconds"] = min(MOST_COMPARISON_S, params["comparison"]["seconds"])
    params_file.write_text(yaml.safe_dump(params))
