"""Words for settings and capacities, as stages, commands and pages have them. No figure is made here."""

from __future__ import annotations

import json

from litmeter.measure.capacity import CapacityMetrics
from litmeter.model.device import dtype_name
from litmeter.params import ServeSettings
from litmeter.system.tables import pluralise


def describe(serve: ServeSettings, device: str) -> str:
    """The settings of ``serve`` on ``device`` (cpu or cuda) in words; LitServe's defaults are left out."""
    workers = pluralise(serve.workers_per_device, "worker")
    if serve.threads_per_worker:
        workers += f" of {pluralise(serve.threads_per_worker, 'thread')}"
    parts = [
        dtype_name(serve.precision, device),
        f"max_batch_size {serve.max_batch_size}",
        f"batch_timeout {serve.batch_timeout_s:g} s" if serve.batch_timeout_s else "",
        workers,
        "direct" if serve.transport == "direct" else "",
        "compiled" if serve.compiled else "",
        serve.preprocess if serve.preprocess != "timm" else "",
        "freed memory kept" if serve.keep_freed_memory else "",
    ]
    return ", ".join(filter(None, parts))


def changed_keys(before: ServeSettings, after: ServeSettings) -> list[tuple[str, str, str]]:
    """Each key that differs, with its values as params.yaml has them."""
    old, new = before.model_dump(mode="json"), after.model_dump(mode="json")
    texts = [{key: json.dumps(value).strip('"') for key, value in own.items()} for own in (old, new)]
    return [(key, texts[0][key], texts[1][key]) for key in new if old[key] != new[key]]


def changed_settings(before: ServeSettings, after: ServeSettings) -> str:
    """What differs, as "max_batch_size 4 -> 8, precision full -> half"; empty where nothing does."""
    return ", ".join(f"{key} {old} -> {new}" for key, old, new in changed_keys(before, after))


def capacity_text(metrics: CapacityMetrics) -> str:
    """What follows the server's name in a sentence of its capacity."""
    within = f"{100 * (1 - metrics.miss):.4g}% of {{}} within {metrics.slo_ms:g} ms"
    objective = within.format("them")
    if metrics.capacity_rps is not None:
        assert metrics.share is not None
        text = (
            f"takes {metrics.capacity_rps:.1f} requests a second ({metrics.low_rps:.1f} to "
            f"{metrics.high_rps:.1f}) with {objective}, {metrics.share:.0%} of the {metrics.peak_rps:.1f} "
            "that a closed loop reached meanwhile"
        )
        if metrics.confirmed is False:
            text += "; a probe at the lower end of this interval missed the objective"
        return text if metrics.status == "resolved" else f"{text}; not resolved: {metrics.reason}"
    if metrics.status == "above_range":
        return f"takes at least {metrics.low_rps:.1f} requests a second with {objective}: {metrics.reason}"
    if metrics.status == "slo_unreachable":
        return f"has no rate at which requests come with {objective}: {metrics.reason}"
    return f"has a capacity ({within.format('all requests')}) that is not resolved: {metrics.reason}"
