"""What runs again, and what does not, after a change of params.yaml or of the code."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from base64 import b64encode
from pathlib import Path

import pytest
import torch

from litmeter.system.files import read_json
from tests.pipeline.conftest import Clone
from tests.support.project import installed


def test_an_existing_checkpoint_is_tested_and_not_fitted(ran: Clone) -> None:
    """Again where its content has changed, which its path does not show."""
    before = read_json(ran.path / "metrics/train.json")
    own = Path(shutil.copy(ran.path / "models/checkpoint/best.ckpt", ran.path / "own.ckpt"))
    try:
        ran.change({"model": {"checkpoint": "own.ckpt"}})
        done = ran.dvc("repro", "export")
        assert ran.stages_run(done.stdout) == ["machine", "train", "export"]
        assert "own.ckpt: tested, not fitted" in done.stdout
        assert "epoch" not in done.stdout
        after = read_json(ran.path / "metrics/train.json")
        assert after["test_accuracy"] == before["test_accuracy"]
        assert after["best_epoch"] == 0

        own.touch()
        assert ran.stages_run(ran.dvc("repro", "export").stdout) == ["machine"]

        weights = torch.load(own, weights_only=True)["state_dict"]
        torch.save({"state_dict": {name: 2 * tensor for name, tensor in weights.items()}}, own)
        assert ran.stages_run(ran.dvc("repro", "export").stdout) == ["machine", "train", "export"]
    finally:
        own.unlink()
        ran.restore()


def test_another_photo_under_the_same_name_runs_what_reads_photos_again(ran: Clone) -> None:
    """Downloaded photos lie in no folder that dvc.yaml names: what reads photos depends on their index."""
    folder = ran.path / "data/download"
    shutil.copytree(ran.path / "data/sample", folder)  # as torchvision would have left it

    def stages_run() -> list[str]:
        return ran.stages_run(ran.dvc("repro", "data").stdout)

    try:
        ran.change({"data": {"download": True}})
        assert stages_run() == ["machine", "data"]
        index = (ran.path / "data/index.json").read_bytes()
        assert b"data/download" in index
        assert stages_run() == ["machine"]
        one, other, *_ = sorted((folder / "oxford-iiit-pet/images").iterdir())
        shutil.copy(one, other)
        assert stages_run() == ["machine", "data"]
        assert (ran.path / "data/index.json").read_bytes() != index
    finally:
        shutil.rmtree(folder)
        ran.restore()


def test_other_bodies_under_the_same_name_are_measured_again(ran: Clone) -> None:
    """dvc.yaml cannot name what `load.bodies` names, as the key may be absent."""
    photos = sorted((ran.path / "data/sample/oxford-iiit-pet/images").iterdir())
    texts = [json.dumps({"image": b64encode(photo.read_bytes()).decode()}) for photo in photos[:2]]
    bodies = ran.path / "bodies.jsonl"

    def stages_run() -> list[str]:
        return ran.stages_run(ran.dvc("repro", "comparison", "benchmark", "candidate").stdout)

    measured = ["machine", "benchmark@e1_baseline", "candidate", "comparison"]
    try:
        bodies.write_text(texts[0])
        ran.change({"load": {"bodies": "bodies.jsonl"}})
        assert stages_run() == measured
        assert stages_run() == ["machine"]
        bodies.write_text(texts[1])
        assert stages_run() == measured
    finally:
        bodies.unlink()
        ran.restore()


def test_a_change_reruns_the_stages_that_read_it(ran: Clone) -> None:
    """Each stage beside the keys that it sees; `dvc exp run -S` changes them likewise."""
    try:
        ran.change(
            {
                "train": {"epochs": 2},
                "serve": {"precision": "half"},
                "experiments": {"e1_baseline": {"precision": "half"}},
                "load": {"requests": 21},
                "objective": {"slo_ms": 1.0},
            }
        )
        why = ran.status()
    finally:
        ran.git("checkout", "-q", ".")
    assert why.pop("machine") == ["always changed"]
    changed = {stage: {*found["changed deps"]["params.yaml"]} for stage, [found] in why.items()}
    assert changed == {
        "train": {"train"},
        "packages": {"experiments", "serve"},
        "benchmark@e1_baseline": {"load", "experiments.e1_baseline"},
        "candidate": {"load", "serve"},
        "comparison": {"experiments", "serve"},
        "report": {"experiments", "serve"},
    }


def test_other_packages_leave_those_alone_that_run_in_torch(ran: Clone) -> None:
    """On a busy machine, the larger packages may have been slower than torch, and not used before either."""
    used = sorted((ran.path / "metrics/packages").iterdir())
    before = [file.read_bytes() for file in used]
    try:
        ran.change({"compile": {"batch_sizes": [1]}})
        done = ran.dvc("repro", "packages")
        assert ran.stages_run(done.stdout) == ["machine", "compile", "packages"]
        why = ran.status()
        assert "benchmark@e1_baseline" not in why
        others = {file.stem for file, old in zip(used, before, strict=True) if file.read_bytes() != old}
        changed = {"metrics/packages/candidate.json": "modified"}
        assert why.get("candidate") == ([{"changed deps": changed}] if "candidate" in others else None)
        changed = {"metrics/packages": "modified"}
        assert why.get("comparison") == ([{"changed deps": changed}] if others else None)

        ran.change({"serve": {"max_batch_size": 8}})
        assert ran.stages_run(ran.dvc("repro", "packages").stdout) == ["machine", "packages"]
        assert "benchmark@e1_baseline" not in ran.status()
    finally:
        ran.restore()


MEASURE = {"precisions", "ceilings", "benchmark@e1_baseline", "candidate", "comparison"}


@pytest.mark.parametrize(
    ("variable", "package", "expected"),
    [
        ("OMP_NUM_THREADS=1", None, MEASURE),
        ("EDITOR=vi", "anyio", MEASURE),
        ("EDITOR=vi", "torch", MEASURE | {"compile", "packages"}),
        ("EDITOR=vi", "certifi", set()),
    ],
)
def test_what_else_bears_on_figures_measures_again_and_only_what_compiles_compiles(
    ran: Clone, tmp_path: Path, variable: str, package: str | None, expected: set[str]
) -> None:
    path = installed(tmp_path, package, "99.0") if package else tmp_path
    try:
        ran.run("env", variable, f"PYTHONPATH={path}", ran.dvc_path, "repro", "machine")
        why = ran.status()
    finally:
        ran.git("checkout", "-q", ".")
    assert why.pop("machine") == ["always changed"]
    assert why.keys() - {"report"} == expected
    for stage, [found] in why.items():
        file = "compilers" if stage in ("compile", "packages") else "machine"
        assert found == {"changed deps": {f"metrics/{file}.json": "modified"}}


def test_a_queued_experiment_runs_the_code_of_its_own_tree(ran: Clone) -> None:
    """DVC's copy of the tree has no .venv, and the environment's editable install is another tree's.

    Its queue starts `dvc` by its name: the environment has to be active.
    """
    active = {**ran.environment, "PATH": f"{ran.path}/.venv/bin{os.pathsep}{ran.environment['PATH']}"}
    try:
        with (ran.path / "src/litmeter/stages/report.py").open("a") as source:
            source.write('print("of the queued tree")\n')
        ran.dvc("exp", "run", "--queue", "-n", "queued", "-S", "objective.slo_ms=200.0")
        ran.git("checkout", "-q", ".")
        # Its worker goes on by itself and would hold our pipes open.
        nothing = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        subprocess.run([ran.dvc_path, "queue", "start"], cwd=ran.path, env=active, check=True, **nothing)
        while not re.search("Success|Failed", status := ran.dvc("queue", "status").stdout):
            time.sleep(1)
        assert "Success" in status
        output = ran.dvc("queue", "logs", "queued").stdout
        assert ran.stages_run(output) == ["machine", "report"]
        assert "of the queued tree" in output
    finally:
        ran.git("checkout", "-q", ".")
        ran.dvc("queue", "stop", "--kill", check=False)
        ran.dvc("exp", "remove", "-A")


def test_the_classifier_is_an_artifact_by_its_tag(ran: Clone, tmp_path: Path) -> None:
    ran.git("tag", "-a", "classifier@v1.0.0", "-m", "the first")
    try:
        ran.dvc("artifacts", "get", ".", "classifier", "-o", str(tmp_path / "got"))
    finally:
        ran.git("tag", "-d", "classifier@v1.0.0")
    exported = ran.path / "models/exported"
    names = sorted(path.name for path in exported.iterdir())
    assert sorted(path.name for path in (tmp_path / "got").iterdir()) == names
    for name in names:
        assert (tmp_path / "got" / name).read_bytes() == (exported / name).read_bytes()
