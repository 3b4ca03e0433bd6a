"""The machine's measured peaks, against work that is timed here."""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter

import openvino
import pytest
import torch

from litmeter.classifier.model.compiled.model import openvino_options
from litmeter.classifier.model.graph import converted
from litmeter.peaks import measured_copying, measured_peaks, measured_reading
from litmeter.system.cores import whole_cores

CORES, TRIES = whole_cores(), 10


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of torch.export's own
def test_the_measured_peak_is_that_of_products_and_convolutions_timed_here() -> None:
    """None is faster, though the model that it is measured with has no convolution."""
    assert agree(measured_peak, lambda: max(fastest_product(), fastest_convolution()))
    assert any(fastest_convolution() < 1.1 * measured_peak() for _ in range(3))


def measured_peak() -> float:
    linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 2))
    return measured_peaks(linear, 32, "cpu", ["float32"], CORES)["float32"]


def fastest_product() -> float:
    rates = []
    for size in (512, 1024, 2048):
        factor = torch.randn(size, size)
        out = torch.empty_like(factor)
        multiply = functools.partial(torch.mm, factor, factor, out=out)
        rates.append(2 * size**3 / fastest_s(multiply))
    return max(rates)


def fastest_convolution() -> float:
    """As models run: compiled by OpenVINO, on one thread each."""
    layer, images = torch.nn.Conv2d(512, 512, 3, padding=1), torch.randn(4, 512, 7, 7)
    options = openvino_options(torch.float32, 1)
    compiled = openvino.Core().compile_model(converted(layer.eval(), images), "CPU", options)
    requests = [compiled.create_infer_request() for _ in range(CORES)]
    with ThreadPoolExecutor(CORES) as pool:
        seconds = fastest_s(lambda: [*pool.map(lambda one: one.infer([images.numpy()]), requests)])
    return CORES * 2 * images.numel() * layer.weight[0].numel() / seconds


def test_copying_and_reading_are_as_fast_as_timed_here() -> None:
    source = torch.ones(2**28, dtype=torch.uint8)
    target, numbers = torch.empty_like(source), source.view(torch.int64)
    copied_bytes = 2 * source.nbytes  # read and written
    assert agree(
        lambda: measured_copying("cpu", source.nbytes),
        lambda: copied_bytes / fastest_s(lambda: target.copy_(source)),
    )
    matrix, vector = torch.ones(2**14, 2**12), torch.ones(2**12)
    assert agree(
        lambda: measured_reading("cpu", source.nbytes),
        lambda: source.nbytes / min(fastest_s(numbers.sum), fastest_s(lambda: torch.mv(matrix, vector))),
    )


def agree(measure: Callable[[], float], timed: Callable[[], float]) -> bool:
    """Whether both at their best are near each other: others can only slow them down."""
    measured = fastest = 0.0
    for _ in range(TRIES):
        measured, fastest = max(measured, measure()), max(fastest, timed())
        if 0.6 * fastest < measured < 1.6 * fastest:
            return True
    return False


def fastest_s(work: Callable[[], object]) -> float:
    """Seconds of the fastest of 4 runs: the others were disturbed."""
    work()
    seconds = []
    for _ in range(4):
        started = perf_counter()
        work()
        seconds.append(perf_counter() - started)
    return min(seconds)
