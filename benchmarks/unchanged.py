"""Whether e1 to e6 are as fast as at a former commit: ``python -m benchmarks.unchanged COMMIT``.

The former code lies in a work tree of its own and is measured by its own code, old and new in turn.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from benchmarks.goals import keep
from servebench.paths import EXPORT_FOLDER, INDEX
from servebench.progress import bar

ROUNDS = 5
EXPERIMENTS = ("e1_baseline", "e2_batching", "e3_workers", "e4_half", "e5_timeout", "e6_batch_cap")
PROGRAM = """
import json, sys
from benchmarks.short import all_bodies, short_rates
from servebench.params import load_params
from servebench.paths import EXPORT_FOLDER
from servebench.serving.running import running_server
serve = load_params().configuration(sys.argv[1])
with running_server(EXPORT_FOLDER, serve, "cpu", 30.0) as server:
    print(json.dumps(short_rates(server, all_bodies(), (1,), 3.0, int(sys.argv[2]))[1]))
"""


@contextmanager
def work_tree(commit: str) -> Iterator[Path]:
    """The project as it was at ``commit``, with today's model and index."""
    with tempfile.TemporaryDirectory(prefix="servebench-former-") as scratch:
        tree = Path(scratch) / "tree"
        subprocess.run(["git", "worktree", "add", "-q", "--detach", str(tree), commit], check=True)
        try:
            for path in (EXPORT_FOLDER, INDEX):
                (tree / path).parent.mkdir(parents=True, exist_ok=True)
                (tree / path).symlink_to(path.resolve())
            yield tree
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(tree)], check=True)


def rate(tree: Path, name: str, seed: int) -> float:
    """Requests per second of one experiment at one user, by the code in ``tree``."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(tree / "src"), str(tree)))}
    command = [sys.executable, "-c", PROGRAM, name, str(seed)]
    done = subprocess.run(command, cwd=tree, env=environment, stdout=subprocess.PIPE, check=True)
    return float(json.loads(done.stdout))


def main() -> None:
    """Measure each experiment in both trees in every round, and keep the ratios."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.unchanged", description=__doc__)
    parser.add_argument("commit", help="the former one")
    commit = parser.parse_args().commit
    ratios: dict[str, list[float]] = {name: [] for name in EXPERIMENTS}
    with work_tree(commit) as former, bar(ROUNDS * len(EXPERIMENTS), "unchanged", "pair") as progress:
        for number in range(ROUNDS):
            for name in EXPERIMENTS:
                order = (former, Path.cwd()) if number % 2 else (Path.cwd(), former)
                rates = {tree: rate(tree, name, number) for tree in order}
                ratios[name].append(rates[Path.cwd()] / rates[former])
                progress.update()
    keep(
        "unchanged",
        f"e1 to e6 within 5% of {commit}: the median ratio that is furthest from 1",
        0.05,
        [max(abs(median(own) - 1) for own in ratios.values())],
        at_least=False,
        ratios={name: [round(value, 3) for value in own] for name, own in ratios.items()},
    )


if __name__ == "__main__":
    main()
