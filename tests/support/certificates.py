"""Certificates, as an authority of its own issues them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True)
class Pem:
    """PEM files of an authority and of a server that it vouches for."""

    authority: Path
    certificate: Path
    key: Path


def write_pem(folder: Path) -> Pem:
    """Of a server at 127.0.0.1, in ``folder``."""
    authority = trustme.CA()
    server = authority.issue_cert("127.0.0.1")
    files = Pem(folder / "authority.pem", folder / "certificate.pem", folder / "key.pem")
    authority.cert_pem.write_to_path(files.authority)
    for blob in server.cert_chain_pems:
        blob.write_to_path(files.certificate, append=True)
    server.private_key_pem.write_to_path(files.key)
    return files
