"""Fixtures of the tests of real servers."""

from __future__ import annotations

import pytest

from tests.support.certificates import Pem, write_pem


@pytest.fixture(scope="session")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Pem:
    """Files of an authority, and of a server that it vouches for."""
    return write_pem(tmp_path_factory.mktemp("pem"))
