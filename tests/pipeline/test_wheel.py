"""The wheel in an environment of its own, without any extra: small, and enough to measure servers with."""

from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import distributions
from pathlib import Path

import pytest

from litmeter.errors import EXTRAS
from tests.pipeline.conftest import Clone

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


def test_two_servers_are_loaded_and_the_faster_one_is_seen(installed: Clone) -> None:
    rates = {service_s: rate_of_a_stub(installed, service_s) for service_s in (0.004, 0.04)}
    assert rates[0.04] < rates[0.004]


def rate_of_a_stub(user: Clone, service_s: float) -> float:
    """Requests per second of a server that takes so long for each."""
    python, out = str(user.path / ".venv/bin/python"), Path("levels.csv")
    (user.path / "body.json").write_text("{}")
    with subprocess.Popen(
        [python, "-m", "litmeter.load.stub", f"[{service_s}, 1, 200, false, 0, false]"],
        cwd=user.path,
        stdout=subprocess.PIPE,
        text=True,
    ) as stub:
        assert stub.stdout is not None
        url = f"http://127.0.0.1:{stub.stdout.readline().strip()}"
        try:
            given = ("--url", url, "--body-file", "body.json", "--users", "2", "--out", str(out))
            user.run(str(user.path / ".venv/bin/litmeter"), "loadtest", *given, check=False)
        finally:
            stub.kill()
    with (user.path / out).open() as file:
        [row] = csv.DictReader(file)
    return float(row["rate_rps"])
