"""``litmeter quick``: a first comparison within minutes, in a copy of the project that is thrown away."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from litmeter.errors import UsageError
from litmeter.params import load_params
from litmeter.paths import DVC_LOCK, SECONDS
from litmeter.stages.order import COMPARISON_ONLY
from litmeter.system.processes import process_group
from litmeter.system.temporary import scratch

EPOCHS = 1
COMPARISON_S = 60.0
"""At most, whatever params.yaml says."""


def main() -> int:
    """Run the pipeline up to ``comparison`` in a copy of the project; return DVC's exit status."""
    files = project_files()
    load_params()  # a mistake is reported with the path of the project's own file
    with scratch() as folder:
        for file in files:
            target = folder / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, target)
        shorten(folder / "params.yaml")
        (folder / ".dvc/config.local").write_text("[core]\n    no_scm = true\n")
        search_path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = os.environ | {"PATH": search_path, COMPARISON_ONLY: "1"}
        command = ["dvc", "--cd", str(folder), "repro", "comparison"]
        print("quick: trains, compiles and compares in a temporary copy; results are not kept", flush=True)
        with process_group(command, stdin=subprocess.DEVNULL, env=environment) as process:
            return process.wait()


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
