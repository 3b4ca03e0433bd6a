"""Stage ``ceilings``: cost of the model, peaks of the device, and the rates that they allow in theory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import psutil
import torch

from litmeter.classifier.ceilings import BYTES_PER_NUMBER, Cost, Traffic, cost_of, roofline, traffic_of
from litmeter.classifier.model.card import ModelCard, read_card
from litmeter.classifier.model.model import load_model
from litmeter.classifier.model.precision import dtype_name, precisions_on
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
from litmeter.peaks import (
    DEVICES,
    cache_bytes,
    find_device,
    instruction_peak_flops,
    measured_bandwidth,
    measured_peaks,
    measured_reading,
)
from litmeter.system.cores import whole_cores
from litmeter.system.files import read_json, write_csv, write_json


def main() -> dict[str, Any]:
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
    peaks = measured_peaks(model, card.image_size, device, [*dtypes.values()], whole_cores())
    measured = {precision: peaks[dtype] for precision, dtype in dtypes.items()}
    memory = measured_memory(traffic, device, dtypes)
    write_csv(THEORETICAL, theoretical_rows(cost))
    metrics = ceiling_metrics(card, cost, measured, machine["gpu"] if device == "cuda" else None)
    metrics |= roofline_metrics(cost, traffic, device, measured, memory)
    metrics |= instruction_metrics(machine, device, measured)
    metrics["client_limit_rps"] = client_limit_rps(params.load, params.bodies())
    write_json(CEILINGS, metrics)
    return metrics


class Memory(NamedTuple):
    """Bytes per second: of data that no cache holds, and of the weights in each precision."""

    bandwidth: float
    weights: Mapping[str, float]


def measured_memory(traffic: Traffic, device: str, dtypes: Mapping[str, str]) -> Memory:
    """Rates of the memory; ``dtypes`` are torch's names of the precisions."""
    bandwidth = measured_bandwidth(device)
    weights = {
        precision: max(bandwidth, measured_reading(device, BYTES_PER_NUMBER[dtype] * traffic.weights))
        for precision, dtype in dtypes.items()
    }
    return Memory(bandwidth, weights)


def instruction_metrics(
    machine: Mapping[str, Any], device: str, precisions: Iterable[str]
) -> dict[str, float | None]:
    """Peaks of a CPU's instructions at the highest clock that it reports; None on a GPU.

    The real clock of a virtual machine may be higher.
    """
    clock = None
    with suppress(AttributeError, OSError, NotImplementedError):  # not every system reports it
        clock = psutil.cpu_freq() if device == "cpu" else None
    clock_hz = 1e6 * max(clock.current, clock.max) if clock else None
    peaks = {
        precision: clock_hz
        and instruction_peak_flops(precision, machine["cpu_flags"], machine["cores"], clock_hz)
        for precision in precisions
    }
    tflops = {f"instructions_{one}_tflops": peak and round(peak / 1e12, 3) for one, peak in peaks.items()}
    return {"reported_ghz": clock_hz and round(clock_hz / 1e9, 2), **tflops}


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
        for device in DEVICES
    ]


def ceiling_metrics(
    card: ModelCard, cost: Cost | None, measured: dict[str, float], gpu_name: str | None
) -> dict[str, Any]:
    """Cost, peaks and theoretical rates; peaks are those of the datasheet, or measured where there is none.

    Args:
        measured: peak FLOP/s by precision.
    """
    known = find_device(gpu_name)
    peaks = {p: flops / 1e12 for p, flops in measured.items()}
    datasheet = {"full": known.full_tflops, "half": known.half_tflops} if known else {}
    used = datasheet or peaks
    rates = {p: cost and round(1e12 * used[p] / cost.flops, 1) for p in measured}
    return {
        "architecture": card.architecture,
        "parameters": cost and cost.parameters,
        "macs": cost and cost.macs,
        "flops": cost and cost.flops,
        "flops_by_torch": cost and cost.torch_flops,
        "counted_by": cost and cost.counted_by,
        "peak_source": known.source if known else "measured",
        **{f"peak_{p}_tflops": round(used[p], 3) for p in measured},
        **{f"measured_{p}_tflops": round(peaks[p], 3) for p in measured},
        **{f"theoretical_{p}_rps": rates[p] for p in measured},
        **{f"datasheet_{p}_rps": rates[p] if datasheet else None for p in measured},
    }


def roofline_metrics(
    cost: Cost | None, traffic: Traffic, device: str, measured: dict[str, float], memory: Memory
) -> dict[str, Any]:
    """Rooflines by ``measured`` peaks (FLOP/s, by precision) and rates of the memory; none without FLOPs."""
    cache = cache_bytes(device)
    metrics: dict[str, Any] = {
        "bandwidth_gbs": round(memory.bandwidth / 1e9, 2),
        "last_caches_mib": round(cache / 2**20),
    }
    if cost is None:
        return metrics
    for precision in measured:
        dtype = dtype_name(precision, device)
        read = memory.weights[precision]
        bound = roofline(cost.flops, traffic, dtype, measured[precision], memory.bandwidth, read, cache)
        metrics |= {
            f"bytes_weights_{precision}": BYTES_PER_NUMBER[dtype] * traffic.weights,
            f"weights_{precision}_gbs": round(read / 1e9, 2),
            f"bytes_activations_{precision}": BYTES_PER_NUMBER[dtype] * sum(traffic.activations),
            f"roofline_{precision}_rps": round(bound.rps, 1),
            f"roofline_{precision}_bound": bound.bound,
            f"roofline_{precision}_batch": bound.batch_size,
        }
    return metrics
