"""Compiled packages: how a batch is split, and that none is loaded that others made or may change."""

from __future__ import annotations

import grp
import json
import os
import pwd
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from litmeter.classifier.model.card import sha256
from litmeter.classifier.model.compiled import package as compiler
from litmeter.classifier.model.compiled.build import jobs_of
from litmeter.classifier.model.compiled.manifest import (
    MANIFEST_NAME,
    Package,
    packages_to_use,
    read_manifest,
    verified_file,
)
from litmeter.classifier.model.compiled.model import compiled_model, split
from litmeter.classifier.model.compiled.package import findings
from litmeter.errors import ModelError
from litmeter.paths import ModelFolders
from litmeter.report.stage_lines import package_lines
from litmeter.stages.compile import package_rows
from tests.support.models import write_manifest

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("number", "sizes", "pieces"), [(7, [4, 1], [4, 1, 1, 1]), (9, [4, 2], [4, 4, 1]), (3, [], [3])]
)
def test_a_batch_is_split_into_compiled_sizes(number: int, sizes: list[int], pieces: list[int]) -> None:
    assert split(number, sizes) == pieces


@pytest.fixture
def folders(exported: ModelFolders, tmp_path: Path) -> ModelFolders:
    """The exported model, with an empty folder for what is compiled of it."""
    return ModelFolders(exported.exported, tmp_path)


def test_packages_serve_on_fewer_cores_than_they_were_compiled_on(
    folders: ModelFolders, request: pytest.FixtureRequest
) -> None:
    write_manifest(folders)
    request.getfixturevalue("one_cpu")
    assert read_manifest(folders, "cpu").packages == []


def faster_package(folder: Path) -> tuple[Path, Package]:
    """Twice as fast as the model it was made from; what it holds is no code that could be run."""
    path = folder / "full-1.package"
    path.write_bytes(b"machine code")
    return path, entry("full", 1, path, Timing([20.0] * 4, [10.0] * 4))


class Timing:
    """Times by round, as ``package`` measures them."""

    def __init__(
        self,
        eager_ms: Sequence[float],
        compiled_ms: Sequence[float],
        parts: Sequence[int] = (),
        parts_ms: Sequence[float] = (),
    ) -> None:
        times = {"eager": eager_ms, "compiled": compiled_ms, "parts": parts_ms}
        self.findings = findings(times, parts)


def entry(precision: str, size: int, path: Path, timing: Timing) -> Package:
    made = {"file": path.name, "sha256": sha256(path), "compile_s": 20.0}
    return Package(precision=precision, batch_size=size, **made, **timing.findings)


def reason_against(timing: Timing) -> Any:
    return timing.findings["skipped_reason"]


def remark_on(timing: Timing) -> Any:
    return timing.findings["remark"]


@pytest.mark.parametrize("changed", ["model", "machine", "device"])
def test_packages_for_another_model_or_machine_are_refused(folders: ModelFolders, changed: str) -> None:
    write_manifest(folders, **{changed: "another"})
    with pytest.raises(ModelError, match=r"compiled for another .* `dvc repro compile` makes it for these"):
        read_manifest(folders, "cpu")


def test_a_missing_or_broken_manifest_says_what_makes_it(folders: ModelFolders) -> None:
    with pytest.raises(ModelError, match=r"manifest.json: No such file .*`dvc repro compile` makes it"):
        read_manifest(folders, "cpu")
    (folders.compiled / MANIFEST_NAME).write_text("{}")
    with pytest.raises(ModelError, match="malformed"):
        read_manifest(folders, "cpu")


def test_a_package_that_is_another_or_that_others_may_write_is_refused(tmp_path: Path) -> None:
    path, package = faster_package(tmp_path)
    assert package.sha256 == sha256(path)
    assert package.skipped_reason is None
    assert verified_file(tmp_path, package) == path
    path.chmod(0o646)
    with pytest.raises(ModelError, match="others may write it"):
        verified_file(tmp_path, package)
    path.chmod(0o644)
    path.write_bytes(b"other code")
    with pytest.raises(ModelError, match="is not the file"):
        verified_file(tmp_path, package)


@pytest.mark.parametrize("name", ["", MANIFEST_NAME])
def test_a_manifest_that_others_may_write_is_refused(folders: ModelFolders, name: str) -> None:
    write_manifest(folders)
    (folders.compiled / name).chmod(0o757)
    with pytest.raises(ModelError, match=r"others may write it; `chmod -R go-w .* `dvc repro -f compile`"):
        read_manifest(folders, "cpu")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
def test_a_folder_of_another_user_is_refused(folders: ModelFolders) -> None:
    write_manifest(folders)
    os.chown(folders.compiled, 12345, -1)
    with pytest.raises(ModelError, match="belongs to another user"):
        read_manifest(folders, "cpu")


def test_a_group_may_write_where_nobody_else_is_in_it(
    folders: ModelFolders, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where each user has a group of their own, what they make is the group's to write."""
    write_manifest(folders)
    folder = folders.compiled
    folder.chmod(0o775)
    user = pwd.getpwuid(os.getuid())
    mine = (user.pw_name, "x", folder.stat().st_gid, [user.pw_name])
    monkeypatch.setattr(pwd, "getpwuid", lambda _: pwd.struct_passwd((*user[:3], mine[2], *user[4:])))
    monkeypatch.setattr(grp, "getgrgid", lambda _: grp.struct_group(mine))
    assert read_manifest(folders, "cpu").packages == []
    for shared in ((*mine[:3], [user.pw_name, "mallory"]), ("staff", *mine[1:])):
        monkeypatch.setattr(grp, "getgrgid", lambda _, shared=shared: grp.struct_group(shared))
        with pytest.raises(ModelError, match="others may write it"):
            read_manifest(folders, "cpu")


def test_packages_that_bring_nothing_are_described_and_not_run(folders: ModelFolders) -> None:
    path = folders.compiled / "half-1.package"
    path.write_bytes(b"machine code")
    slower = entry("half", 1, path, Timing([10.0] * 4, [10.5] * 4))
    failed = Package(precision="half", batch_size=4, skipped_reason="it cannot be compiled")
    assert slower.skipped_reason == "slower than the model in torch: 0.95 times the rate (0.95 to 0.95)"
    assert (failed.file, failed.compiled_ms) == (None, None)
    packages = [json.loads(one.model_dump_json()) for one in (slower, failed)]
    write_manifest(folders, packages=packages)
    manifest = read_manifest(folders, "cpu")
    assert manifest.packages == [slower, failed]
    lines = list(package_lines(manifest))
    assert "10.5 ms, 10.0 ms in torch; not used: slower than the model in torch: 0.95" in lines[0]
    assert "not used: it cannot be compiled" in lines[1]
    model = compiled_model(lambda: lambda batch: batch, folders, "half", CPU)
    assert len(model(torch.ones(4, 1))) == 4


def test_a_package_that_may_be_no_faster_is_not_used() -> None:
    """One slow run among equals does not decide: the eager and the compiled model are told apart by pairs."""
    eager_ms = [10.0, 10.2, 9.9, 10.1, 10.0, 10.1]
    equal = reason_against(Timing(eager_ms, [10.1, 10.0, 10.0, 9.9, 10.2, 10.1]))
    assert equal is not None
    assert equal.startswith("no difference resolved from the model in torch: 1.00 times the rate (0.9")
    assert reason_against(Timing(eager_ms, [5.0, 5.1, 6.5, 5.0, 5.1, 5.0])) is None


@pytest.mark.parametrize(("eager_ms", "eager_rounds"), [(25.0, 4), (10.1, 10)])
def test_the_model_in_torch_is_timed_for_longer_where_few_rounds_resolve_nothing(
    eager_ms: float, eager_rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(1)
    mean_ms = {"compiled": 10.0, "eager": eager_ms}
    monkeypatch.setattr(compiler, "ROUND_S", 0.0)
    monkeypatch.setattr(compiler, "run_ms", lambda name, _: mean_ms[name] * rng.uniform(0.8, 1.2))
    models: Any = {("full", kind): kind for kind in mean_ms}
    found = compiler.times_ms(models, torch.zeros(1))
    assert [len(found["full", kind]) for kind in mean_ms] == [10, eager_rounds]


def test_a_package_that_is_slower_than_smaller_ones_is_not_used() -> None:
    eager_ms, noise = [40.0] * 6, [0.0, 0.2, -0.1, 0.1, 0.0, 0.1]
    compiled_ms = [10.0 + one for one in noise]
    slower = reason_against(Timing(eager_ms, compiled_ms, [2, 2], [9.0 - one for one in noise]))
    assert slower is not None
    assert slower.startswith("slower than packages for 2 + 2: 0.8")
    for parts_ms in (10.0, 11.0):
        timing = Timing(eager_ms, compiled_ms, [2, 2], [parts_ms - one for one in noise])
        assert reason_against(timing) is None


def test_a_package_that_may_be_no_faster_than_smaller_ones_is_used_and_says_so(
    folders: ModelFolders,
) -> None:
    eager_ms, noise = [40.0] * 6, [0.0, 0.2, -0.1, 0.1, 0.0, 0.1]
    compiled_ms = [10.0 + one for one in noise]
    equal = Timing(eager_ms, compiled_ms, [3, 1], [10.0 - one for one in noise])
    faster = Timing(eager_ms, compiled_ms, [3, 1], [12.0 - one for one in noise])
    slower = Timing(eager_ms, compiled_ms, [3, 1], [8.0 - one for one in noise])
    remark = remark_on(equal)
    assert remark is not None
    assert remark.startswith("no difference resolved from packages for 3 + 1: 0.99 times the rate (0.9")
    assert [remark_on(timing) for timing in (faster, slower, Timing(eager_ms, compiled_ms))] == [None] * 3
    path = folders.compiled / "full-4.package"
    path.write_bytes(b"machine code")
    package = entry("full", 4, path, equal)
    write_manifest(folders, packages=[json.loads(package.model_dump_json())])
    manifest = read_manifest(folders, "cpu")
    assert packages_to_use(folders, "cpu", "full") == [package]
    [line] = package_lines(manifest)
    assert line.endswith(f"9.9 ms by smaller packages; used, {remark}")
    [row] = package_rows(manifest)
    assert (row.skipped_reason, row.remark) == (None, remark)


def test_a_manifest_of_earlier_code_is_read(folders: ModelFolders) -> None:
    _, package = faster_package(folders.compiled)
    write_manifest(folders, packages=[package.model_dump(exclude={"remark"})])
    assert read_manifest(folders, "cpu").packages == [package]


def test_a_package_that_torch_cannot_replace_is_used() -> None:
    """Such as one in int8."""
    assert reason_against(Timing((), [10.5] * 6)) is None
    assert reason_against(Timing([10.0] * 6, [10.5] * 6)) is not None


def test_int8_without_a_package_for_one_image_says_why(folders: ModelFolders) -> None:
    never = Package(precision="int8", batch_size=1, skipped_reason="it cannot be compiled: NNCF")
    write_manifest(folders, packages=[never.model_dump()])
    with pytest.raises(ModelError, match="no package for a single image: it cannot be compiled: NNCF"):
        packages_to_use(folders, "cpu", "int8")
    assert packages_to_use(folders, "cpu", "half") == []


def test_int8_has_a_process_of_its_own_that_begins_first() -> None:
    """On one core or two the others are compiled by one process, as each has much to import."""
    variants = [(precision, size) for precision in ("full", "int8") for size in (1, 2)]
    int8 = [("int8", 1), ("int8", 2)]
    for cores in (1, 2):
        assert jobs_of(variants, "cpu", cores=cores) == [int8, [("full", 1), ("full", 2)]]
    assert jobs_of(variants, "cpu", cores=3) == [int8, [("full", 1)], [("full", 2)]]
