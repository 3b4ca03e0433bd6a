"""Stage ``train``: fine-tune the classifier, and test it once."""

from __future__ import annotations

import logging
import shutil
import warnings
from typing import Any

import lightning

from litmeter.classifier.data.index import Index, read_index
from litmeter.classifier.model.environment import keep_freed_memory
from litmeter.classifier.training.fit import TESTING, ClassifierModule, fit
from litmeter.classifier.training.settings import TrainParams
from litmeter.paths import CHECKPOINT, CONFUSION, TRAIN_METRICS, TRAINING_CURVES
from litmeter.settings import read_only
from litmeter.system.files import all_or_nothing, atomic_write, write_csv, write_json
from litmeter.system.temporary import scratch


def main() -> dict[str, Any]:
    """Fit the model (or take it as it is), test it, and write checkpoint, metrics and curves."""
    keep_freed_memory()
    params = read_only(TrainParams)
    index = read_index(params.model.classes)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    # These are expected: there are few batches, and the main process decodes them.
    for expected in ("does not have many workers", "number of training batches", "LeafSpec.` is deprecated"):
        warnings.filterwarnings("ignore", message=f".*{expected}.*")
    lightning.seed_everything((params.train or TESTING).seed, verbose=False)
    with scratch() as folder, all_or_nothing():
        module, checkpoint = fit(params, index, folder)
        with atomic_write(CHECKPOINT) as temporary:
            shutil.copyfile(checkpoint, temporary)
        return write_results(module, index)


def write_results(module: ClassifierModule, index: Index) -> dict[str, Any]:
    """Write the curves and every test photo's class and prediction; write and return the accuracy."""
    labels = [photo.label for photo in index.split("test")]
    pairs = list(zip(labels, module.predicted, strict=True))
    correct = sum(actual == predicted for actual, predicted in pairs)
    best = min(module.history, key=lambda row: row["val_loss"])
    metrics = {
        "test_accuracy": round(correct / len(pairs), 4),
        "test_images": len(pairs),
        "val_accuracy": round(best["val_accuracy"], 4),
        "best_epoch": best["epoch"],
    }
    write_json(TRAIN_METRICS, metrics)
    write_csv(TRAINING_CURVES, module.history)
    names = index.classes
    rows = [{"actual": names[actual], "predicted": names[predicted]} for actual, predicted in pairs]
    write_csv(CONFUSION, rows)
    return metrics
