"""Compiled packages: how a batch is taken apart, and that nothing is loaded that belongs to others."""

from __future__ import annotations

import grp
import json
import os
import pwd
from pathlib import Path
from typing import Any

import pytest
import torch

from servebench.errors import ModelError
from servebench.inference.card import CARD_NAME, sha256
from servebench.inference.compiled.build import Built, describe, package_of
from servebench.inference.compiled.manifest import MANIFEST_NAME, Package, checked, identity, read_manifest
from servebench.inference.compiled.model import CompiledModel, split
from servebench.paths import ModelFolders
from servebench.system.files import write_json

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("number", "sizes", "pieces"),
    [
        (1, [4, 1], [1]),
        (4, [4, 1], [4]),
        (7, [4, 1], [4, 1, 1, 1]),
        (9, [4, 2], [4, 4, 1]),
        (3, [], [3]),
    ],
)
def test_a_batch_is_taken_apart_into_compiled_sizes(number: int, sizes: list[int], pieces: list[int]) -> None:
    assert split(number, sizes) == pieces


def write_manifest(folder: Path, exported: ModelFolders, **changes: Any) -> Path:
    model, machine = identity(exported)
    content = {"model": model, "machine": machine, "device": "cpu", "why": None, "packages": []}
    write_json(folder / MANIFEST_NAME, content | changes)
    return folder


def test_without_packages_the_model_runs_as_it_is(exported: ModelFolders, tmp_path: Path) -> None:
    folder = write_manifest(tmp_path, exported, why="there is no C++ compiler")
    model = CompiledModel(lambda batch: 2 * batch, folder, exported, "full", CPU)
    assert torch.equal(model(torch.ones(3, 1)), torch.full((3, 1), 2.0))


@pytest.mark.parametrize("changed", ["model", "machine", "device"])
def test_what_was_compiled_for_others_is_not_loaded(
    exported: ModelFolders, tmp_path: Path, changed: str
) -> None:
    folder = write_manifest(tmp_path, exported, **{changed: "another"})
    with pytest.raises(ModelError, match=r"compiled for another .* `dvc repro compile` makes it for these"):
        read_manifest(folder, exported, CPU)


def test_a_missing_or_broken_manifest_says_what_makes_it(exported: ModelFolders, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"manifest.json: No such file .*`dvc repro compile` makes it"):
        read_manifest(tmp_path, exported, CPU)
    (tmp_path / MANIFEST_NAME).write_text("{}")
    with pytest.raises(ModelError, match="malformed"):
        read_manifest(tmp_path, exported, CPU)


def test_a_package_that_was_changed_is_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "full-1.package"
    path.write_bytes(b"machine code")
    package = package_of(Built("full", 1, path, 20.0, None), 20.0, 10.0)
    assert package.sha256 == sha256(path)
    assert checked(tmp_path, package) == path
    path.write_bytes(b"other code")
    with pytest.raises(ModelError, match="is not the file"):
        checked(tmp_path, package)


@pytest.mark.parametrize("name", ["", MANIFEST_NAME])
def test_what_others_may_write_is_not_read(exported: ModelFolders, tmp_path: Path, name: str) -> None:
    folder = write_manifest(tmp_path, exported)
    (folder / name).chmod(0o757)
    with pytest.raises(ModelError, match=r"others may write it; `chmod -R go-w .* `dvc repro -f compile`"):
        read_manifest(folder, exported, CPU)


def test_a_package_that_others_may_write_is_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "full-1.package"
    path.write_bytes(b"machine code")
    package = package_of(Built("full", 1, path, 20.0, None), 20.0, 10.0)
    path.chmod(0o646)
    with pytest.raises(ModelError, match="others may write it"):
        checked(tmp_path, package)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
def test_what_belongs_to_another_user_is_not_read(exported: ModelFolders, tmp_path: Path) -> None:
    folder = write_manifest(tmp_path, exported)
    os.chown(folder, 12345, -1)
    with pytest.raises(ModelError, match="belongs to another user"):
        read_manifest(folder, exported, CPU)


def test_a_group_may_write_where_nobody_else_is_in_it(
    exported: ModelFolders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where each user has a group of their own, what they make is the group's to write."""
    folder = write_manifest(tmp_path, exported)
    folder.chmod(0o775)
    user = pwd.getpwuid(os.getuid())
    mine = (user.pw_name, "x", folder.stat().st_gid, [user.pw_name])
    monkeypatch.setattr(pwd, "getpwuid", lambda _: pwd.struct_passwd((*user[:3], mine[2], *user[4:])))
    monkeypatch.setattr(grp, "getgrgid", lambda _: grp.struct_group(mine))
    assert read_manifest(folder, exported, CPU).packages == []
    for shared in ((*mine[:3], [user.pw_name, "mallory"]), ("staff", *mine[1:])):
        monkeypatch.setattr(grp, "getgrgid", lambda _, shared=shared: grp.struct_group(shared))
        with pytest.raises(ModelError, match="others may write it"):
            read_manifest(folder, exported, CPU)


def test_what_brings_nothing_is_not_used(exported: ModelFolders, tmp_path: Path) -> None:
    path = tmp_path / "half-1.package"
    path.write_bytes(b"machine code")
    slower = package_of(Built("half", 1, path, 20.0, None), 10.0, 10.5)
    failed = package_of(Built("half", 4, tmp_path / "half-4.package", 3.0, "it cannot be compiled"))
    assert slower.why == "it is no faster"
    assert (failed.file, failed.compiled_ms) == (None, None)
    packages = [json.loads(one.model_dump_json()) for one in (slower, failed)]
    folder = write_manifest(tmp_path, exported, packages=packages)
    manifest = read_manifest(folder, exported, CPU)
    assert manifest.packages == [Package.model_validate(one) for one in packages]
    lines = list(describe(manifest))
    assert "10.5 ms, 10.0 ms as timm builds it; not used: it is no faster" in lines[0]
    assert "not used: it cannot be compiled" in lines[1]
    model = CompiledModel(lambda batch: batch, folder, exported, "half", CPU)
    assert len(model(torch.ones(4, 1))) == 4


def test_the_manifest_knows_the_card(exported: ModelFolders) -> None:
    assert identity(exported)[0] == sha256(exported / CARD_NAME)
