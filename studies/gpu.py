"""What only a GPU can tell, and what each answer decides, once the model is exported.

A test runs the steps that have a meaning on a CPU.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from time import perf_counter, process_time
from typing import Any
from unittest.mock import patch

import psutil
import torch

from litmeter.classifier.model.compiled.build import compile_model
from litmeter.classifier.model.predictor import Predictor
from litmeter.kinds.classifier import Classifier
from litmeter.measure.log import Log
from litmeter.measure.run import run
from litmeter.measure.subjects import Served
from litmeter.measure.turn import Schedule, Turn, make_ready, measure
from litmeter.paths import MODEL, ModelFolders
from litmeter.system import device as torch_device
from litmeter.system.files import write_json
from litmeter.system.gpu import cuda_available, read_gpu
from litmeter.system.machine import exclusive_machine
from studies.harness import RESULTS, TIMEOUT_S, load_plan, photo_paths, sender

SETTINGS = Classifier(max_batch_size=8, preprocess="torchvision", threads_per_worker=1)
Answer = dict[str, Any]


def images(predictor: Predictor, number: int) -> list[torch.Tensor]:
    """Preprocessed photos."""
    return [predictor.preprocess(path.read_bytes()) for path in photo_paths()[:number]]


def fork(device: str) -> Answer:
    """Whether a child of a process that has imported torch can use the GPU. Else forkserver.py must spawn."""
    return {"sum": in_a_child("fork", _sum, device)}


def _sum(device: str) -> float:
    return float(torch.ones(8, device=device).sum())


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


def waiting(device: str, runs: int) -> Answer:
    """CPU share and milliseconds of a batch with and without a blocking event. It decides BLOCKING."""
    predictor = Predictor(MODEL, device, SETTINGS, SETTINGS.threads_per_worker)
    photos, found = images(predictor, 8), dict[str, Any]()
    for name, blocking in (("spinning", False), ("blocking", True)):
        with patch.object(torch_device, "BLOCKING", blocking):
            predictor.predict(photos)
            began, began_cpu = perf_counter(), process_time()
            for _ in range(runs):
                predictor.predict(photos)
            took_s, cpu_s = perf_counter() - began, process_time() - began_cpu
        found[name] = {"ms": 1000 * took_s / runs, "cpu_share": cpu_s / took_s}
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


def beside(device: str, seconds: float) -> Answer:
    """Requests per second of a server alone and beside four stopped ones: whether these may stay."""
    plan = load_plan(8, seconds, seed=0)
    names = [f"server {number}" for number in range(5)]

    def schedule() -> Schedule[Answer]:
        found = {}
        for started in (names[:1], names):
            yield from make_ready(started)
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


def in_a_child(method: Any, run: Callable[[str], Any], device: str) -> Any:
    """What a function of the device returns in a new process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as pool:
        return pool.submit(run, device).result()


def answers_of(device: str, seconds: float = 10.0, runs: int = 100) -> dict[str, Answer]:
    """The answer of each step, printed as it comes; ``fork`` is first, as the GPU is not used here then."""
    answers: dict[str, Answer] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        steps: list[tuple[Callable[..., Answer], tuple[Any, ...]]] = [
            *((fork, ()), (memory, ()), (waiting, (runs,)), (beside, (seconds,))),
            (packages, (folder,)),
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
