"""Packages as a GPU has them, of torch's Inductor, compiled, timed and served on a CPU by the same code."""

from __future__ import annotations

import shutil
from pathlib import Path

import psutil
import pytest
from studies import gpu

from litmeter.classifier.data.index import Index, Photo
from litmeter.classifier.model.compiled.build import compile_model
from litmeter.classifier.model.compiled.manifest import AOTI_SUFFIX, MANIFEST_NAME, SUFFIXES, Manifest
from litmeter.classifier.model.predictor import Predictor
from litmeter.kinds.classifier import Classifier
from litmeter.paths import INDEX, ModelFolders
from litmeter.system.files import write_json
from tests.support.asking import post_image, wait_for
from tests.support.models import CLASSES, export_tiny
from tests.support.server_processes import by_role
from tests.support.servers import make_project, running_server

SIZE = 2
SETTINGS = Classifier(
    max_batch_size=SIZE, preprocess="torchvision", threads_per_worker=1, transport="direct", drain_s=0.0
)
COMPILED = SETTINGS.model_copy(update={"compiled": True})

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelFolders, Manifest]:
    folders = export_tiny(tmp_path_factory.mktemp("models"), image_size=32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SUFFIXES, "cpu", AOTI_SUFFIX)
        patch.setattr("litmeter.classifier.model.compiled.build.precisions_on", lambda device: ("full",))
        manifest = compile_model(folders, "cpu", (1,), [])
    # Whichever is faster here, all are used.
    used = [one.model_copy(update={"skipped_reason": None}) for one in manifest.packages]
    as_used = manifest.model_copy(update={"packages": used})
    write_json(folders.compiled / MANIFEST_NAME, as_used.model_dump())
    return folders, manifest


def test_packages_are_timed_and_answer_as_the_model(
    built: tuple[ModelFolders, Manifest], photos: list[Path]
) -> None:
    folders, manifest = built
    assert [one.file for one in manifest.packages] == ["full-1.pt2"]
    assert all(one.compiled_ms and one.eager_ms for one in manifest.packages)
    eager, compiled = Predictor(folders, "cpu", SETTINGS), Predictor(folders, "cpu", COMPILED)
    images = [eager.preprocess(path.read_bytes()) for path in photos[: 2 * SIZE + 1]]
    assert compiled.predict(images).numpy() == pytest.approx(eager.predict(images).numpy(), abs=1e-5)


def test_what_a_killed_worker_has_unpacked_goes_when_it_is_replaced(
    built: tuple[ModelFolders, Manifest], photos: list[Path]
) -> None:
    """And all of it when the server ends."""
    folders, _ = built
    with running_server(folders, COMPILED) as server:
        [worker] = by_role(server.url, "worker")
        folder = Path(psutil.Process(server.pid).environ()["TMPDIR"])
        assert list((folder / f"of-{worker.pid}").glob("aotinductor_*")) != []
        answer = post_image(server.url, photos[0].read_bytes())
        assert answer.json()["label"] in CLASSES
        worker.kill()
        wait_for(lambda: [one.pid for one in by_role(server.url, "worker")] not in ([], [worker.pid]))
        [other] = by_role(server.url, "worker")
        wait_for(lambda: [one.name for one in folder.glob("of-*")] == [f"of-{other.pid}"])
        assert post_image(server.url, photos[0].read_bytes()).status_code == 200
    assert not folder.exists()


def test_every_step_of_the_study_that_a_cpu_can_do_has_an_answer(
    built: tuple[ModelFolders, Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photos: list[Path]
) -> None:
    make_project(tmp_path, built[0])
    monkeypatch.chdir(tmp_path)
    listed = [Photo(path=str(path), label=0, split="test", sha256="") for path in photos]
    write_json(INDEX, Index(classes=CLASSES, photos=listed).model_dump())
    # To compile is tried above.
    monkeypatch.setattr(
        gpu,
        "compile_model",
        lambda folders, *_: shutil.copytree(built[0].compiled, folders.compiled) and built[1],
    )
    answers = gpu.answers_of("cpu", seconds=1.0, runs=3)
    assert {step: answer["error"] for step, answer in answers.items() if "error" in answer} == {}
    assert answers["packages"]["full 1"]["largest_change"] < 1e-5
    assert "full_card" not in answers
