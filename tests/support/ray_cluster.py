"""A node of a Ray cluster, as `ray start` makes it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from litmeter.system.processes import process_group
from litmeter.system.temporary import scratch

QUIET = ("--disable-usage-stats", "--num-cpus=1", "--object-store-memory=100000000", "--block")


@contextmanager
def running_node(
    address: str, *, head: bool = False, own: str = "127.0.0.1", prefix: Sequence[str] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    """A node of the cluster at ``address``, in a process group; it leaves the cluster at the block's end.

    Args:
        head: it makes the cluster.
        own: its own address.
        prefix: of the command, as ``ip netns exec NAME``.
    """
    command = [
        *prefix,
        str(Path(sys.executable).with_name("ray")),
        "start",
        f"--node-ip-address={own}",
        *QUIET,
    ]
    with scratch() as folder:
        if head:
            port = address.rpartition(":")[2]
            command += ["--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={folder}"]
        else:
            command += [f"--address={address}"]
        with process_group(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stop_s=0.0) as process:
            said = []
            for line in process.stdout:
                said.append(line.decode())
                if "Ray runtime started" in said[-1]:
                    break
            else:
                raise AssertionError("".join(said))
            yield process
