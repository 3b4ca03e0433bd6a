"""Fixtures of the tests of real servers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme


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
