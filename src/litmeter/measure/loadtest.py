"""Bodies, headers and levels of ``litmeter loadtest``, for a server at any URL."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from litmeter.errors import LoadError, UsageError
from litmeter.load import LoadPlan
from litmeter.load.bodies import read_bodies
from litmeter.measure.figures import latency_grows
from litmeter.measure.turn import Sample, Schedule, Turn, make_ready, measure
from litmeter.say.tables import pluralise
from litmeter.stats.records import Limits

IMAGE_TOKEN = "{image}"
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"})
"""Endings of the files that are read from a folder."""
GROWS = "latency grows: the server may be overloaded"


def bodies_to_send(
    body_files: Sequence[Path], images: Sequence[Path], content_type: str, template: str | None
) -> list[bytes]:
    """The bodies of ``body_files``, as ``read_bodies`` finds them, then a body per image.

    Args:
        images: files, or folders whose image files are read. If the content type is an image's, they are sent
            as they are.
        template: JSON with {image}, which else stands for the image in base64.

    Raises:
        LoadError: there is no body, or a file cannot be read.
        UsageError: the template is not JSON with {image}, or is not used.
    """
    if not body_files and not images:
        raise LoadError("there is nothing to send: give --body, --form or --images")
    as_files = content_type.lower().startswith("image/")
    if template is not None and not images:
        raise UsageError("--template: it is for --images, which are missing")
    if template is not None and as_files:
        raise UsageError(f"--template: not used, as --content-type {content_type} sends the files themselves")
    template = '{"image": "{image}"}' if template is None else template
    if IMAGE_TOKEN not in template:
        raise UsageError(f"--template: {IMAGE_TOKEN} is missing, got {template!r}")
    try:
        json.loads(template)
    except ValueError as error:
        raise UsageError(f"--template: not JSON ({error}), got {template!r}") from error
    bodies = [body for path in body_files for body in read_bodies(path, content_type).contents]
    for path in images:
        found = [path]
        if path.is_dir():
            found = sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
        if not found:
            raise LoadError(f"{path}: a folder without an image file")
        files = [body for file in found for body in read_bodies(file, content_type).contents]
        texts = (template.replace(IMAGE_TOKEN, base64.b64encode(file).decode()).encode() for file in files)
        bodies += files if as_files else texts
    return bodies


def one_after_another(name: str, plans: Sequence[LoadPlan], limits: Limits | None) -> Schedule[list[Sample]]:
    """Load one subject by each plan; warn if an open loop's latencies grow."""
    yield from make_ready([name])
    samples = []
    for number, plan in enumerate(plans):
        note = f"{plan.rate_rps:.6g}/s" if plan.rate_rps else pluralise(plan.users, "user")
        sample = yield from measure(Turn(name, plan, number, limits, note))
        row = sample.row
        if row.offered_rps is not None and not row.void and latency_grows(sample.requests):
            row = replace(row, warnings="; ".join(filter(None, (row.warnings, GROWS))))
        samples.append(replace(sample, row=row))
    return samples
