"""Results about the model: compiled packages, effects of precisions on the answers, and ceilings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from litmeter.stats.agreement import Agreement
from litmeter.system.files import Record

TEST, OTHER = "test", "other"
"""Splits of a PrecisionRow: the test photos, and those that the model was fitted or chosen by."""


@dataclass(frozen=True)
class PackageRow:
    """A row of plots/compiled.csv: a package; ``Package`` describes the fields."""

    precision: str
    batch_size: int
    eager_ms: float | None
    compiled_ms: float | None
    parts_ms: float | None
    compile_s: float
    skipped_reason: str | None
    remark: str | None = None


@dataclass(frozen=True)
class PrecisionRow(Agreement):
    """A row of plots/precisions.csv: how far the answers on a split are from the reference answers."""

    precision: str
    preprocess: str
    split: str


class PrecisionCeiling(Record):
    """What the device allows in one precision; None: not available.

    Attributes:
        peak_tflops: the datasheet's peak, else the measured one.
        measured_tflops: highest rate of the operations that were timed.
        instructions_tflops: peak of a CPU's instructions at the highest clock that it reports. The real clock
            of a virtual machine may be higher.
        theoretical_rps, datasheet_rps: images per second if only arithmetic took time, by ``peak_tflops``,
            and by a datasheet.
        bytes_weights, weights_gbs: the weights' bytes, and the rate at which so many bytes are read.
        bytes_activations: of one image.
        roofline_rps, roofline_bound, roofline_batch: images per second by the roofline, "compute" or
            "memory", and the smallest batch at which it is compute-bound.
    """

    peak_tflops: float | None = None
    measured_tflops: float | None = None
    instructions_tflops: float | None = None
    theoretical_rps: float | None = None
    datasheet_rps: float | None = None
    bytes_weights: int | None = None
    weights_gbs: float | None = None
    bytes_activations: int | None = None
    roofline_rps: float | None = None
    roofline_bound: str | None = None
    roofline_batch: int | None = None


class Ceilings(Record):
    """The model's cost, what the device allows, and the load generator's limit: metrics/ceilings.json.

    Attributes:
        parameters, macs, flops, flops_by_torch, counted_by: cost of an image, see ``Cost``; None: not
        counted.
        peak_source: the datasheet, or "measured".
        bandwidth_gbs: rate of data that no cache holds.
        last_caches_mib: size of all last-level caches.
        reported_ghz: the CPU's highest clock.
        client_limit_rps: requests per second that the load generator sends to a server that answers at once.
        precisions: by precision that the device can run.
    """

    architecture: str
    parameters: int | None = None
    macs: int | None = None
    flops: int | None = None
    flops_by_torch: int | None = None
    counted_by: str | None = None
    peak_source: str = "measured"
    bandwidth_gbs: float
    last_caches_mib: int = 0
    reported_ghz: float | None = None
    client_limit_rps: float
    precisions: Mapping[str, PrecisionCeiling]

    def of(self, precision: str | None) -> PrecisionCeiling:
        """The ceiling in ``precision``; nothing is known of a precision that the device cannot run."""
        return self.precisions.get(precision or "", PrecisionCeiling())

    def with_rooflines(self, rates_rps: Mapping[str, float]) -> Ceilings:
        """The same with other rooflines, by precision."""
        raised = dict(self.precisions)
        for precision, rate_rps in rates_rps.items():
            raised[precision] = self.of(precision).model_copy(update={"roofline_rps": rate_rps})
        return self.model_copy(update={"precisions": raised})


def image_ms(packages: Sequence[PackageRow], precision: str) -> float | None:
    """Milliseconds for an image on one thread, at the fastest batch size; None without a package."""
    times = [
        row.compiled_ms / row.batch_size
        for row in packages
        if row.precision == precision and row.compiled_ms is not None and row.skipped_reason is None
    ]
    return min(times, default=None)
