"""The fingerprint of the machine, and what is checked before anything runs."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

import openvino
import pytest
from filelock import FileLock

from litmeter.classifier.here import given_weights, said_of_half, slowdown_by_half
from litmeter.classifier.model.precision import check_precision, has_bfloat16
from litmeter.errors import ParamsError
from litmeter.params import load_params
from litmeter.paths import ModelFolders
from litmeter.report.machines import describe_machine
from litmeter.stages.machine import check_params
from litmeter.system import machine
from litmeter.system.device import resolve_device
from litmeter.system.machine import exclusive_machine, fingerprint, packages_by_module
from tests.support.project import ROOT, installed


def test_the_fingerprint_names_hardware_and_libraries() -> None:
    found = fingerprint([], "not-installed")
    assert describe_machine(found).endswith(f"litserve {version('litserve')}")
    assert found["cores"] >= 1
    assert found["memory_gib"] >= 1
    assert found["cpu"]
    for library in ("torch", "simplejpeg", "openvino", "requests", "anyio", "greenlet", "pydantic-core"):
        assert found[library] == version(library)
    assert found.keys().isdisjoint(("certifi", "dvc", "pytest", "not-installed"))
    json.dumps(found, allow_nan=False)


DESCRIBE = """
import json, sys
from pathlib import Path
from litmeter.classifier.model.compiled.manifest import identity
from litmeter.system.machine import fingerprint
print(json.dumps([fingerprint(), identity(Path(sys.argv[1]))]))
"""


def described(exported: ModelFolders, **environment: str) -> Any:
    """The fingerprint, and the identity of packages, of a process with these environment variables."""
    command = [sys.executable, "-c", DESCRIBE, str(exported.exported)]
    own = {key: value for key, value in os.environ.items() if not machine.VARIABLES.match(f"{key}=x")}
    done = subprocess.run(command, env=own | environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def plain(exported: ModelFolders) -> Any:
    return described(exported)


@pytest.mark.parametrize("library", ["fastapi", "anyio", "pydantic-core", "scipy", "torch"])
def test_an_upgrade_of_what_carries_requests_or_computes_is_another_environment(
    library: str, exported: ModelFolders, plain: Any, tmp_path: Path
) -> None:
    """On the same machine. Packages of the compiled model stay good, unless it is what compiled them."""
    path = os.pathsep.join([str(installed(tmp_path, library, "99.0")), *sys.path])
    after, packages = described(exported, PYTHONPATH=path)
    assert after == plain[0] | {library: "99.0"} != plain[0]
    assert (packages == plain[1]) == (library != "torch")


def test_variables_that_bear_on_speed_are_another_environment_of_the_same_machine(
    exported: ModelFolders, plain: Any
) -> None:
    bearing = {"OMP_NUM_THREADS": "1", "MKL_DYNAMIC": "FALSE", "ONEDNN_MAX_CPU_ISA": "AVX2"}
    others = {"LD_PRELOAD": "", "CUDA_VISIBLE_DEVICES": "", "EDITOR": "vi"}
    assert described(exported, **bearing, **others) == [plain[0] | bearing, plain[1]]


def test_fewer_cores_are_another_environment_of_the_same_machine(
    exported: ModelFolders, plain: Any, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue("one_cpu")
    assert described(exported) == [plain[0] | {"cores": 1}, plain[1]]


def test_the_packages_that_own_files_import_are_part_of_the_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("import os, numpy.linalg\ndef f():\n    from PIL import Image\n")
    (tmp_path / "b.py").write_text(
        "from . import yaml\nfrom networkx.algorithms import dag\nimport no_such_module"
    )
    (tmp_path / "broken.py").write_text("import yaml (")
    (tmp_path / "weights.bin").write_bytes(b"\0")
    before, found = fingerprint(), fingerprint(tmp_path.iterdir())
    assert found == before | {"networkx": version("networkx")}


def test_what_is_left_of_a_package_without_a_name_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (left := tmp_path / "left-1.0.dist-info").mkdir()
    (left / "top_level.txt").write_text("left")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "left" not in packages_by_module()


def test_the_hashes_are_those_of_the_files_that_the_model_names(tmp_path: Path) -> None:
    """Of their contents: not of when they were written."""
    (given := tmp_path / "my.ckpt").write_bytes(b"one")
    model = load_params(ROOT / "params.yaml").model.model_copy(update={"checkpoint": str(given)})
    first = given_weights(model)
    assert first == {"checkpoint": hashlib.sha256(b"one").hexdigest(), "pretrained": None}
    os.utime(given, (0, 0))
    assert given_weights(model) == first
    given.write_bytes(b"two")
    assert given_weights(model) != first
    state_dict = model.model_copy(update={"checkpoint": None, "pretrained": str(given)})
    assert given_weights(state_dict) == {"checkpoint": None, "pretrained": hashlib.sha256(b"two").hexdigest()}


def test_the_device_is_what_the_machine_has() -> None:
    assert resolve_device("auto", cuda_available=True) == "cuda"
    assert resolve_device("auto", cuda_available=False) == "cpu"
    assert resolve_device("cpu", cuda_available=True) == "cpu"


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        ("model", {"name": "efficientnet_lit0"}, r"model\.name: got 'efficientnet_lit0'.*near it: "),
        ("model", {"name": "resnet18"}, "model.pretrained: got 'package', which has weights of"),
        ("model", {"pretrained": "nowhere.pth"}, "model.pretrained: got 'nowhere.pth'; allowed: package"),
        ("model", {"checkpoint": "nowhere.ckpt"}, "model.checkpoint: got 'nowhere.ckpt'; allowed: null"),
        ("data", {"folder": "nowhere"}, "data.folder: got 'nowhere'; allowed: an existing folder"),
    ],
)
def test_names_that_do_not_exist_are_refused(
    section: str, changes: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    params = load_params()
    check_params(params)
    changed = getattr(params, section).model_copy(update=changes)
    with pytest.raises(ParamsError, match=message) as caught:
        check_params(params.model_copy(update={section: changed}))
    assert "\n" not in str(caught.value)


def test_a_missing_gpu_is_found_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ParamsError, match="device: got 'cuda'"):
        check_params(load_params().model_copy(update={"device": "cuda"}))


def test_int8_is_for_cpus() -> None:
    check_precision("int8", "cpu", "serve.precision")
    with pytest.raises(ParamsError, match=r"got 'int8'; allowed on cuda: auto or full or half"):
        check_precision("int8", "cuda", "serve.precision")


@pytest.mark.parametrize(
    ("listed", "flags", "cap", "native"),
    [
        (["FP32", "BF16"], {"avx512f", "avx512_bf16"}, "", True),
        (["FP32", "BF16"], {"avx512f", "avx512_bf16"}, "AVX512_CORE_AMX", True),
        (["FP32", "BF16"], {"avx512f", "amx_bf16"}, "avx2", False),  # oneDNN may not use them
        (["FP32", "BF16"], {"avx2", "avx_ne_convert"}, "", False),  # converts only
        (["FP32"], {"avx512f", "avx512_vnni"}, "", False),
        (["FP32", "BF16"], set(), "", True),  # macOS has no list
    ],
)
def test_half_is_native_where_instructions_compute_in_it(
    listed: list[str], flags: set[str], cap: str, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Core:
        def get_property(self, device: str, name: str) -> list[str]:
            return {("CPU", "OPTIMIZATION_CAPABILITIES"): listed}[device, name]

    monkeypatch.setattr(openvino, "Core", Core)
    monkeypatch.setattr(machine, "cpu_flags", lambda: flags)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", cap)
    assert has_bfloat16() is native


def test_who_emulates_half_precision_is_named_with_the_factor() -> None:
    assert 0.01 < slowdown_by_half() < 1000  # the order of instructions, and of their emulation
    said = said_of_half(["e4_half", "e5_timeout"], False, 25.3)
    assert "e4_half, e5_timeout" in said
    assert "25 times slower" in said
    assert "native" in said_of_half([], True, 1.5)


RUN = """
import sys
from litmeter.errors import explained
from litmeter.system.machine import exclusive_machine, lock_file
try:
    with exclusive_machine():
        print(lock_file())
except Exception as error:
    sys.exit(f"{explained(error)}")
"""


def run_with(state: Path, temporary: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"XDG_STATE_HOME": str(state), "TMPDIR": str(temporary)}
    return subprocess.run([sys.executable, "-c", RUN], env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("how", ["locked", "a folder", "a link"])
def test_the_lock_is_where_nobody_else_can_make_it(how: str, tmp_path: Path) -> None:
    """Whatever has a name like it among the temporary files, it is neither waited for nor written."""
    names = [tmp_path / f"litmeter-{os.getuid()}{end}" for end in (".lock", "-logs", "")]
    for name in names:
        if how == "a folder":
            name.mkdir()
        elif how == "a link":
            name.symlink_to(tmp_path / "elsewhere")
    state = tmp_path / "state"
    with FileLock(names[0]) if how == "locked" else nullcontext():
        done = run_with(state, tmp_path)
    [lock] = (state / "litmeter").iterdir()
    assert (done.stdout, done.stderr) == (f"{lock}\n", "")
    assert (state / "litmeter").stat().st_mode & 0o777 == 0o700
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["compare", "a.py", "--body", "body.json"], "no file 'a.py'"),
        (["loadtest", "nothing --port {port}", "--body", "body.json"], "no program 'nothing'"),
        (["check", "--against", "nothing", "python a.py {port}", "--body", "body.json"], "nothing"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_is_not_there_is_told_before_the_wait_for_the_machine(
    arguments: list[str], said: str, tmp_path: Path
) -> None:
    (tmp_path / "body.json").write_text("{}")
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    command = [sys.executable, "-m", "litmeter.cli.main", *arguments]
    with exclusive_machine():
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert said in done.stderr


def test_without_a_home_the_lock_is_among_temporary_files_unless_somebody_else_was_there(
    tmp_path: Path,
) -> None:
    (state := tmp_path / "file").touch()
    fallback = tmp_path / f"litmeter-{os.getuid()}"
    done = run_with(state, tmp_path)
    assert Path(done.stdout.strip()).parent == fallback
    assert done.stderr.count("\n") == 1
    assert str(state) in done.stderr
    shutil.rmtree(fallback)
    (tmp_path / "elsewhere").mkdir()
    fallback.symlink_to(tmp_path / "elsewhere")
    done = run_with(state, tmp_path)
    assert "XDG_STATE_HOME" in done.stderr
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert not any((tmp_path / "elsewhere").iterdir())


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    first = run_with(tmp_path, tmp_path).stdout.strip()
    Path(first).unlink(missing_ok=True)
    Path(first).symlink_to(tmp_path / "elsewhere")
    done = run_with(tmp_path, tmp_path)
    assert not (tmp_path / "elsewhere").exists()
    assert (done.returncode, done.stderr.count("\n")) == (0, 1)
