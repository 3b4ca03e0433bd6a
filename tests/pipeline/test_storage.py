"""No space, or not allowed to write: one line, and the last result stands.

The disks are real ones, mounted where only the stage sees them (user_namespaces(7)).
"""

from __future__ import annotations

import subprocess
import tempfile

import pytest

from litmeter.classifier.server.client import request_bodies
from litmeter.params import load_params
from tests.pipeline.conftest import PET, Clone, results_of

BLOCK = 4096


def run_stage(clone: Clone, mounts: str, *stage: str) -> subprocess.CompletedProcess[str]:
    """Run a stage that sees what the shell commands ``mounts`` have mounted."""
    script = f'{mounts} || exit 99; exec python3 src/stage.py "$@"'
    done = clone.run("unshare", "-rm", "sh", "-c", script, "sh", *stage, check=False)
    assert done.returncode != 99, f"this test needs to mount a disk: {done.stderr}"
    return done


def full(folder: str, size: int) -> str:
    return f"mount -t tmpfs -o size={size} tmpfs {folder}"


READ_ONLY = "mount --bind {0} {0} && mount -o remount,bind,ro {0}"
BENCHMARK = ("benchmark", "e1_baseline")


@pytest.mark.parametrize(
    ("mounts", "stage", "path", "reason"),
    [
        (full("assets/results", 4 * BLOCK), ("report",), "assets/results/", "No space left on device"),
        (READ_ONLY.format("metrics"), ("report",), "metrics/summary.json", "Read-only file system"),
        (  # before anything is measured
            READ_ONLY.format("plots/turns"),
            BENCHMARK,
            "plots/turns/e1_baseline.csv",
            "Read-only file system",
        ),
    ],
)
def test_results_that_cannot_be_written_are_one_line(
    ran: Clone, mounts: str, stage: tuple[str, ...], path: str, reason: str
) -> None:
    before = results_of(ran)
    done = run_stage(ran, mounts, *stage)
    assert done.returncode == 2
    [said] = done.stderr.splitlines()
    assert said.startswith(f"{stage[0]}: {path}")
    assert reason in said
    assert "req/s" not in done.stdout
    assert results_of(ran) == before


@pytest.mark.parametrize("whole", [0.5, 1.0], ids=["the stage writes", "its load generator writes"])
def test_a_full_disk_for_temporary_files_is_one_line(ran: Clone, whole: float) -> None:
    """There is space for half of the request bodies, or for them and no more."""
    before = results_of(ran)
    photos = sorted((ran.path / PET / "images").glob("*.jpg"))
    form = load_params(ran.path / "params.yaml").load.request_body
    bodies = sum(-len(body) // BLOCK * -BLOCK for body in request_bodies(photos, form))
    with tempfile.TemporaryDirectory() as folder:  # its path is short enough for sockets
        mounts = f"{full(folder, int(whole * bodies) + 4 * BLOCK)} && export TMPDIR={folder}"
        done = run_stage(ran, mounts, *BENCHMARK)
    assert done.returncode == 2
    [said] = done.stderr.splitlines()
    assert folder in said
    assert "free some, then run it again" in said
    assert results_of(ran) == before
