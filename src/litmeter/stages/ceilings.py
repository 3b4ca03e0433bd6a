"""Stage ``ceilings``: cost of the model, peaks of the device, and the rates that they allow in theory."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import psutil
import torch

from litmeter import peaks
from litmeter.classifier.ceilings import BYTES_PER_NUMBER, Cost, Traffic, cost_of, roofline, traffic_of
from litmeter.classifier.model.card import read_card
from litmeter.classifier.model.model import load_model
from litmeter.classifier.model.precision import dtype_name, precisions_on
from litmeter.classifier.model.rows import Ceilings, PrecisionCeiling
from litmeter.errors import LoadError
from litmeter.load import load_generator
from litmeter.load.bodies import Bodies
from litmeter.load.settings import LoadSettings
from litmeter.load.stub import running_stub
from litmeter.measure.levels import null_plan
from litmeter.measure.log import Log
from litmeter.measure.run import run
from litmeter.measure.subjects import Target
from litmeter.measure.turn import Turn, measure
from litmeter.params import half_is_native, params_on
from litmeter.paths import CEILINGS, MACHINE, MODEL, THEORETICAL
from litmeter.system.cores import whole_cores
from litmeter.system.files import read_json, write_csv, write_json


def main() -> Ceilings:
    """Write the model's cost, the device's peaks, the rates that follow, and the load generator's limit."""
    machine = read_json(MACHINE)
    params, device = params_on(machine)
    card = read_card(MODEL.exported)
    model = load_model(MODEL.exported, card, torch.device("cpu"), torch.float32)
    cost, traffic = cost_of(model, card.image_size), traffic_of(model, card.image_size)
    dtypes = {
        precision: dtype_name(precision, device)
        for precision in precisions_on(device)
        if precision != "half" or half_is_native(machine, device)
    }
    peak_flops = peaks.measured_peaks(model, card.image_size, device, [*dtypes.values()], whole_cores())
    bandwidth, cache = peaks.measured_bandwidth(device), peaks.cache_bytes(device)
    reading = {
        dtype: max(bandwidth, peaks.measured_reading(device, BYTES_PER_NUMBER[dtype] * traffic.weights))
        for dtype in dtypes.values()
    }
    known = peaks.find_device(machine["gpu"] if device == "cuda" else None)
    clock_hz = reported_clock_hz(device)
    found = Ceilings(
        architecture=card.architecture,
        parameters=cost and cost.parameters,
        macs=cost and cost.macs,
        flops=cost and cost.flops,
        flops_by_torch=cost and cost.torch_flops,
        counted_by=cost and cost.counted_by,
        peak_source=known.source if known else "measured",
        bandwidth_gbs=round(bandwidth / 1e9, 2),
        last_caches_mib=round(cache / 2**20),
        reported_ghz=clock_hz and round(clock_hz / 1e9, 2),
        client_limit_rps=client_limit_rps(params.load, params.bodies()),
        precisions={
            precision: precision_ceiling(
                precision,
                dtype,
                cost,
                traffic,
                peak_flops[dtype],
                known,
                Memory(bandwidth, reading[dtype], cache),
                instruction_peak(precision, machine, clock_hz),
            )
            for precision, dtype in dtypes.items()
        },
    )
    write_csv(THEORETICAL, theoretical_rows(cost))
    write_json(CEILINGS, found.model_dump())
    return found


class Memory(NamedTuple):
    """Bytes per second of data that no cache holds, and of the weights; bytes of all last-level caches."""

    bandwidth: float
    weights_bandwidth: float
    cache_bytes: int


def reported_clock_hz(device: str) -> float | None:
    """The highest clock that the CPU reports; None on a GPU, and if the system does not report it."""
    clock = None
    with suppress(AttributeError, OSError, NotImplementedError):
        clock = psutil.cpu_freq() if device == "cpu" else None
    return 1e6 * max(clock.current, clock.max) if clock else None


def instruction_peak(precision: str, machine: Mapping[str, Any], clock_hz: float | None) -> float | None:
    """FLOP/s that the CPU's instructions allow at a clock."""
    return clock_hz and peaks.instruction_peak_flops(
        precision, machine["cpu_flags"], machine["cores"], clock_hz
    )


def client_limit_rps(load: LoadSettings, bodies: Bodies) -> float:
    """Requests per second that the load generator sends to a stub server that answers at once.

    Raise LoadError where the stub does not answer every request.
    """
    with running_stub(service_s=0.0) as stub, load_generator(*bodies) as sender:
        turn = Turn("stub", null_plan(load))
        row = run(measure(turn), {"stub": Target(stub.url, sender)}, Log(), 2.0).row
    if row.failed or row.timed_out or row.rate_rps is None:
        raise LoadError(f"the stub server did not answer every request: {row.void}")
    return row.rate_rps


def theoretical_rows(cost: Cost | None) -> list[dict[str, Any]]:
    """The throughput of this model on every device of the table, if only arithmetic took time."""
    return [
        {
            "device": device.name,
            "full_tflops": device.full_tflops,
            "half_tflops": device.half_tflops,
            "full_rps": cost and round(1e12 * device.full_tflops / cost.flops),
            "half_rps": cost and round(1e12 * device.half_tflops / cost.flops),
            "source": device.source,
        }
        for device in peaks.DEVICES
    ]


def precision_ceiling(
    precision: str,
    dtype: str,
    cost: Cost | None,
    traffic: Traffic,
    peak_flops: float,
    known: peaks.Device | None,
    memory: Memory,
    instructions_flops: float | None = None,
) -> PrecisionCeiling:
    """Peaks, theoretical rates and the roofline in one precision; rates need the model's FLOPs.

    Args:
        dtype: torch's name of the precision.
        peak_flops: measured FLOP/s. The roofline is by this peak, as the bandwidth is measured, too.
        known: the device's datasheet.
    """
    datasheet = {"full": known.full_tflops, "half": known.half_tflops}[precision] if known else None
    tflops = peak_flops / 1e12 if datasheet is None else datasheet
    rate_rps = cost and round(1e12 * tflops / cost.flops, 1)
    bound = cost and roofline(cost.flops, traffic, dtype, peak_flops, *memory)
    return PrecisionCeiling(
        peak_tflops=round(tflops, 3),
        measured_tflops=round(peak_flops / 1e12, 3),
        instructions_tflops=instructions_flops and round(instructions_flops / 1e12, 3),
        theoretical_rps=rate_rps,
        datasheet_rps=None if datasheet is None else rate_rps,
        bytes_weights=BYTES_PER_NUMBER[dtype] * traffic.weights,
        weights_gbs=round(memory.weights_bandwidth / 1e9, 2),
        bytes_activations=BYTES_PER_NUMBER[dtype] * sum(traffic.activations),
        roofline_rps=bound and round(bound.rps, 1),
        roofline_bound=bound and bound.bound,
        roofline_batch=bound and bound.batch_size,
    )
