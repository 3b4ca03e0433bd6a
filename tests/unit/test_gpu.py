"""What a GPU does, tried without one: its readings are faked here, and what CUDA raises is raised by a test.

So these tests say what this code makes of them, and nothing of a GPU.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest
import torch

from litmeter.classifier.model.compiled.build import compile_model
from litmeter.classifier.model.environment import modules_of
from litmeter.classifier.model.predictor import Predictor
from litmeter.classifier.model.rows import PackageRow
from litmeter.kinds.classifier import Classifier
from litmeter.kinds.registry import read as read_keys
from litmeter.load.bodies import Bodies
from litmeter.measure.log import Log
from litmeter.measure.run import free_gpu_bytes, run
from litmeter.measure.subjects import InProcess, Served, Subject
from litmeter.measure.telemetry import Telemetry
from litmeter.measure.turn import Schedule, Turn, make_ready
from litmeter.paths import ModelFolders
from litmeter.report.claims import doubts
from litmeter.report.snapshot import Snapshot
from litmeter.stats.records import LoadRecord
from litmeter.system import gpu
from litmeter.system.device import end_if_sticky, lacks_memory
from litmeter.system.gpu import Reading, cuda_available, read_gpu

COMPILED = Classifier(compiled=True, preprocess="torchvision")


def usage_of(telemetry: Telemetry, ticks: int = 1) -> Any:
    telemetry.begin(None, None)
    for _ in range(ticks):
        telemetry.tick()
    return telemetry.end()


def test_means_that_began_before_a_turn_are_not_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("litmeter.measure.telemetry.read_gpu", lambda: Reading(80.0, 70.0, 3000.0, 12000.0))
    for averaged_s, expected in ((1.0, (None, None, 3000.0)), (0.0, (80.0, 70.0, 3000.0))):
        monkeypatch.setattr("litmeter.measure.telemetry.AVERAGED_S", averaged_s)
        usage = usage_of(Telemetry(on_gpu=True))
        assert (usage.gpu_percent, usage.gpu_power_w, usage.gpu_memory_mib) == expected
    assert usage_of(Telemetry(on_gpu=False)).gpu_memory_mib is None


@pytest.mark.skipif(gpu._has_nvidia_driver(), reason="there is a driver")
def test_without_nvml_there_are_no_figures_which_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    """As in a container without the capability "utility"."""
    with pytest.raises(pynvml.NVMLError):
        read_gpu()
    assert free_gpu_bytes() == float("inf")
    usage = usage_of(Telemetry(on_gpu=True), ticks=3)
    assert usage.gpu_percent is usage.gpu_memory_mib is None
    assert usage.cores is not None
    assert capsys.readouterr().out.count("the GPU could not be read") == 1
    assert gpu._driver() is None


def test_the_gpu_is_that_of_cudas_uuid(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA_VISIBLE_DEVICES names the second of two, or CUDA's order does."""
    memory = {b: SimpleNamespace(used=b * 2**30, free=10 * b * 2**30) for b in (1, 2)}
    by_uuid = {"GPU-aaaa": 1, "GPU-bbbb": 2}
    monkeypatch.setattr(gpu, "cuda_uuid", lambda: "bbbb")
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", by_uuid.__getitem__)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", memory.__getitem__)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetPowerUsage", lambda handle: 70_000)
    gpu._handle.cache_clear()
    try:
        assert read_gpu() == Reading(None, 70.0, 2048.0, 20480.0)  # no utilisation: NVML itself is not there
    finally:
        gpu._handle.cache_clear()


def test_torch_is_asked_for_a_gpu_only_where_it_is_installed_and_there_is_a_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr(gpu, "NVIDIA_DRIVER", "libno-such-driver.so.1")
    monkeypatch.setattr(gpu, "AMD_DEVICE", tmp_path / "kfd")
    assert not cuda_available()
    (tmp_path / "kfd").touch()
    assert cuda_available()
    (tmp_path / "kfd").unlink()
    monkeypatch.setattr(gpu, "NVIDIA_DRIVER", "libc.so.6")
    assert cuda_available()
    monkeypatch.setitem(sys.modules, "torch", None)
    assert not cuda_available()


@dataclass(eq=False)
class Started(Subject):
    """Takes memory of a GPU, or is a null server."""

    started: list[Subject]
    gpu_workers: int = 1
    workers: int = 1
    essential: bool = False

    def start(self) -> AbstractContextManager[Callable[[], None]]:
        self.started.append(self)
        return nullcontext(lambda: None)

    def load(self, turn: Turn, tick: Callable[[], None]) -> LoadRecord:
        raise AssertionError


def served_at_once(monkeypatch: pytest.MonkeyPatch, free_mib: float) -> tuple[str, ...]:
    """Of a null server and four that take 1,000 MiB of the GPU, those for which it has room."""
    started: list[Subject] = []
    subjects = {"null": Started(started, gpu_workers=0)} | {f"s{k}": Started(started) for k in range(4)}

    def read() -> Reading:
        taken = 1000.0 * sum(one.gpu_workers for one in started)
        return Reading(None, None, taken, free_mib - taken)

    def schedule() -> Schedule[tuple[str, ...]]:
        return (yield from make_ready(list(subjects))).names

    monkeypatch.setattr("litmeter.measure.run.read_gpu", read)
    return run(schedule(), subjects, Log(), 10.0, lambda *_: None)


def test_memory_of_the_gpu_is_that_of_workers_on_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A null server, on the CPU, takes none; what has no room is named."""
    # With s0 and s1 ready 2,000 are taken, and a third needs 1,200 beside 400 for their growth.
    assert served_at_once(monkeypatch, 3500.0) == ("null", "s0", "s1")
    printed = capsys.readouterr().out
    assert "without s2" in printed
    assert "without s3" in printed
    assert served_at_once(monkeypatch, float("inf")) == ("null", "s0", "s1", "s2", "s3")


def test_workers_on_a_gpu_are_those_of_models_there(exported: ModelFolders) -> None:
    sender: Any = SimpleNamespace(pid=1)
    two = Classifier(workers_per_device=2)
    served = [
        Served("any", two.of(exported), sender, device, 1.0, null=null)
        for device, null in (("cuda", False), ("cuda", True), ("cpu", False))
    ]
    assert [one.gpu_workers for one in served] == [2, 0, 0]
    assert InProcess("any", two, "cuda", Bodies([], "image/jpeg")).gpu_workers == 2
    assert InProcess("any", two, "cpu", Bodies([], "image/jpeg")).gpu_workers == 0


@pytest.mark.parametrize(
    "message",
    [
        "CUDA out of memory. Tried to allocate 2.00 GiB.",
        "CUDA driver error: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    ],
)
def test_a_lack_of_memory_is_known_by_its_message(message: str) -> None:
    assert lacks_memory(RuntimeError(message))
    end_if_sticky(torch.AcceleratorError(message))


def test_an_error_that_stays_ends_the_process() -> None:
    end_if_sticky(RuntimeError("shapes do not match"))
    with pytest.raises(SystemExit, match=r"GPU context is broken.*illegal memory access"):
        end_if_sticky(torch.AcceleratorError("CUDA error: an illegal memory access was encountered"))


@pytest.mark.parametrize(
    ("toolkit", "compiler", "reason"),
    [(None, "g++", "no CUDA toolkit (CUDA_HOME"), ("/usr/local/cuda", None, "no C++ compiler")],
)
def test_without_what_compiles_for_a_gpu_models_run_in_torch_and_it_says_so(
    toolkit: str | None,
    compiler: str | None,
    reason: str,
    exported: ModelFolders,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.utils.cpp_extension.CUDA_HOME", toolkit)
    monkeypatch.setattr("shutil.which", lambda name: compiler)
    folders = ModelFolders(exported.exported, tmp_path / "compiled")
    manifest = compile_model(folders, "cuda", (1, 8), [])
    assert manifest.packages == []
    assert reason in (COMPILED.of(folders).note("cuda") or "")


def test_a_worker_warms_up_with_one_image_and_with_several(
    exported: ModelFolders, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict, sizes = Predictor.predict, list[int]()

    def counted(self: Predictor, images: Any) -> Any:
        sizes.append(len(images))
        return predict(self, images)

    monkeypatch.setattr(Predictor, "predict", counted)
    for preprocess, most in (("timm", 1), ("torchvision", 4), ("timm", 4096)):
        settings = read_keys({"preprocess": preprocess, "max_batch_size": most, "batch_timeout_s": 0.01})
        Predictor(exported, "cpu", settings).warm_up(most)
    assert sizes == [1, 1, 1, 4, 1, 8]


@pytest.mark.parametrize(("device", "imported"), [("cuda", "False"), ("cpu", "True")])
def test_a_worker_on_a_gpu_imports_no_openvino(device: str, imported: str) -> None:
    code = f"import sys, {', '.join(modules_of(COMPILED, device))}; print('openvino' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == imported


def test_tables_say_what_runs_where_no_package_is_used() -> None:
    used = PackageRow("full", 1, 20.0, 10.0, None, 5.0, None)
    slower = replace(used, skipped_reason="slower than the model in torch")
    half = replace(used, precision="half")
    assert COMPILED.as_run([slower, used]).describe("cuda").endswith("compiled, torchvision")
    for packages in ([], [slower], [half]):
        assert "compiled" not in COMPILED.as_run(packages).describe("cuda")


def test_figures_that_hold_the_gpus_time_are_marked_on_a_gpu(snapshot: Snapshot) -> None:
    def spins(device: str) -> bool:
        results = [replace(one, device=device) for one in snapshot.results]
        return any("Workers spin" in one.sentence for one in doubts(replace(snapshot, results=results)))

    assert spins("cuda")
    assert not spins("cpu")
