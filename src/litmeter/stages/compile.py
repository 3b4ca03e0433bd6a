"""Stage ``compile``: compile the exported model for this machine, in each precision and batch size."""

from __future__ import annotations

from pathlib import Path

from litmeter.classifier.data.index import read_index
from litmeter.classifier.model.compiled.build import compile_model
from litmeter.classifier.model.compiled.manifest import Manifest
from litmeter.classifier.model.rows import PackageRow
from litmeter.classifier.model.settings import CompileParams
from litmeter.paths import COMPILED_TABLE, COMPILERS, MODEL
from litmeter.settings import read_only
from litmeter.system.device import resolve_device
from litmeter.system.files import read_json, write_rows


def main() -> Manifest:
    """Compile the exported model for the batch sizes of params.yaml."""
    params = read_only(CompileParams)
    device = resolve_device(params.device, read_json(COMPILERS)["gpu"] is not None)
    # The index is sorted by class, and calibration needs photos of all classes.
    training = read_index().split("train")
    number = min(params.compile.int8_photos, len(training))
    photos = [Path(training[position * len(training) // number].path) for position in range(number)]
    manifest = compile_model(MODEL, device, params.compile.batch_sizes, photos)
    write_rows(COMPILED_TABLE, PackageRow, package_rows(manifest))
    return manifest


def package_rows(manifest: Manifest) -> list[PackageRow]:
    """A row for each package."""
    return [PackageRow(**package.model_dump(exclude={"file", "sha256"})) for package in manifest.packages]
