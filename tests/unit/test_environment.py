"""Freed memory is kept: what is allocated again costs no page faults."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FAULTS_OF_LARGE_BLOCKS = """
import resource, sys
from litmeter.classifier.model.environment import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
def touch():
    for _ in range(5):
        bytearray(b"x") * 50_000_000
touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
touch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(memory: str) -> int:
    return int(subprocess.check_output([sys.executable, "-c", FAULTS_OF_LARGE_BLOCKS, memory], text=True))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library's malloc")
def test_a_block_that_was_freed_costs_no_page_faults_again() -> None:
    assert faults("kept") < faults("given back") / 10
