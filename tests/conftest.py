"""What several tests share: the project's root, and a tiny exported model."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import requests
import torch
import yaml
from safetensors.torch import save_file

from servebench.inference.card import CARD_NAME, WEIGHTS_NAME, ModelCard, sha256
from servebench.inference.model import build_model, input_config
from servebench.serving.auth import KEY_VARIABLE
from servebench.serving.launcher import free_port
from servebench.system.files import write_json

ROOT = Path(__file__).resolve().parent.parent
PHOTOS = ROOT / "data/sample/oxford-iiit-pet/images"
CLASSES = ["cat", "dog", "fox"]


@pytest.fixture(scope="session", autouse=True)
def own_temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What a killed run has left is removed by the next command, with a line that is none of a test's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("own")))
        patch.setattr(tempfile, "tempdir", None)
        yield


@pytest.fixture(scope="session")
def photos() -> list[Path]:
    """A dozen of the project's own photographs."""
    return sorted(PHOTOS.glob("*.jpg"))[::31]


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as ``export`` writes it, of timm's tiny test model with random weights."""
    return export_tiny(tmp_path_factory.mktemp("exported"))


def export_tiny(folder: Path, image_size: int = 96) -> Path:
    torch.manual_seed(0)
    model = build_model("test_efficientnet", len(CLASSES), image_size).eval()
    # Scaled up, so that random weights answer different photos differently.
    model.get_classifier().weight.data.mul_(50)
    save_file(model.state_dict(), folder / WEIGHTS_NAME)
    card = ModelCard.model_validate(
        {
            "architecture": "test_efficientnet",
            "classes": CLASSES,
            "image_size": image_size,
            **input_config(model),
            "test_accuracy": 0.5,
            "test_images": 10,
            "weights_sha256": sha256(folder / WEIGHTS_NAME),
        }
    )
    write_json(folder / CARD_NAME, card.model_dump(mode="json"))
    return folder


@dataclass(frozen=True)
class Command:
    """A running `servebench serve`."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path


@contextmanager
def serve_command(
    folder: Path,
    exported: Path,
    *options: str,
    key: str | None = None,
    trusted: Path | None = None,
    **settings: object,
) -> Iterator[Command]:
    """`servebench serve` of a model in ``folder``, once it is healthy.

    Args:
        key: the API key in its environment.
        trusted: whose certificates to trust; asked by HTTPS.
        settings: of the serve section, where they are not the project's own.
    """
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["serve"] |= {"compiled": False, **settings}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    shutil.copytree(exported, folder / "models/exported")
    port, log = free_port(), folder / "log"
    command = [sys.executable, "-m", "servebench.cli.main", "serve", "--port", str(port), *options]
    url = f"{'https' if trusted else 'http'}://127.0.0.1:{port}"
    environment = {name: value for name, value in os.environ.items() if name != KEY_VARIABLE}
    environment |= {KEY_VARIABLE: key} if key else {}
    verify = str(trusted) if trusted else True
    with (
        log.open("wb") as output,
        subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output) as process,
    ):
        try:
            deadline = time.monotonic() + 120
            while not healthy(url, verify):
                if process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"it never became healthy: {log.read_text()}")
                time.sleep(0.1)
            yield Command(url, process, log)
        finally:
            process.terminate()


def healthy(url: str, verify: str | bool = True) -> bool:
    """Whether all of a server's workers are ready."""
    with suppress(requests.ConnectionError):
        return requests.get(f"{url}/health", timeout=5, verify=verify).status_code == 200
    return False


def processes_mentioning(text: str) -> list[int]:
    """Ids of living processes, other than this one, whose command line holds ``text``."""
    return [
        process.pid
        for process in psutil.process_iter(["cmdline", "status"])
        if text in " ".join(process.info["cmdline"] or [])
        and process.info["status"] != psutil.STATUS_ZOMBIE
        and process.pid != os.getpid()
    ]
