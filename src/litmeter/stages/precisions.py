"""Stage ``precisions``: how each precision and each preprocessing changes the model's answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from litmeter.classifier.data.index import read_index
from litmeter.classifier.model.answers import answers_of
from litmeter.classifier.model.card import INTERPOLATIONS, ModelCard, read_card
from litmeter.classifier.model.compiled.manifest import packages_to_use
from litmeter.classifier.model.precision import cannot_run_reason, dtype_name, precisions_on
from litmeter.classifier.model.reference import Reference, read_reference
from litmeter.classifier.model.rows import OTHER, TEST, PrecisionRow
from litmeter.classifier.model.settings import DeviceParams, InferenceSettings
from litmeter.errors import ModelError
from litmeter.paths import MACHINE, MODEL, PRECISIONS_TABLE
from litmeter.say.progress import print_wrapped
from litmeter.settings import read_only
from litmeter.stats.agreement import Probabilities, agreement_of
from litmeter.system.device import resolve_device
from litmeter.system.files import read_json, write_rows


def main() -> list[PrecisionRow]:
    """Answer all photos in each precision and preprocessing, and compare with the reference answers."""
    device = resolve_device(read_only(DeviceParams).device, read_json(MACHINE)["gpu"] is not None)
    photos = [Path(photo.path) for photo in read_index().photos]
    configurations = list(configurations_of(read_card(MODEL.exported), device))
    answers = answers_of(MODEL, device, configurations, photos)
    reference = read_reference(MODEL.exported)
    rows = [
        row
        for settings, probabilities in zip(configurations, answers, strict=True)
        for row in change_rows(settings, reference, probabilities)
    ]
    write_rows(PRECISIONS_TABLE, PrecisionRow, rows)
    return rows


def configurations_of(card: ModelCard, device: str) -> Iterator[InferenceSettings]:
    """Each precision with torchvision's preprocessing, and full precision with the scaled one, too.

    A model of another interpolation has timm's preprocessing, and is not compiled.
    """
    ways = ("torchvision", "scaled") if card.interpolation in INTERPOLATIONS else ("timm",)
    for precision in precisions_on(device):
        if reason := cannot_run_reason(dtype_name(precision, device), device):
            print_wrapped(f"{precision}: left out, as {reason}")
            continue
        if precision == "int8":
            try:
                packages_to_use(MODEL, device, precision)
            except ModelError as error:
                print_wrapped(f"{precision}: left out: {error}")
                continue
        for way in ways if precision == "full" else ways[:1]:
            yield InferenceSettings.model_validate(
                {"precision": precision, "preprocess": way, "compiled": way != "timm"}
            )


def change_rows(
    settings: InferenceSettings, reference: Reference, answers: Probabilities
) -> Iterator[PrecisionRow]:
    """A row for the test photos, and a row for all others."""
    for split in (TEST, OTHER):
        chosen = [number for number, own in enumerate(reference.splits) if (own == TEST) == (split == TEST)]
        labels = [reference.labels[number] for number in chosen]
        if not chosen:
            continue
        found = agreement_of(reference.probabilities[chosen], answers[chosen], labels)
        values = {name: round(value, 6) for name, value in asdict(found).items()}
        yield PrecisionRow(
            **values, precision=settings.precision, preprocess=settings.preprocess, split=split
        )
