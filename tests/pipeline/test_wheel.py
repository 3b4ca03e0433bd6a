"""The wheel in an environment of its own, without any extra: small, and enough to measure servers with."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from importlib.metadata import distributions

import pytest

from litmeter.errors import EXTRAS
from tests.pipeline.conftest import Clone
from tests.support.servers import APIS

MIB_AT_MOST = 400


@pytest.fixture(scope="module")
def installed(new_clone: Callable[[], Clone], tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A folder whose .venv has the wheel, and what it needs, from the registry: not even pip."""
    clone, folder = new_clone(), tmp_path_factory.mktemp("user")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    clone.run(*pip, "wheel", "--no-deps", "--wheel-dir", str(folder / "dist"), ".")
    [wheel] = (folder / "dist").glob("litmeter-*.whl")
    clone.run(sys.executable, "-m", "venv", "--without-pip", str(folder / ".venv"))
    clone.run(*pip, "--python", str(folder / ".venv/bin/python"), "install", str(wheel))
    return Clone(folder)


def test_it_is_small_and_brings_no_extra(installed: Clone) -> None:
    [packages] = (installed.path / ".venv/lib").glob("python*/site-packages")
    size = sum(path.lstat().st_size for path in packages.rglob("*"))
    assert size <= MIB_AT_MOST * 2**20
    modules = {path.name for path in packages.iterdir()}
    assert "litserve" in modules
    assert set(EXTRAS) & modules == set()
    assert "litmeter" in {one.name for one in distributions(path=[str(packages)])}


LIT_API = """
import time
import litserve

class Stub(litserve.LitAPI):
    def __init__(self, seconds):
        super().__init__()
        self.seconds = seconds

    def setup(self, device):
        pass

    def predict(self, x):
        time.sleep(self.seconds)
        return x
"""


@pytest.fixture(scope="module")
def served(installed: Clone) -> Clone:
    shutil.copy(APIS / "stub_server.py", installed.path)
    (installed.path / "server.py").write_text(LIT_API)
    (installed.path / "body.json").write_text("{}")
    return installed


def test_a_project_is_written_and_says_how_to_get_dvc(served: Clone) -> None:
    litmeter = str(served.path / ".venv/bin/litmeter")
    words = ("init", "server.py:Stub api_kwargs.seconds=0.002", "--body", "body.json")
    assert "pip install 'litmeter[dvc]'" in served.run(litmeter, *words).stdout
    assert "server.py" in (served.path / "dvc.yaml").read_text()


def test_a_lit_api_and_a_command_are_compared(served: Clone) -> None:
    servers = (
        "fast=server:Stub api_kwargs.seconds=0.002",
        "slow=python3 stub_server.py {port} 0.05",
    )
    litmeter = str(served.path / ".venv/bin/litmeter")
    given = ("--body", "body.json", "--users", "2", "--seconds", "5", "--json")
    [pair] = json.loads(served.run(litmeter, "compare", *servers, *given).stdout)["pairs"]
    first, second = pair["name"], pair["other"]
    assert {first, second} == {"fast", "slow"}
    assert (pair["ratio"] > 1) == (first == "fast")
