"""Time compiled packages: ``python -m litmeter.model.compiled.gain JOB``, a line of JSON for each.

A process of its own, so that it can be started with the environment of a worker that keeps freed memory.
Without that, timm's modules spend most of their time on page faults, and the gain would be overstated.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from operator import itemgetter
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch

from litmeter.model.compiled.model import BatchModel, load_package, run_in_parts, split
from litmeter.model.compiled.package import eager_model, example_batch
from litmeter.model.device import dtype_name
from litmeter.stats.comparison import Ratio, ratio

ROUNDS, EAGER_ROUNDS = 10, 4
ROUND_S = 0.05
"""Runs of each model, in turn: a machine that slows down for longer slows down all. Timm's has only the first
ones where they resolve a difference: it is mostly two or three times slower than a package."""


@dataclass(frozen=True)
class Timing:
    """Wall times of a run on a batch, by round, milliseconds.

    Attributes:
        eager_ms: of the model as timm builds it, maybe in the first rounds only; empty in int8, where there
            is none.
        compiled_ms: of the package.
        parts: batch sizes of smaller packages that make up the batch; empty where there are none.
        parts_ms: of these, one after another.
    """

    eager_ms: Sequence[float]
    compiled_ms: Sequence[float]
    parts: Sequence[int] = ()
    parts_ms: Sequence[float] = ()


def main() -> None:
    """Time each package of the job (JSON: folder, device, packages), and say why it is not used.

    It is used if it is faster than timm's model in the same precision, where there is one, and not slower
    than smaller packages.
    """
    job: dict[str, Any] = json.loads(sys.argv[1])
    folder, device = Path(job["folder"]), job["device"]
    packages = sorted(job["packages"], key=itemgetter("precision", "batch_size"))
    for precision, group in itertools.groupby(packages, key=itemgetter("precision")):
        eager = None if precision == "int8" else eager_model(folder, device, precision)
        dtype = getattr(torch, dtype_name(precision, device))
        used: dict[int, BatchModel] = {}
        for package in group:
            size = package["batch_size"]
            example = example_batch(folder, device, size)
            compiled = load_package(Path(package["path"]), dtype, example.device)
            timing = time_package(eager, compiled, used, example)
            reason = reason_against(timing)
            if reason is None:
                used[size] = compiled
            line = {
                "precision": precision,
                "batch_size": size,
                "timing": asdict(timing),
                "reason": reason,
                "remark": remark_on(timing),
            }
            print(json.dumps(line), flush=True)


def time_package(
    eager: BatchModel | None, compiled: BatchModel, used: Mapping[int, BatchModel], example: torch.Tensor
) -> Timing:
    """Time a package beside the model it was compiled from, and beside the smaller ones that are ``used``."""
    parts = split(len(example), sorted(used, reverse=True))
    models = {"compiled": compiled}
    if eager is not None:
        models["eager"] = eager
    if set(parts) <= set(used):
        models["parts"] = partial(run_in_parts, sizes=parts, model_of=used.__getitem__)
    times = times_ms(models, example)
    made_up = parts if "parts" in times else ()
    return Timing(times.get("eager", ()), times["compiled"], made_up, times.get("parts", ()))


def reason_against(timing: Timing) -> str | None:
    """Why a package is not used: it may be no faster than timm's model, or smaller ones are faster."""
    if timing.eager_ms:
        over_eager = gain_over(timing.compiled_ms, timing.eager_ms)
        if not over_eager.resolved:
            return f"no difference resolved from timm's model: {gain_text(over_eager)}"
        if over_eager.ratio < 1:
            return f"slower than timm's model: {gain_text(over_eager)}"
    if timing.parts_ms:
        over_parts = gain_over(timing.compiled_ms, timing.parts_ms)
        if over_parts.resolved and over_parts.ratio < 1:
            return f"slower than {parts_text(timing)}: {gain_text(over_parts)}"
    return None


def remark_on(timing: Timing) -> str | None:
    """What is to be said of a package that is used: it may be no faster than smaller ones."""
    if not timing.parts_ms or reason_against(timing) is not None:
        return None
    over_parts = gain_over(timing.compiled_ms, timing.parts_ms)
    if over_parts.resolved:
        return None
    return f"no difference resolved from {parts_text(timing)}: {gain_text(over_parts)}"


def parts_text(timing: Timing) -> str:
    """The smaller packages that make up the batch."""
    return f"packages for {' + '.join(map(str, timing.parts))}"


def gain_over(own_ms: Sequence[float], other_ms: Sequence[float]) -> Ratio:
    """The rate over another's in the rounds that both had, with its interval."""
    pairs = list(zip(own_ms, other_ms, strict=False))
    rates = {"own": [1 / own for own, _ in pairs], "other": [1 / other for _, other in pairs]}
    return ratio(rates, "own", "other", reference="other")


def gain_text(gain: Ratio) -> str:
    """A ratio of rates with its interval."""
    return f"{gain.ratio:.2f} times the rate ({gain.low:.2f} to {gain.high:.2f})"


@torch.inference_mode()
def times_ms(models: dict[str, BatchModel], example: torch.Tensor) -> dict[str, list[float]]:
    """Median wall time of a run by round, milliseconds; each round has the reverse order of the last."""
    medians: dict[str, list[float]] = {name: [] for name in models}
    for model in models.values():  # the first run of each is a warm-up
        run_ms(model, example)
    for number in range(ROUNDS):
        for name in list(models) if number % 2 else reversed(models):
            if name == "eager" and number >= EAGER_ROUNDS and is_resolved(medians):
                continue
            deadline = perf_counter() + ROUND_S
            times = [run_ms(models[name], example)]
            while perf_counter() < deadline:
                times.append(run_ms(models[name], example))
            medians[name].append(median(times))
    return medians


def is_resolved(medians: Mapping[str, Sequence[float]]) -> bool:
    """Whether the rounds so far show that a package is faster, or slower, than timm's model."""
    return gain_over(medians["compiled"], medians["eager"]).resolved


def run_ms(model: BatchModel, example: torch.Tensor) -> float:
    """Wall time of one run, milliseconds."""
    started = perf_counter()
    model(example)
    if example.is_cuda:
        torch.cuda.synchronize()
    return 1000 * (perf_counter() - started)


if __name__ == "__main__":
    main()
