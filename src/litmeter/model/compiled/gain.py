"""Time compiled packages: ``python -m litmeter.model.compiled.gain`` prints a line of JSON for each.

A process of its own, so that it can be started with the environment of a worker that keeps freed memory.
Without that, timm's modules spend most of their time on page faults, and the gain would be overstated.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from functools import partial
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


def main() -> None:
    """Time each package of the job (JSON: folder, device, precision, packages), and say if it is used.

    It is used if it is faster than timm's model in the same precision, where there is one, and not slower
    than smaller packages.
    """
    job: dict[str, Any] = json.loads(sys.stdin.readline())
    folder, device, precision = Path(job["folder"]), job["device"], job["precision"]
    eager = None if precision == "int8" else eager_model(folder, device, precision)
    dtype = getattr(torch, dtype_name(precision, device))
    used: dict[int, BatchModel] = {}
    for size, path in job["packages"]:
        example = example_batch(folder, device, size)
        compiled = load_package(Path(path), dtype, example.device)
        models = {"compiled": compiled}
        if eager is not None:
            models["eager"] = eager
        parts = split(size, sorted(used, reverse=True))  # smaller packages that make up the batch
        if set(parts) <= set(used):
            models["parts"] = partial(run_in_parts, sizes=parts, model_of=used.__getitem__)
        found = findings(times_ms(models, example), parts)
        if found["skipped_reason"] is None:
            used[size] = compiled
        print(json.dumps(found), flush=True)


def findings(times: Mapping[str, Sequence[float]], parts: Sequence[int]) -> dict[str, float | str | None]:
    """Fields of the manifest's ``Package``: median times, why it is not used, and what to remark if it is.

    Args:
        times: milliseconds of a run on a batch by round: "compiled"; and, where there are these, "eager" (as
            timm builds the model, maybe in the first rounds only) and "parts" (smaller packages in turn).
        parts: batch sizes of the smaller packages.
    """
    reason = remark = None
    if times.get("eager"):
        over_eager = gain_over(times["compiled"], times["eager"])
        if not over_eager.resolved:
            reason = f"no difference resolved from timm's model: {gain_text(over_eager)}"
        elif over_eager.ratio < 1:
            reason = f"slower than timm's model: {gain_text(over_eager)}"
    if times.get("parts") and reason is None:
        over_parts = gain_over(times["compiled"], times["parts"])
        text = f"packages for {' + '.join(map(str, parts))}: {gain_text(over_parts)}"
        if not over_parts.resolved:
            remark = f"no difference resolved from {text}"
        elif over_parts.ratio < 1:
            reason = f"slower than {text}"
    medians = {
        f"{name}_ms": round(median(times[name]), 3) if times.get(name) else None
        for name in ("eager", "compiled", "parts")
    }
    return {**medians, "skipped_reason": reason, "remark": remark}


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
            if (
                name == "eager"
                and number >= EAGER_ROUNDS
                and gain_over(medians["compiled"], medians["eager"]).resolved
            ):
                continue
            deadline = perf_counter() + ROUND_S
            times = [run_ms(models[name], example)]
            while perf_counter() < deadline:
                times.append(run_ms(models[name], example))
            medians[name].append(median(times))
    return medians


def run_ms(model: BatchModel, example: torch.Tensor) -> float:
    """Wall time of one run, milliseconds."""
    started = perf_counter()
    model(example)
    if example.is_cuda:
        torch.cuda.synchronize()
    return 1000 * (perf_counter() - started)


if __name__ == "__main__":
    main()
