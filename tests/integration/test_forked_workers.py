"""Workers are forked from a process that has imported what they need, whatever the transport."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from litmeter.classifier.model.environment import modules_of
from litmeter.classifier.model.settings import InferenceSettings
from litmeter.kinds.registry import read as read_keys
from litmeter.kinds.server import StartedServer
from litmeter.paths import ModelFolders
from tests.support.asking import wait_for
from tests.support.server_processes import by_role, command_of, tree
from tests.support.servers import running_server

IMPORTED_BY_A_PREDICTOR = """
import importlib, json, os, sys
from pathlib import Path
from litmeter.paths import ModelFolders
modules, settings, exported, compiled = json.loads(sys.argv[1])
for name in modules:
    importlib.import_module(name)
before = set(sys.modules)
from litmeter.classifier.model.predictor import Predictor
from litmeter.classifier.model.settings import InferenceSettings
folders = ModelFolders(Path(exported), Path(compiled))
Predictor(folders, "cpu", InferenceSettings.model_validate(settings))
print(json.dumps(sorted({name.split(".")[0] for name in set(sys.modules) - before})))
"""


@contextmanager
def server_of(
    folders: ModelFolders, transport: str
) -> Iterator[tuple[StartedServer, psutil.Process, list[psutil.Process]]]:
    """A server without time to drain, the process that its two workers were forked from, and these."""
    settings = read_keys({"transport": transport, "workers_per_device": 2, "drain_s": 0.0})
    with running_server(folders, settings) as server:
        wait_for(lambda: len(by_role(server.url, "worker")) == 2)
        workers = by_role(server.url, "worker")
        [forkserver] = {parent for worker in workers if (parent := worker.parent()) is not None}
        assert "forkserver" in command_of(forkserver)
        yield server, forkserver, workers


@pytest.mark.parametrize("transport", ["litserve", "direct"])
def test_workers_share_what_was_imported_and_end_with_their_server(
    transport: str, exported: ModelFolders
) -> None:
    """Pages that were written to and that several processes have: without a fork there are hardly any."""
    with server_of(exported, transport) as (server, _, workers):
        for worker in workers:
            assert sum(mapping.shared_dirty for mapping in worker.memory_maps(grouped=True)) > 50 * 2**20
        started = tree(server)
        server.process.terminate()
        _, left = psutil.wait_procs(started, 25)  # LitServe kills what has not ended after 30 s
        assert left == []
        assert server.process.wait() == 0
        assert server.log.read_text() == ""  # LitServe's monitor would call them dead


@pytest.mark.parametrize("victim", ["main", "forkserver"])
def test_workers_of_litserve_end_when_another_process_dies(victim: str, exported: ModelFolders) -> None:
    with server_of(exported, "litserve") as (server, forkserver, workers):
        (forkserver if victim == "forkserver" else psutil.Process(server.pid)).kill()
        _, left = psutil.wait_procs([forkserver, *workers], 60)
        assert left == []


@pytest.mark.parametrize("preprocess", ["torchvision", "timm"])
def test_a_predictor_imports_no_library_that_was_not_named(preprocess: str, exported: ModelFolders) -> None:
    settings = InferenceSettings.model_validate({"preprocess": preprocess, "compiled": False})
    job = [modules_of(settings, "cpu"), settings.model_dump(), str(exported.exported), str(exported.compiled)]
    command = [sys.executable, "-c", IMPORTED_BY_A_PREDICTOR, json.dumps(job)]
    done = subprocess.run(command, env=os.environ, check=True, capture_output=True, text=True)
    assert json.loads(done.stdout) == []
