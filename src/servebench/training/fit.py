"""Stage ``training``: fit, keep the best epoch, test it once."""

from __future__ import annotations

import logging
import shutil
import sys
import warnings
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from servebench.data.index import Index, read_index
from servebench.device import resolve_device
from servebench.leftovers import scratch
from servebench.model import build_model, input_config
from servebench.params import Params, load_params
from servebench.paths import CHECKPOINT, CONFUSION, TRAIN_METRICS, TRAINING_CURVES
from servebench.results import replacing, together, write_csv, write_json
from servebench.statistics import wilson_interval
from servebench.training.datamodule import PhotoDataModule
from servebench.training.module import Classifier
from servebench.training.weights import load_all, pretrained_model, read_state_dict


def main() -> None:
    """Fit (or take ``model.checkpoint``), test, write checkpoint, metrics and curves."""
    params = load_params()
    index = read_index()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    # Few batches, decoded in the main process: as meant.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*number of training batches.*")
    warnings.filterwarnings("ignore", message=".*`isinstance.treespec, LeafSpec.` is deprecated.*")
    lightning.seed_everything(params.train.seed, verbose=False)
    with scratch() as folder, together():
        module, checkpoint = _fitted(params, index, folder)
        with replacing(CHECKPOINT) as temporary:
            shutil.copyfile(checkpoint, temporary)
        _report(module, index)


def _fitted(params: Params, index: Index, folder: Path) -> tuple[Classifier, Path]:
    """The tested module, and the checkpoint with its weights."""
    settings, classes = params.model, len(index.classes)
    if settings.checkpoint:
        model = build_model(settings.name, classes, settings.image_size)
    else:
        model = pretrained_model(settings, classes)
    module = Classifier(model, params.train, pretrained=settings.pretrained != "none")
    photos = PhotoDataModule(index, params.train, settings.image_size, input_config(model))
    keep_best = ModelCheckpoint(folder, "best", monitor="val_loss", save_weights_only=True)
    trainer = lightning.Trainer(
        accelerator="gpu" if resolve_device(params.device, torch.cuda.is_available()) == "cuda" else "cpu",
        devices=1,
        max_epochs=params.train.epochs,
        callbacks=[keep_best],
        logger=False,
        enable_progress_bar=sys.stderr.isatty(),
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    if settings.checkpoint:
        checkpoint = Path(settings.checkpoint)
        print(f"{checkpoint}: tested, not fitted")
        module.history = [{"epoch": 0, "train_loss": None, "val_loss": None, "val_accuracy": None}]
    else:
        trainer.fit(module, photos)
        checkpoint = Path(keep_best.best_model_path)
    load_all(model, read_state_dict(checkpoint), str(checkpoint))
    if settings.checkpoint:
        trainer.validate(module, photos, verbose=False)
        for name in ("val_loss", "val_accuracy"):
            module.history[0][name] = float(trainer.callback_metrics[name])
    trainer.test(module, photos, verbose=False)
    return module, checkpoint


def _report(module: Classifier, index: Index) -> None:
    tested = index.split("test")
    pairs = [(photo.label, guess) for photo, guess in zip(tested, module.predicted, strict=True)]
    correct = sum(actual == predicted for actual, predicted in pairs)
    low, high = wilson_interval(correct, len(pairs))
    best = min(module.history, key=lambda row: row["val_loss"])
    write_json(
        TRAIN_METRICS,
        {
            "test_accuracy": round(correct / len(pairs), 4),
            "test_accuracy_low": round(low, 4),
            "test_accuracy_high": round(high, 4),
            "test_images": len(pairs),
            "val_accuracy": round(best["val_accuracy"], 4),
            "best_epoch": best["epoch"],
        },
    )
    write_csv(TRAINING_CURVES, module.history)
    write_csv(
        CONFUSION,
        [{"actual": index.classes[a], "predicted": index.classes[p]} for a, p in pairs],
    )
    print(
        f"test accuracy {correct / len(pairs):.3f} on {len(pairs)} photos "
        f"(95% interval {low:.3f} to {high:.3f})"
    )
