"""What a server of compiled packages takes: time to its first answer, and memory of each worker.

A worker counts with its part of the process that all workers are forked from.

A worker is compared with its bare parts: as many processes as there are workers, each of which imports torch,
Pillow and OpenVINO, loads the packages and runs each once.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import ExitStack
from statistics import median

import psutil
import requests
import torch

from litmeter.benchmark.served import scrape
from litmeter.inference.compiled.manifest import read_manifest, verified_file
from litmeter.inference.compiled.model import load_package
from litmeter.inference.compiled.package import example_batch
from litmeter.inference.device import dtype_name
from litmeter.inference.environment import worker_environment
from litmeter.inference.preprocess import jpeg_decoder
from litmeter.params import load_params
from litmeter.paths import MODEL
from litmeter.serving.client import CONTENT_TYPES
from litmeter.serving.launcher import running_server
from litmeter.system.machine_lock import exclusive_machine
from litmeter.system.processes import process_group
from studies import DEVICE, TIMEOUT_S
from studies.harness import load_plan, photo_paths, run_load, write_result

CONFIGURATION = "candidate"
STARTS = 9
USERS, SECONDS = 8, 2.0
"""Of the load before memory is read."""
TARGET_FIRST_ANSWER_S, TARGET_WORKER_MIB, TARGET_REST_MIB = 3.0, 300.0, 120.0


def own_memory_mib(pid: int) -> float:
    """Of a process, without its children; a page that several share counts in equal parts."""
    return float(psutil.Process(pid).memory_full_info().pss / 2**20)


def start_once() -> dict[str, float]:
    """Start the server, wait for its first answer, load it; seconds and MiB."""
    settings = load_params().configuration(CONFIGURATION)
    photo, headers = photo_paths()[0].read_bytes(), {"Content-Type": CONTENT_TYPES["image"]}
    started = time.perf_counter()
    with running_server(MODEL, settings, DEVICE, TIMEOUT_S) as server:
        answer = requests.post(f"{server.url}/predict", photo, headers=headers, timeout=TIMEOUT_S)
        first_answer_s = time.perf_counter() - started
        answer.raise_for_status()
        run_load(server, "image", [load_plan(users=USERS, seconds=SECONDS, seed=0)])
        roles = scrape(server).roles
        main = psutil.Process(server.pid)
        pids = [process.pid for process in (main, *main.children(recursive=True))]
        memory = {pid: own_memory_mib(pid) for pid in pids}
        workers = [pid for pid in pids if roles.get(pid) == "worker"]
        [forkserver] = {psutil.Process(pid).ppid() for pid in workers}
        own = [memory.pop(pid) for pid in workers]
        forked_from = memory.pop(forkserver)
        return {
            "first_answer_s": round(first_answer_s, 3),
            "worker_mib": round(max(own) + forked_from / len(own), 1),
            "rest_mib": round(sum(memory.values()), 1),
        }


def bare_mib() -> float:
    """Memory of the bare parts of a worker, MiB, with as many processes as the server has workers."""
    settings = load_params().configuration(CONFIGURATION)
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                process_group(
                    [sys.executable, "-m", "studies.footprint", "bare", settings.precision],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env=worker_environment(settings),
                )
            )
            for _ in range(settings.workers_per_device)
        ]
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()
        return round(max(own_memory_mib(process.pid) for process in processes), 1)


def load_bare_parts(precision: str) -> None:
    """Load what a worker cannot do without, say so, and wait."""
    torch.set_num_threads(1)
    jpeg_decoder()
    dtype = getattr(torch, dtype_name(precision, DEVICE))
    device = torch.device(DEVICE)
    models = []
    for package in read_manifest(MODEL, DEVICE).packages:
        if package.precision == precision and package.skipped_reason is None:
            model = load_package(verified_file(MODEL.compiled, package), dtype, device)
            model(example_batch(MODEL.exported, DEVICE, package.batch_size))
            models.append(model)
    print("ready", flush=True)
    sys.stdin.read()


def main() -> None:
    """Start the server STARTS times; keep medians and all values."""
    with exclusive_machine():
        runs = [start_once() for _ in range(STARTS)]
        bare = bare_mib()
    found = {key: median(run[key] for run in runs) for key in runs[0]}
    result = {
        **found,
        "bare_parts_mib": bare,
        "targets": {
            "first_answer_s": TARGET_FIRST_ANSWER_S,
            "worker_mib": max(TARGET_WORKER_MIB, round(1.2 * bare, 1)),
            "rest_mib": TARGET_REST_MIB,
        },
        "runs": runs,
    }
    write_result("footprint", result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    if sys.argv[1:2] == ["bare"]:
        load_bare_parts(sys.argv[2])
    else:
        main()
