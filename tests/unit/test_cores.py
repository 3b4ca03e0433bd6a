"""The cores that a process may use, by its affinity and the quotas of its cgroups."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from litmeter.kinds.classifier import Classifier
from litmeter.kinds.lit_api import LitApi
from litmeter.stages.comparison import probes_of
from litmeter.system.cores import available_cores, throttled_s, whole_cores
from litmeter.system.machine import fingerprint

FREE = float(len(os.sched_getaffinity(0)))
V2, V1 = "0::/pod/server\n", "12:cpuset:/\n3:cpu,cpuacct:/docker/c0ffee\n0::/\n"
"""/proc/self/cgroup in each version."""


@pytest.mark.parametrize(
    ("own", "files", "cores", "stopped_s"),
    [
        (V2, {}, FREE, 0.0),
        (V2, {"pod/server/cpu.max": "max 100000"}, FREE, 0.0),
        (V2, {"pod/server/cpu.max": "50000 100000"}, 0.5, 0.0),
        (V2, {"cpu.max": "6400000 100000"}, min(FREE, 64.0), 0.0),
        (
            V2,
            {"pod/server/cpu.max": "75000 100000", "pod/cpu.max": "25000 50000", "cpu.max": "max 1"},
            0.5,
            0.0,
        ),
        (V2, {"pod/server/cpu.stat": "usage_usec 9\nnr_throttled 3\nthrottled_usec 1500000"}, FREE, 1.5),
        (V1, {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, FREE, 0.0),
        (V1, {"cpu/cpu.cfs_quota_us": "75000", "cpu/cpu.cfs_period_us": "100000"}, 0.75, 0.0),
        (V1, {"cpuset/cpu.cfs_quota_us": "1", "cpuset/cpu.cfs_period_us": "100000"}, FREE, 0.0),
        (V1, {"cpu/cpu.stat": "nr_periods 9\nnr_throttled 3\nthrottled_time 1500000000"}, FREE, 1.5),
    ],
)
def test_the_smallest_quota_above_a_process_counts(
    tmp_path: Path, own: str, files: dict[str, str], cores: float, stopped_s: float
) -> None:
    (cgroup := tmp_path / "own").write_text(own)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    assert available_cores(tmp_path, cgroup) == cores
    assert throttled_s(tmp_path, cgroup) == stopped_s


@pytest.mark.usefixtures("one_cpu")
def test_all_count_the_cores_that_may_be_used() -> None:
    """On one CPU two workers crowd each other, however many CPUs the machine has."""
    assert whole_cores() == fingerprint()["cores"] == 1
    crowded = probes_of(Classifier(workers_per_device=2, threads_per_worker=1), users=8)
    assert [(one.kind, one.busy, one.threads) for one in crowded] == [
        ("crowded", 2, None),
        ("one_thread", 2, 1),
    ]


@pytest.mark.usefixtures("one_cpu")
def test_twice_the_workers_are_tried_where_they_wait_and_there_are_users_for_them() -> None:
    alone, eight = LitApi(api="server:API"), LitApi(api="server:API", max_batch_size=8)
    assert [(one.kind, one.busy) for one in probes_of(alone, users=8, used=0.1)] == [("more", 2)]
    assert probes_of(alone, users=8, used=0.9) == probes_of(alone, users=8) == []
    assert probes_of(alone, users=1, used=0.1) == probes_of(eight, users=8, used=0.1) == []


def test_batches_that_users_cannot_fill_are_probed_on_any_device() -> None:
    two = LitApi(api="server:API", max_batch_size=8, workers_per_device=2)
    for device in ("cpu", "cuda"):
        assert [(one.kind, one.batch_size) for one in probes_of(two, 8, device)][:1] == [("filled", 8)]
    assert probes_of(two, 16, "cuda") == []
    huge = LitApi(api="server:API", max_batch_size=4096)
    assert [(one.kind, one.batch_size) for one in probes_of(huge, 8, "cuda")] == [("filled", 32)]
