"""What only a GPU can tell, and what each answer decides: ten minutes, once the model is exported.

A test runs the steps that have a meaning on a CPU.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from time import perf_counter, process_time
from typing import Any
from unittest.mock import patch

import psutil
import torch

from litmeter.classifier.model.compiled.build import compile_model
from litmeter.classifier.model.compiled.manifest import read_manifest
from litmeter.classifier.model.predictor import Predictor
from litmeter.kinds.classifier import Classifier
from litmeter.measure.log import Log
from litmeter.measure.run import run
from litmeter.measure.subjects import Served
from litmeter.measure.turn import Schedule, Turn, measure, serve
from litmeter.paths import MODEL, ModelFolders
from litmeter.peaks import LAUNCHES, Operation, fastest_flops
from litmeter.system import device as torch_device
from litmeter.system.files import write_json
from litmeter.system.gpu import cuda_available, describe_gpu, read_gpu
from litmeter.system.machine import exclusive_machine
from studies.harness import RESULTS, TIMEOUT_S, load_plan, photo_paths, sender

SETTINGS = Classifier(max_batch_size=8, preprocess="torchvision", threads_per_worker=1)
Answer = dict[str, Any]


def images(predictor: Predictor, number: int) -> list[torch.Tensor]:
    """Preprocessed photos."""
    return [predictor.preprocess(path.read_bytes()) for path in photo_paths()[:number]]


def driver(device: str) -> Answer:
    """The GPU, its driver and what compiles for it. Without a toolkit nothing is compiled (build.py)."""
    from torch.utils import cpp_extension

    capability = torch.cuda.get_device_capability() if device == "cuda" else None
    tools = {"toolkit": cpp_extension.CUDA_HOME, "compiler": shutil.which("g++")}
    return {**describe_gpu(), "capability": capability, **tools}


def fork(device: str) -> Answer:
    """Whether a child of a process that has imported torch can use the GPU. Else forkserver.py must spawn."""
    return {"sum": in_a_child("fork", _sum, device)}


def _sum(device: str) -> float:
    return float(torch.ones(8, device=device).sum())


def decoder(device: str) -> Answer:
    """Milliseconds of a JPEG on the CPU and by nvJPEG, and if pixels differ: then the CPU decodes."""
    files = [path.read_bytes() for path in photo_paths()[:32]]
    decode = Predictor(MODEL, "cpu", SETTINGS).decode
    found = {"cpu_ms": ms_of(lambda: [decode(file) for file in files]) / len(files)}
    if device == "cuda":
        from torchvision.io import ImageReadMode, decode_jpeg

        given = [torch.frombuffer(bytearray(file), dtype=torch.uint8) for file in files]
        by_gpu = partial(decode_jpeg, given, ImageReadMode.RGB, device=device)
        pairs = zip(by_gpu(), map(decode, files), strict=True)
        found["largest"] = max(float((own.cpu().int() - pixels.int()).abs().max()) for own, pixels in pairs)
        found["gpu_ms"] = ms_of(by_gpu) / len(files)
    return found


def packages(device: str, folder: Path) -> Answer:
    """Packages in both formats against eager: times, and the largest change of a probability."""
    folders, found = ModelFolders(MODEL.exported, folder / "compiled"), dict[str, Any]()
    manifest = compile_model(folders, device, (1, 8), [])
    for one in manifest.packages:
        settings = SETTINGS.model_copy(update={"precision": one.precision})
        eager = Predictor(folders, device, settings)
        compiled = Predictor(folders, device, settings.model_copy(update={"compiled": True}))
        photos = images(eager, one.batch_size)
        change = float((compiled.predict(photos) - eager.predict(photos)).abs().max())
        found[f"{one.precision} {one.batch_size}"] = {**one.model_dump(), "largest_change": change}
    return {"skipped": manifest.skipped_reason, **found}


def killed(device: str, folder: Path) -> Answer:
    """What a killed process leaves of its packages. The supervisor removes ``of-PID`` with all in it."""
    folders = ModelFolders(MODEL.exported, folder / "compiled")
    read_manifest(folders, device)
    left = folder / "left"
    left.mkdir()
    process = multiprocessing.get_context("spawn").Process(target=_load_and_die, args=(folders, device, left))
    process.start()
    process.join()
    return {
        "status": process.exitcode,
        "left": sorted(str(one.relative_to(left)) for one in left.glob("*/*")),
    }


def _load_and_die(folders: ModelFolders, device: str, folder: Path) -> None:
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    predictor = Predictor(folders, device, SETTINGS.model_copy(update={"compiled": True}))
    predictor.predict(images(predictor, 1))
    os.kill(os.getpid(), signal.SIGKILL)


def waiting(device: str, runs: int) -> Answer:
    """CPU share and milliseconds of a batch with and without a blocking event. It decides BLOCKING."""
    predictor = Predictor(MODEL, device, SETTINGS, SETTINGS.threads_per_worker)
    photos, found = images(predictor, 8), dict[str, Any]()
    for name, blocking in (("spinning", False), ("blocking", True)):
        with patch.object(torch_device, "BLOCKING", blocking):
            predictor.predict(photos)
            began, began_cpu = perf_counter(), process_time()
            ms = ms_of(partial(predictor.predict, photos), runs)
            share = (process_time() - began_cpu) / (perf_counter() - began)
        found[name] = {"ms": ms, "cpu_share": share}
    return found


def memory(device: str) -> Answer:
    """MiB of a worker idle, after 1 image and after 8; the latter is what run.py reckons with."""
    found: Answer = in_a_child("spawn", _memory, device)
    return found


def _memory(device: str) -> Answer:
    def used_mib() -> float:
        return read_gpu().used_mib if device == "cuda" else psutil.Process().memory_info().rss / 2**20

    before, found = used_mib(), {}
    predictor = Predictor(MODEL, device, SETTINGS, SETTINGS.threads_per_worker)
    for name, size in (("idle", 0), ("after 1", 1), ("after 8", 8)):
        if size:
            predictor.predict(images(predictor, size))
        found[name] = used_mib() - before
    if device == "cuda":
        found |= {"NVML's free": read_gpu().free_mib, "CUDA's": torch.cuda.mem_get_info()[0] / 2**20}
    return found


def first_batch(device: str) -> Answer:
    """Milliseconds of a worker's first batches of 1 and 8. It decides whether ``warm_up`` stays."""
    found: Answer = in_a_child("spawn", _first_batch, device)
    return found


def _first_batch(device: str) -> Answer:
    predictor = Predictor(MODEL, device, SETTINGS, SETTINGS.threads_per_worker)
    return {
        str(size): [ms_of(partial(predictor.predict, photos)) for _ in range(3)]
        for size in (1, 8)
        for photos in [images(predictor, size)]
    }


def beside(device: str, seconds: float) -> Answer:
    """Requests per second of a server alone and beside four stopped ones: whether these may stay."""
    plan = load_plan(8, seconds, seed=0)
    names = [f"server {number}" for number in range(5)]

    def schedule() -> Schedule[Answer]:
        found = {}
        for started in (names[:1], names):
            yield from serve(started)
            sample = yield from measure(Turn(names[0], plan))
            found[f"{len(started)} started"] = sample.row.rate_rps
        return found

    with exclusive_machine(), sender("image") as own:
        subjects = {name: Served(name, SETTINGS, own, device, TIMEOUT_S) for name in names}
        return run(schedule(), subjects, Log(), 2 * seconds)


def full_card(device: str, folder: Path) -> Answer:
    """What a model raises where no memory is left. ``lacks_memory`` must know it."""
    folders, found = ModelFolders(MODEL.exported, folder / "compiled"), {}
    for compiled in (False, True):
        predictor = Predictor(folders, device, SETTINGS.model_copy(update={"compiled": compiled}))
        photos, taken = images(predictor, 8), [torch.empty(0)]
        for size in (2**28, 2**24, 2**20):
            while torch.cuda.mem_get_info()[0] > size:
                taken.append(torch.empty(size, dtype=torch.uint8, device=device))
        try:
            predictor.model(predictor.batch(photos).repeat(64, 1, 1, 1))
            found["compiled" if compiled else "eager"] = "nothing"
        except RuntimeError as error:
            text = f"{type(error).__name__}: {error}"[:500]
            found["compiled" if compiled else "eager"] = f"{text} ({torch_device.lacks_memory(error)})"
        taken.clear()
        torch.cuda.empty_cache()
    return found


def peaks(device: str, sides: Sequence[int]) -> Answer:
    """TFLOP/s of products by side, one and several at a time. It decides MATRIX_SIZES and LAUNCHES."""
    found = {}
    for side in sides:
        left = torch.randn(side, side, device=device)
        product = Operation("torch", "float32", 2 * side**3, partial(torch.mm, left, left))
        for together in (1, LAUNCHES["cuda"]):
            own = product._replace(
                flops=together * product.flops, run=partial(_repeat, product.run, together)
            )
            found[f"{side}, {together} together"] = fastest_flops([own], device)["float32"] / 1e12
    return found


def _repeat(run: Callable[[], object], times: int) -> None:
    for _ in range(times):
        run()


def ms_of(run: Callable[[], object], runs: int = 1) -> float:
    """Mean milliseconds."""
    began = perf_counter()
    _repeat(run, runs)
    return 1000 * (perf_counter() - began) / runs


def in_a_child(method: Any, run: Callable[[str], Any], device: str) -> Any:
    """What a function of the device returns in a new process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as pool:
        return pool.submit(run, device).result()


def answers_of(
    device: str,
    sides: Sequence[int] = (2048, 8192),
    seconds: float = 10.0,
    runs: int = 100,
) -> dict[str, Answer]:
    """The answer of each step, printed as it comes; ``fork`` is first, as the GPU is not used here then."""
    answers: dict[str, Answer] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        steps: list[tuple[Callable[..., Answer], tuple[Any, ...]]] = [
            *((one, ()) for one in (fork, driver, decoder, memory, first_batch)),
            *((waiting, (runs,)), (peaks, (sides,)), (beside, (seconds,))),
            *((packages, (folder,)), (killed, (folder,))),
            *([(full_card, (folder,))] if device == "cuda" else []),
        ]
        for step, options in steps:
            print(f"\n{step.__name__}: {step.__doc__}")
            try:
                answer = step(device, *options)
            except Exception as error:  # the others have answers all the same
                answer = {"error": f"{type(error).__name__}: {error}"}
            answers[step.__name__] = answer
            print(f"  {answer}")
    return answers


def main() -> None:
    """Print the answers, and keep them."""
    if not cuda_available():
        print("there is no GPU that torch can use: nothing to study")
        return
    write_json(RESULTS / "gpu.json", answers_of("cuda"))


if __name__ == "__main__":
    main()
