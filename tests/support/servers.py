"""`litmeter serve` as a user runs it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from litmeter.direct.binding import KEY_VARIABLE
from litmeter.kinds.classifier import Classifier
from litmeter.kinds.configuration import Configuration
from litmeter.kinds.server import Start, StartedServer
from litmeter.paths import ModelFolders
from litmeter.system.processes import process_group
from tests.support.project import ROOT

APIS = Path(__file__).parent
"""The folder of lit_apis.py and stub_server.py."""


def stub_command(seconds: float) -> dict[str, str]:
    """Keys of a configuration that starts the stub server, which takes so long for an answer."""
    return {"command": f"python3 server.py {{port}} {seconds}", "ready": "/"}


STUB_PARAMS: dict[str, Any] = {
    "serve": stub_command(0.02),
    "experiments": {"slow": stub_command(0.1)},
    "load": {
        **{"bodies": "bodies.jsonl", "users": [1, 2], "requests": 5, "seed": 1},
        **{"min_s": 0.3, "max_s": 1.0, "warmup_s": 0.1, "timeout_s": 10.0},
    },
    "objective": {
        **{"slo_ms": 500.0, "miss": 0.05, "configurations": ["candidate"]},
        **{"tolerance": 0.5, "max_s": 5.0, "seed": 1},
    },
    "comparison": {"reference": "slow", "users": 2, "seconds": 5.0},
}
"""Two of them, in a project of their own, measured briefly."""


@dataclass(frozen=True)
class Command:
    """A running `litmeter serve`."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path


def make_project(folder: Path, folders: ModelFolders, **settings: object) -> None:
    """A project with the model in ``folder``, served as ours is where ``settings`` do not say otherwise."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["serve"] |= {"compiled": False, **settings}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    shutil.copytree(folders.exported, folder / "models/exported")


@contextmanager
def running_server(
    folders: ModelFolders,
    settings: Configuration,
    device: str = "cpu",
    timeout_s: float = 30.0,
    **options: Any,
) -> Iterator[StartedServer]:
    """A server that is ready; ``options`` are those of ``starting``."""
    settings = settings.of(folders) if isinstance(settings, Classifier) else settings
    with settings.starting(Start(device, timeout_s, **options)) as starting:
        starting.ready()
        yield starting


@contextmanager
def serve_command(
    folder: Path,
    folders: ModelFolders,
    *options: str,
    key: str | None = None,
    trusted: Path | None = None,
    **settings: object,
) -> Iterator[Command]:
    """`litmeter serve` of a model in the project ``folder``, once it is healthy.

    Args:
        folders: of the model, which is copied into the project.
        key: the API key in its environment.
        trusted: whose certificates to trust; asked by HTTPS.
        settings: of the serve section, where they are not the project's own.
    """
    make_project(folder, folders, **settings)
    port, log = free_port(), folder / "log"
    command = [sys.executable, "-m", "litmeter.cli.main", "serve", "--port", str(port), *options]
    url = f"{'https' if trusted else 'http'}://127.0.0.1:{port}"
    environment = {name: value for name, value in os.environ.items() if name != KEY_VARIABLE}
    environment |= {KEY_VARIABLE: key} if key else {}
    verify = str(trusted) if trusted else True
    with (
        log.open("wb") as output,
        subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output) as process,
    ):
        try:
            deadline = time.monotonic() + 120
            while not healthy(url, verify):
                if process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"it never became healthy: {log.read_text()}")
                time.sleep(0.1)
            yield Command(url, process, log)
        finally:
            process.terminate()


@contextmanager
def litserve_alone(batch: int, *apis: str) -> Iterator[str]:
    """URL of a server of LitAPIs (module:Class) of this folder by LitServe alone, each at /Class."""
    port = free_port()
    command = [sys.executable, "plain_litserve.py", str(port), str(batch), *apis]
    with process_group(command, cwd=APIS, stop_s=0.0) as process:  # LitServe does not handle SIGTERM
        while not healthy(url := f"http://127.0.0.1:{port}"):
            assert process.poll() is None
            time.sleep(0.1)
        yield url


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody has at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def healthy(url: str, verify: str | bool = True) -> bool:
    """Whether all of a server's workers are ready."""
    with suppress(requests.ConnectionError):
        return requests.get(f"{url}/health", timeout=5, verify=verify).status_code == 200
    return False
