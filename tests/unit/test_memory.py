"""Free memory that lies scattered: how much there is, and that it is held."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from litmeter.system.memory import STEP_BYTES, ScatteredMemory, scattered_memory

MIB = 2**20


@pytest.fixture
def free_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in which the system says what is free."""
    path = tmp_path / "buddyinfo"
    monkeypatch.setattr("litmeter.system.memory.FREE_BLOCKS", path)
    monkeypatch.setattr("litmeter.system.memory.mmap.PAGESIZE", 4096)
    return path


def own_mib() -> float:
    return float(psutil.Process().memory_info().rss / MIB)


def test_blocks_below_two_mib_lie_scattered(free_blocks: Path) -> None:
    free_blocks.write_text(
        "Node 0, zone    DMA32      1      0      0      0      0      0      0      0      0      0    752\n"
        "Node 0, zone   Normal      3      2      1      0      0      0      0      0      1     17     99\n"
    )
    assert scattered_memory() == 4096 * (1 + 3 + 2 * 2 + 4 + 256)


def test_a_system_that_does_not_say_has_none(free_blocks: Path) -> None:
    assert scattered_memory() == 0
    memory = ScatteredMemory(10.0)
    memory.take()
    assert not memory.give_back()


def test_it_is_taken_once_and_given_back_for_good(free_blocks: Path) -> None:
    free_blocks.write_text(f"Node 0, zone Normal {64 * MIB // 4096} 0 0\n")
    memory, before = ScatteredMemory(10.0), own_mib()
    for _ in range(2):
        memory.take()
        assert own_mib() - before == pytest.approx(64, abs=8)
    assert memory.give_back()
    assert own_mib() - before < 8
    memory.take()
    assert not memory.give_back()


def test_no_more_is_taken_than_a_machine_that_is_in_use_can_spare(
    free_blocks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("litmeter.system.memory.TAKEN_BYTES", 64 * MIB)
    free_blocks.write_text(f"Node 0, zone Normal {256 * MIB // 4096} 0 0\n")
    memory, before = ScatteredMemory(10.0), own_mib()
    memory.take()
    assert own_mib() - before == pytest.approx(64, abs=8)
    assert memory.give_back()


def test_no_more_is_taken_than_there_is_time_for(free_blocks: Path) -> None:
    free_blocks.write_text(f"Node 0, zone Normal {256 * MIB // 4096} 0 0\n")
    memory, before = ScatteredMemory(0.0), own_mib()
    memory.take()
    assert own_mib() - before == pytest.approx(STEP_BYTES / MIB, abs=8)
    assert memory.give_back()
