"""A model of so many classes that an answer is larger than what a socket holds: each is judged whole."""

from __future__ import annotations

from pathlib import Path

from litmeter.classifier.accuracy import compare
from litmeter.classifier.model.predictor import Predictor
from litmeter.classifier.model.reference import Reference
from litmeter.kinds.classifier import Classifier
from litmeter.load import load_generator
from litmeter.load.settings import LoadSettings
from litmeter.measure.levels import levels
from litmeter.measure.log import Log
from litmeter.measure.run import run
from litmeter.measure.subjects import Served
from litmeter.params import load_params
from tests.support.models import export_tiny
from tests.support.project import ROOT

CLASSES = [f"class {number} of many" for number in range(3000)]
SETTINGS = Classifier(transport="direct", threads_per_worker=1)
LOAD: LoadSettings = load_params(ROOT / "params.yaml").load.model_copy(
    update={"users": (2,), "requests": 40, "min_s": 0.3}
)


def test_answers_of_thousands_of_classes_are_compared_with_the_reference(
    tmp_path: Path, photos: list[Path]
) -> None:
    folders = export_tiny(tmp_path, classes=CLASSES)
    contents, predictor = [photo.read_bytes() for photo in photos], Predictor(folders, "cpu", SETTINGS)
    expected = predictor.predict([predictor.preprocess(content) for content in contents]).numpy()
    tests = range(len(photos))
    reference = Reference(CLASSES, [0 for _ in tests], ["test" for _ in tests], expected)
    log = Log()
    with load_generator(contents, "image/jpeg") as sender:
        subjects = {"many": Served("many", SETTINGS.of(folders), sender, "cpu", LOAD.timeout_s)}
        alone = run(
            levels("many", LOAD, len(contents), tests, null_server=False), subjects, log, budget_s=10.0
        )
    assert min(len(content) for _, content in alone.answers) > 100_000
    assert sum(alone.answers.values()) == sum(row.sent for row in log.rows)
    found = compare(reference, alone.answers, "float32")
    assert (found["photos"], found["agreement"], found["mismatched"]) == (len(photos), 1.0, 0)
    assert not any(sample.requests.answers for sample in log.samples)  # which is kept to the end of the run
