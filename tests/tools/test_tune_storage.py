"""A search's study in a real PostgreSQL: two at once lose nothing."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from litmeter.params import ServeSettings
from litmeter.serving.launcher import free_port
from litmeter.tune.study import Round, Study

USER = "postgres"
ROUNDS = 20


def tool(name: str) -> str:
    """A program of PostgreSQL's, which Debian keeps off the PATH."""
    folders = [os.environ["PATH"], *(str(path) for path in Path("/usr/lib/postgresql").glob("*/bin"))]
    found = shutil.which(name, path=os.pathsep.join(folders))
    assert found is not None, f"this test runs {name}: `apt-get install postgresql` (Debian, Ubuntu)"
    return found


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of its own; as root it runs as another user, as it refuses to run as root."""
    folder = Path(tmp_path_factory.mktemp("postgres"))
    as_user = {}
    if os.getuid() == 0:
        entry = pwd.getpwnam(USER)
        as_user = {"user": entry.pw_uid, "group": entry.pw_gid}
        shutil.chown(folder, USER)
        for parent in folder.parents[:3]:
            if parent != Path("/tmp"):
                parent.chmod(0o755)
    data, port = folder / "data", free_port()
    setup = [tool("initdb"), "--pgdata", str(data), "--username", USER, "--auth", "trust"]
    subprocess.run(setup, check=True, capture_output=True, cwd=folder, **as_user)
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1"
    start = [tool("pg_ctl"), "-D", str(data), "-l", str(folder / "log"), "-w", "-o", options, "start"]
    subprocess.run(start, check=True, stdout=subprocess.DEVNULL, cwd=folder, **as_user)
    try:
        yield f"postgresql+psycopg2://{USER}@127.0.0.1:{port}/postgres"
    finally:
        stop = [tool("pg_ctl"), "-D", str(data), "-m", "immediate", "stop"]
        subprocess.run(stop, check=True, stdout=subprocess.DEVNULL, cwd=folder, **as_user)


def search(url: str, signature: str, names: list[str]) -> None:
    study = Study(url, signature)
    for number in range(ROUNDS):
        rates = {name: 100.0 + number for name in names}
        others = dict.fromkeys(names, 9.0)
        study.keep_round(Round(rates, others, others, dict.fromkeys(names, 0), 1.0))
    for number, name in enumerate(names):
        study.keep_trial(name, ServeSettings(max_batch_size=1 + number), 1.5)


def test_two_searches_at_once_lose_no_trial_and_no_round(url: str) -> None:
    """They begin in an empty database, which both fill with tables."""
    names = {machine: [f"{machine}-{number}" for number in range(8)] for machine in ("one", "other")}
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda machine: search(url, machine, names[machine]), names))
    for machine in names:
        study = Study(url, machine)
        assert [one.rates[f"{machine}-0"] for one in study.rounds()] == [100.0 + n for n in range(ROUNDS)]
        assert [trial.user_attrs["name"] for trial in study.trials()] == names[machine]
        assert [trial.params["max_batch_size"] for trial in study.trials()] == list(range(1, 9))
        assert {trial.value for trial in study.trials()} == {1.5}
