"""Fixtures of the tests of real servers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import trustme

from litmeter.measure.rounds import Pace, comparison, head_to_head, restarted

BRIEF = Pace(
    turn_s=0.2, first_turn_s=1.0, slow_turn_s=2.0, fewest_turns=3, fewest_rounds=4, answers=20, block_s=4.0
)


@pytest.fixture(autouse=True)
def _brief_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands in the test's own process measure briefly."""
    schedules = {"cli.compare": head_to_head, "cli.check": restarted, "stages.comparison": comparison}
    for module, schedule in schedules.items():
        name = f"litmeter.{module}.{schedule.__name__}"
        monkeypatch.setattr(name, partial(schedule, pace=BRIEF))


@dataclass(frozen=True)
class Pem:
    """PEM files of an authority and of a server at 127.0.0.1 that it vouches for."""

    authority: Path
    certificate: Path
    key: Path


@pytest.fixture(scope="session")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Pem:
    folder = tmp_path_factory.mktemp("pem")
    authority = trustme.CA()
    server = authority.issue_cert("127.0.0.1")
    files = Pem(folder / "authority.pem", folder / "certificate.pem", folder / "key.pem")
    authority.cert_pem.write_to_path(files.authority)
    for blob in server.cert_chain_pems:
        blob.write_to_path(files.certificate, append=True)
    server.private_key_pem.write_to_path(files.key)
    return files
