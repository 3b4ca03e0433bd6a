"""The manifest of the compiled packages: their model, machine and device, and their hashes.

To load a package is to run its code, so a package is loaded only for the model, machine and device that it
was compiled for, and only if no other user may have written it.
"""

from __future__ import annotations

import grp
import json
import os
import pwd
import stat
from pathlib import Path

from pydantic import Field

from litmeter.classifier.model.card import CARD_NAME, read_card, sha256
from litmeter.classifier.model.settings import InferenceSettings, Precision
from litmeter.errors import ModelError
from litmeter.paths import ModelFolders
from litmeter.system.files import Record, digest, read_json, reading
from litmeter.system.machine import compilers

MANIFEST_NAME = "manifest.json"
AOTI_SUFFIX = ".pt2"
"""The suffix that torch's AOTInductor demands."""
SUFFIXES = {"cpu": ".package", "cuda": AOTI_SUFFIX}
"""Suffixes of packages by device: AOTInductor's or OpenVINO's."""
COMPILE = "dvc repro compile"


class Package(Record):
    """The package of one precision and batch size."""

    precision: Precision
    batch_size: int
    file: str | None = Field(None, description="name beside the manifest; null if it cannot be compiled")
    sha256: str | None = Field(None, description="of the file")
    eager_ms: float | None = Field(None, description="median ms of a batch in torch; null for int8 and ONNX")
    compiled_ms: float | None = Field(None, description="the same, compiled")
    parts_ms: float | None = Field(None, description="the same, by smaller packages; null without them")
    compile_s: float = Field(0.0, description="how long compiling took")
    skipped_reason: str | None = Field(None, description="why the package is not used, null where it is")
    remark: str | None = Field(None, description="of a package that is used: what it is no faster than")


class Calibration(Record):
    """What the quantisation to int8 depends on besides the model."""

    photos: int
    sha256: str = Field(description="of the photos' hashes")
    nncf: str = Field(description="version of NNCF")


class Manifest(Record):
    """All packages, and the model, machine and device that they belong to."""

    model: str = Field(description="hash of the model card, which has the hash of the weights")
    machine: str = Field(description="hash of the hardware and the compilers")
    device: str
    skipped_reason: str | None = Field(description="why there are no packages, null where there are")
    calibration: Calibration | None = Field(None, description="null where nothing was quantised")
    packages: list[Package]


def identity(exported: Path) -> tuple[str, str]:
    """Hashes of the model card in ``exported``, and of this machine's hardware and compilers."""
    return sha256(exported / CARD_NAME), digest(json.dumps(compilers(), sort_keys=True).encode())


def read_manifest(folders: ModelFolders, device: str) -> Manifest:
    """Read the manifest, and check that it belongs to the exported model, this machine and ``device``.

    Raise ModelError where there is none, it belongs to others, or other users may have written it.
    """
    folder = folders.compiled
    with reading(path := folder / MANIFEST_NAME, COMPILE, ModelError):
        check_ownership(folder)
        check_ownership(path)
        manifest = Manifest.model_validate(read_json(path))
    if (manifest.model, manifest.machine, manifest.device) != (*identity(folders.exported), device):
        raise ModelError(
            f"{folder} was compiled for another model, machine or device; `{COMPILE}` makes it for these"
        )
    return manifest


def packages_to_use(folders: ModelFolders, device: str, precision: str) -> list[Package]:
    """The packages of ``precision`` that are not skipped; torch runs the batches that they do not cover.

    Raise ModelError as ``read_manifest``, and where int8 or an ONNX file's model, which torch does not run,
    has no package for a single image.
    """
    manifest = read_manifest(folders, device)
    packages = [package for package in manifest.packages if package.precision == precision]
    used = [package for package in packages if package.skipped_reason is None]
    alone = any(package.batch_size == 1 for package in used)
    if not alone and (precision == "int8" or read_card(folders.exported).kind == "onnx"):
        reasons = [package.skipped_reason for package in packages if package.batch_size == 1]
        reason = next(iter(reasons), manifest.skipped_reason) or "compile.int8_photos was 0"
        raise ModelError(f"serve.precision: {precision!r} has no package for a single image: {reason}")
    return used


def package_hashes(folders: ModelFolders, device: str, settings: InferenceSettings) -> list[str | None]:
    """Hashes of the packages that ``settings`` run; raise ModelError as ``packages_to_use``."""
    used = packages_to_use(folders, device, settings.precision) if settings.compiled else []
    return [package.sha256 for package in used]


def split_note(
    folders: ModelFolders, device: str, settings: InferenceSettings, largest_batch: int
) -> str | None:
    """What is not compiled of that which ``settings`` run, for the user; None if all of it is.

    Raise ModelError as ``packages_to_use``.
    """
    if not settings.compiled:
        return None
    used = packages_to_use(folders, device, settings.precision)
    if not used:
        manifest = read_manifest(folders, device)
        reasons = (one.skipped_reason for one in manifest.packages if one.precision == settings.precision)
        reason = manifest.skipped_reason or next(reasons, "no package")
        return f"not compiled: {reason}; the model runs in torch"
    largest = max(package.batch_size for package in used)
    if largest_batch <= largest:
        return None
    return (
        f"max_batch_size is {largest_batch}, and no batch above {largest} has a compiled package: "
        "larger ones are split, and run one part after another"
    )


def verified_file(folder: Path, package: Package) -> Path:
    """Path of the package's file; raise ModelError if the file has changed, or others may write it."""
    path = folder / str(package.file)
    with reading(path, COMPILE, ModelError):
        check_ownership(path)
        digest = sha256(path)
    if digest != package.sha256:
        raise ModelError(f"{path} is not the file that {MANIFEST_NAME} was written for")
    return path


def check_ownership(path: Path) -> None:
    """Raise ModelError where users besides this user and root may write ``path``, whose code is run."""
    status = path.stat()
    group_writable = status.st_mode & stat.S_IWGRP and not is_private_group(status)
    if status.st_uid not in (os.getuid(), 0):
        raise ModelError(f"{path} belongs to another user; copy the project, or `dvc repro -f compile`")
    if group_writable or status.st_mode & stat.S_IWOTH:
        raise ModelError(f"{path}: others may write it; `chmod -R go-w {path}`, then `dvc repro -f compile`")


def is_private_group(status: os.stat_result) -> bool:
    """Whether a file's group is private: it has its owner's name, and no other members."""
    try:
        owner, group = pwd.getpwuid(status.st_uid), grp.getgrgid(status.st_gid)
    except KeyError:
        return False
    return (owner.pw_gid, owner.pw_name) == (group.gr_gid, group.gr_name) and not (
        set(group.gr_mem) - {owner.pw_name}
    )
