"""Compiled packages: how a batch is split, which are used, and that none is loaded that others may change."""

from __future__ import annotations

import grp
import os
import pwd
import random
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
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


@pytest.mark.parametrize(
    ("number", "sizes", "pieces"), [(7, [4, 1], [4, 1, 1, 1]), (9, [4, 2], [4, 4, 1]), (3, [], [3])]
)
def test_a_batch_is_split_into_compiled_sizes(number: int, sizes: list[int], pieces: list[int]) -> None:
    assert split(number, sizes) == pieces


@pytest.fixture
def folders(exported: ModelFolders, tmp_path: Path) -> ModelFolders:
    """The exported model, with an empty folder for what is compiled of it."""
    return ModelFolders(exported.exported, tmp_path)


def found(
    compiled_ms: Sequence[float],
    eager_ms: Sequence[float] = (),
    parts: Sequence[int] = (),
    parts_ms: Sequence[float] = (),
) -> dict[str, Any]:
    """What times by round say of a package."""
    return findings({"eager": eager_ms, "compiled": compiled_ms, "parts": parts_ms}, parts)


def package(folder: Path, precision: str, size: int, found: dict[str, Any]) -> Package:
    """A package with a file, which holds no code that could be run."""
    path = folder / f"{precision}-{size}.package"
    path.write_bytes(b"machine code")
    made = {"file": path.name, "sha256": sha256(path), "compile_s": 20.0}
    return Package(precision=precision, batch_size=size, **made, **found)


def test_packages_serve_on_fewer_cores_than_they_were_compiled_on(
    folders: ModelFolders, request: pytest.FixtureRequest
) -> None:
    write_manifest(folders)
    request.getfixturevalue("one_cpu")
    assert read_manifest(folders, "cpu").packages == []


@pytest.mark.parametrize("changed", ["model", "machine", "device"])
def test_packages_for_another_model_or_machine_are_refused(folders: ModelFolders, changed: str) -> None:
    write_manifest(folders, **{changed: "another"})
    with pytest.raises(ModelError, match="compiled for another"):
        read_manifest(folders, "cpu")


def test_a_missing_or_broken_manifest_says_what_makes_it(folders: ModelFolders) -> None:
    with pytest.raises(ModelError, match=r"manifest.json: No such file .*`dvc repro compile` makes it"):
        read_manifest(folders, "cpu")
    (folders.compiled / MANIFEST_NAME).write_text("{}")
    with pytest.raises(ModelError, match="malformed"):
        read_manifest(folders, "cpu")


def test_a_package_that_is_another_or_that_others_may_write_is_refused(tmp_path: Path) -> None:
    own = package(tmp_path, "full", 1, found([10.0] * 4, [20.0] * 4))
    path = verified_file(tmp_path, own)
    path.chmod(0o646)
    with pytest.raises(ModelError, match="others may write it"):
        verified_file(tmp_path, own)
    path.chmod(0o644)
    path.write_bytes(b"other code")
    with pytest.raises(ModelError, match="is not the file"):
        verified_file(tmp_path, own)


@pytest.mark.parametrize("name", ["", MANIFEST_NAME])
def test_a_manifest_that_others_may_write_is_refused(folders: ModelFolders, name: str) -> None:
    write_manifest(folders)
    (folders.compiled / name).chmod(0o757)
    with pytest.raises(ModelError, match="others may write it"):
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
    """Where each user has a private group, it may write what they make."""
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


NOISE = [0.0, 0.2, -0.1, 0.1, 0.0, 0.1]
EAGER = [10.0, 10.2, 9.9, 10.1, 10.0, 10.1]


def around(mean_ms: float, sign: int = 1) -> list[float]:
    return [mean_ms + sign * noise for noise in NOISE]


@pytest.mark.parametrize(
    ("times", "skipped", "remark"),
    [
        (found([10.5] * 4, [10.0] * 4), "slower than the model in torch: 0.95 times", None),
        # A slow run among equals does not decide, as rounds are compared in pairs.
        (found([10.1, 10.0, 10.0, 9.9, 10.2, 10.1], EAGER), "no difference resolved", None),
        (found([5.0, 5.1, 6.5, 5.0, 5.1, 5.0], EAGER), None, None),
        (found([10.5] * 6), None, None),  # int8: torch cannot replace it
        (found(around(10), [40.0] * 6, [2, 2], around(9, -1)), "slower than packages for 2 + 2: 0.8", None),
        (found(around(10), [40.0] * 6, [3, 1], around(8, -1)), "slower than packages for 3 + 1", None),
        (found(around(10), [40.0] * 6, [3, 1], around(10, -1)), None, "resolved from packages for 3 + 1"),
        (found(around(10), [40.0] * 6, [3, 1], around(12, -1)), None, None),
        (found(around(10), [40.0] * 6), None, None),
    ],
)
def test_a_package_is_used_if_it_is_faster(
    times: dict[str, Any], skipped: str | None, remark: str | None, folders: ModelFolders
) -> None:
    own = package(folders.compiled, "full", 4, times)
    write_manifest(folders, packages=[own.model_dump()])
    manifest = read_manifest(folders, "cpu")
    assert packages_to_use(folders, "cpu", "full") == ([] if skipped else [own])
    [line], [row] = package_lines(manifest), package_rows(manifest)
    for said, kept in ((skipped, row.skipped_reason), (remark, row.remark)):
        assert (said or "") in (kept or "")
        assert (said is None) == (kept is None)
        assert kept is None or kept in line
    if skipped:
        model = compiled_model(lambda: lambda batch: batch, folders, "full", torch.device("cpu"))
        assert len(model(torch.ones(4, 1))) == 4  # in torch


@pytest.mark.parametrize(("eager_ms", "eager_rounds"), [(25.0, 4), (10.1, 10)])
def test_the_model_in_torch_is_timed_for_longer_where_few_rounds_resolve_nothing(
    eager_ms: float, eager_rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(1)
    mean_ms = {"compiled": 10.0, "eager": eager_ms}
    monkeypatch.setattr(compiler, "ROUND_S", 0.0)
    monkeypatch.setattr(compiler, "run_ms", lambda name, _: mean_ms[name] * rng.uniform(0.8, 1.2))
    models: Any = {("full", kind): kind for kind in mean_ms}
    times = compiler.times_ms(models, torch.zeros(1))
    assert [len(times["full", kind]) for kind in mean_ms] == [10, eager_rounds]


@pytest.mark.parametrize(("on_all_ms", "is_used"), [(2.0, True), (6.0, False)])
def test_a_package_that_is_slower_on_one_thread_is_used_where_it_is_not_on_all_cores(
    on_all_ms: float, is_used: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ms(model: Any, example: Any) -> float:
        if isinstance(model, str):  # of a batch of two, the other is that of single images, twice
            return on_all_ms if torch.get_num_threads() > 1 else 6.0
        return 4.0

    answers: list[Any] = []
    for name, stands_for in {
        **{"run_ms": ms, "ROUND_S": 0.0, "_answer": answers.append, "whole_cores": lambda: 2},
        **{"load_package": lambda path, *_: str(path), "example_batch": lambda *_: torch.zeros(1)},
        "read_card": lambda _: SimpleNamespace(kind="onnx"),
    }.items():
        monkeypatch.setattr(compiler, name, stands_for)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        compiler.time_packages("", "cpu", [("full", 1, "one"), ("full", 2, "two")])
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)
    [_, (_, _, two)] = answers
    assert (two["skipped_reason"] is None) is is_used
    assert "on one thread, not on 2" in (two["remark"] or "") or not is_used


def test_int8_without_a_package_for_one_image_says_why(folders: ModelFolders) -> None:
    never = Package(precision="int8", batch_size=1, skipped_reason="it cannot be compiled: NNCF")
    write_manifest(folders, packages=[never.model_dump()])
    with pytest.raises(ModelError, match="no package for a single image: it cannot be compiled: NNCF"):
        packages_to_use(folders, "cpu", "int8")
    assert packages_to_use(folders, "cpu", "half") == []


def test_int8_has_a_process_of_its_own_that_begins_first() -> None:
    """On one core or two a single process compiles the others, as each has much to import."""
    variants = [(precision, size) for precision in ("full", "int8") for size in (1, 2)]
    int8 = [("int8", 1), ("int8", 2)]
    for cores in (1, 2):
        assert jobs_of(variants, "cpu", cores=cores) == [int8, [("full", 1), ("full", 2)]]
    assert jobs_of(variants, "cpu", cores=3) == [int8, [("full", 1)], [("full", 2)]]
