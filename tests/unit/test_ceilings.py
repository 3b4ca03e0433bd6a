"""Cost, traffic and rooflines against hand arithmetic; peaks against what is timed here."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

from litmeter.classifier.ceilings import Cost, Traffic, cost_of, roofline, traffic_of
from litmeter.classifier.model.rows import PrecisionCeiling
from litmeter.peaks import (
    Operation,
    _torch_product,
    buffer_bytes,
    fastest_flops,
    find_device,
    last_caches_bytes,
    measured_peaks,
)
from litmeter.stages.ceilings import (
    Memory,
    instruction_peak,
    precision_ceiling,
    reported_clock_hz,
    theoretical_rows,
)


class Small(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 3, padding=1, bias=False),
            nn.Conv2d(8, 8, 5, stride=2, padding=2, groups=8, bias=False),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 10),
        )


def test_cost_and_traffic_of_a_small_net_are_hand_arithmetic() -> None:
    cost, traffic = cost_of(Small(), image_size=32), traffic_of(Small(), image_size=32)
    assert cost is not None
    dense, depthwise = 3 * 8 * 9 * 32 * 32, 8 * 25 * 16 * 16
    assert cost.macs == dense + depthwise + 8 * 10 + 10  # ptflops counts the addition of a bias
    assert cost.flops == 2 * cost.macs
    assert cost.parameters == traffic.weights == 3 * 8 * 9 + 8 * 25 + 8 * 10 + 10
    assert sum(traffic.activations) == (3 + 8) * 32 * 32 + 8 * (32 * 32 + 16 * 16) + 8 + 10


@pytest.mark.parametrize("dtype", [torch.int8, torch.bfloat16])
def test_products_are_timed_on_the_device(dtype: torch.dtype) -> None:
    product = _torch_product("meta", dtype, 64)
    assert {one.device.type for one in product.args} == {"meta"}


MANY = Traffic(0, (600_000, 400_000))
FEW = Traffic(250_000, ())


@pytest.mark.parametrize(
    ("given", "bound", "batch_size", "rps"),
    [
        # One image: 2 FLOPs and 4 bytes a weight; the machine does 8 FLOPs while it moves a byte.
        ((2_000_000, Traffic(1_000_000, ()), "float32", 8e9, 1e3, 1e9, 0), "compute", 16, 8e9 / 2_000_000),
        ((2_000_000, MANY, "bfloat16", 8e9, 1e9, 1e3, 0), "memory", None, 1e9 / 2_000_000),
        # Activations of 2.4 and 1.6 MB count as far as they exceed the last cache.
        ((1_000, MANY, "float32", 8e15, 1e9, 1e9, 1_000_000), "memory", None, 1e9 / (1_400_000 + 600_000)),
        ((1_000, MANY, "float32", 8e15, 1e9, 1e9, 2**40), "compute", 1, 8e15 / 1_000),
        # Weights of 1 MB are read at their own rate: in 10 us from a cache, in 1 ms from memory.
        ((1_000, FEW, "float32", 1e9, 1e9, 1e11, 2**20), "compute", 16, 1e9 / 1_000),
        ((1_000, FEW, "float32", 1e9, 1e3, 1e11, 0), "compute", 16, 1e9 / 1_000),
        ((1_000, FEW, "float32", 1e9, 1e9, 1e9, 2**20), "memory", None, 256_000),
    ],
)
def test_the_roofline_is_hand_arithmetic(
    given: tuple[Any, ...], bound: str, batch_size: int | None, rps: float
) -> None:
    assert roofline(*given) == (pytest.approx(rps), bound, batch_size)


def test_the_t4_row_is_the_studys_arithmetic() -> None:
    cost = cost_of(timm.create_model("convnext_tiny", num_classes=2), 224)
    assert cost.flops == pytest.approx(cost.torch_flops, rel=0.01)
    assert cost.macs == pytest.approx(4.45e9, rel=0.01)
    [t4] = [row for row in theoretical_rows(cost) if row["device"] == "T4"]
    assert (t4["full_tflops"], t4["half_tflops"]) == (8.1, 65.0)
    assert t4["full_rps"] == pytest.approx(1820 / 2, rel=0.01)
    assert t4["half_rps"] == pytest.approx(14_640 / 2, rel=0.01)


@pytest.mark.parametrize(
    ("reported", "name"),
    [
        ("Tesla T4", "T4"),
        ("NVIDIA A100 80GB PCIe", "A100"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA H100 80GB HBM3", "H100 SXM"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA A10G", None),
        ("NVIDIA GeForce RTX 4090 D", None),
        (None, None),
    ],
)
def test_a_gpu_is_found_by_cudas_name_for_it(reported: str | None, name: str | None) -> None:
    found = find_device(reported)
    assert (found.name if found else None) == name


def test_a_measured_peak_replaces_a_missing_datasheet() -> None:
    cost = Cost(parameters=10, macs=500_000_000, torch_flops=1_000_000_000, counted_by="ptflops")
    measured = {"full": 0.2e12, "half": 0.4e12}
    traffic, memory = Traffic(10, ()), Memory(1e10, 1e10, 0)

    def found(precision: str, gpu: str | None) -> PrecisionCeiling:
        dtype = {"full": "float32", "half": "bfloat16"}[precision]
        known = find_device(gpu)
        return precision_ceiling(precision, dtype, cost, traffic, measured[precision], known, memory)

    assert [found(one, None).theoretical_rps for one in measured] == [200.0, 400.0]
    assert found("full", None).datasheet_rps is None
    t4 = found("full", "Tesla T4")
    assert (t4.theoretical_rps, t4.datasheet_rps, t4.measured_tflops) == (8100.0, 8100.0, 0.2)


def test_what_both_libraries_run_is_timed_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two at once of OpenVINO's; the model's convolution, in batches of 1 and 8, in torch."""
    timed: list[Operation] = []
    monkeypatch.setattr("litmeter.peaks.fastest_flops", lambda operations, _: timed.extend(operations))
    measured_peaks(Small(), 32, "cpu", ["float32", "int8"], cores=2)
    products = {2 * size**3 for size in (512, 1024, 2048)}
    own = {2 * batch * macs for batch in (1, 8) for macs in (3 * 8 * 9 * 32**2, 8 * 25 * 16**2)}
    rows, images = 512, 4
    compiled = {rows * 512**2, rows * 1024**2}
    compiled |= {
        images * channels**2 * kernel**2 * side**2
        for kernel, channels, side in ((3, 256, 14), (3, 512, 7), (1, 512, 14))
    }
    of_openvino = {2 * 2 * macs for macs in compiled}
    for dtype, of_torch in (("float32", products | own), ("int8", products)):
        assert {one.flops for one in timed if one.dtype == dtype} == of_torch | of_openvino
    with torch.inference_mode():
        for one in timed:
            one.run()


def test_operations_that_would_take_their_library_seconds_are_not_tried() -> None:
    tried = []

    def work(library: str, dtype: str, flops: int) -> Operation:
        return Operation(library, dtype, flops, lambda: tried.append((library, dtype, flops)))

    slow, other, fast = ("a", "bfloat16", 1000), ("a", "float32", 10**22), ("b", "bfloat16", 10**21)
    found = fastest_flops([work(*one) for one in (slow, other, fast, ("a", "bfloat16", 10**20))], "cpu")
    assert set(tried) == {slow, other, fast}
    assert found["float32"] > found["bfloat16"] > 10**20


def test_operations_take_turns_and_the_fastest_run_of_all_counts() -> None:
    tried = []

    def work(name: str, flops: int) -> Operation:
        return Operation("torch", "float32", flops, lambda: tried.append(name))

    slow, fast = (fastest_flops([work("slow", 10), work("fast", flops)], "cpu") for flops in (10, 10**6))
    assert fast["float32"] > 1000 * slow["float32"]
    turns = [name for name, _ in itertools.groupby(tried)]
    assert turns.count("slow") == turns.count("fast") > 4


def caches(folder: Path, cpu: int, level: int, shared: str, size: str) -> None:
    """What Linux lists of a cache of a CPU."""
    own = folder / f"cpu{cpu}" / "cache" / f"index{level}"
    own.mkdir(parents=True)
    for name, content in {"level": f"{level}", "shared_cpu_list": shared, "size": size}.items():
        (own / name).write_text(f"{content}\n")


def test_every_last_cache_counts_once(tmp_path: Path) -> None:
    """Four CPUs: two share a last cache, and two another."""
    for cpu in range(4):
        caches(tmp_path, cpu, 2, f"{cpu}", "98304K")
        caches(tmp_path, cpu, 3, "0-1" if cpu < 2 else "2-3", "32768K")
    (tmp_path / "cpufreq").mkdir()
    assert last_caches_bytes(tmp_path) == 2 * 32 * 2**20
    assert last_caches_bytes(tmp_path / "cpufreq") == 0


@pytest.mark.parametrize(
    ("cache_mib", "free_mib", "expected_mib"),
    [(32, 24_000, 256), (768, 24_000, 3000), (768, 100_000, 3072), (0, 24_000, 256), (0, 1024, 128)],
)
def test_a_buffer_exceeds_all_caches_and_two_leave_three_quarters_of_the_memory(
    cache_mib: int, free_mib: int, expected_mib: int
) -> None:
    assert buffer_bytes(cache_mib * 2**20, free_mib * 2**20) == expected_mib * 2**20


def test_the_roofline_never_lies_above_the_theoretical_rate() -> None:
    """Both come from the same peak, which is rounded for showing only."""
    cost, traffic = (
        Cost(parameters=3_000_000, macs=384_000_000, torch_flops=768_000_000, counted_by="ptflops"),
        Traffic(3_000_000, ()),
    )
    memory = Memory(1e13, 1e13, 0)
    for peak_flops in (208.4999e9, 208.5001e9, 0.4e9, 0.8e9):
        found = precision_ceiling("full", "float32", cost, traffic, peak_flops, None, memory)
        assert found.roofline_rps <= found.theoretical_rps


def test_without_a_reported_clock_instructions_allow_nothing_that_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing() -> None:
        raise NotImplementedError

    monkeypatch.setattr("psutil.cpu_freq", missing)
    assert reported_clock_hz("cpu") is None
    assert instruction_peak("full", {"cpu_flags": ["avx2"], "cores": 2}, None) is None
