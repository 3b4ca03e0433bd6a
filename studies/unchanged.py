"""Whether e1 to e6 are as fast as at a former commit: ``python -m studies.unchanged COMMIT``.

The former code lies in a work tree of its own. Both servers run at the same time and are loaded in turn,
a few seconds each, by today's load generator: cores that change their speed do so for both.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from servebench.paths import EXPORT_FOLDER, INDEX
from servebench.serving.launcher import RunningServer
from servebench.system.machine_lock import exclusive_machine
from servebench.system.progress import bar
from studies.goals import keep
from studies.short import all_bodies, short_rates

ROUNDS = 15
SECONDS = 2.0
EXPERIMENTS = ("e1_baseline", "e2_batching", "e3_workers", "e4_half", "e5_timeout", "e6_batch_cap")
PROGRAM = """
import sys
from servebench.params import load_params
from servebench.paths import EXPORT_FOLDER
from servebench.serving.launcher import running_server
with running_server(EXPORT_FOLDER, load_params().configuration(sys.argv[1]), "cpu", 30.0) as server:
    print(server.url, flush=True)
    sys.stdin.read()
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


@contextmanager
def served_by(tree: Path, name: str) -> Iterator[RunningServer]:
    """The server of one experiment, started by the code in ``tree``."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(tree / "src"), str(tree)))}
    command = [sys.executable, "-c", PROGRAM, name]
    with subprocess.Popen(
        command, cwd=tree, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield RunningServer(process.stdout.readline().decode().strip(), process, 0.0, tree / "log")
        process.stdin.close()


def main() -> None:
    """Measure each experiment in both trees in every round, and keep the ratios."""
    parser = argparse.ArgumentParser(prog="python -m studies.unchanged", description=__doc__)
    parser.add_argument("commit", help="the former one")
    commit = parser.parse_args().commit
    ratios: dict[str, list[float]] = {name: [] for name in EXPERIMENTS}
    bodies = all_bodies()
    with (
        exclusive_machine(),
        work_tree(commit) as former,
        bar(ROUNDS * len(EXPERIMENTS), "unchanged", "pair") as progress,
    ):
        for name in EXPERIMENTS:
            with served_by(former, name) as old, served_by(Path.cwd(), name) as new:
                short_rates(old, bodies, (1,), SECONDS, 0)
                short_rates(new, bodies, (1,), SECONDS, 0)
                for number in range(ROUNDS):
                    servers = (old, new) if number % 2 else (new, old)
                    rates = {
                        server.url: short_rates(server, bodies, (1,), SECONDS, number)[1]
                        for server in servers
                    }
                    ratios[name].append(rates[new.url] / rates[old.url])
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
