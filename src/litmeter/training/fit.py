"""Fit the classifier, keep the best epoch, and test it once."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from litmeter.data.index import Index
from litmeter.inference.device import resolve_device
from litmeter.inference.model import build_model, input_config
from litmeter.params import Params
from litmeter.system.progress import print_wrapped
from litmeter.training.datamodule import PhotoDataModule
from litmeter.training.module import ClassifierModule
from litmeter.training.weights import load_all, pretrained_model, read_state_dict


def fit(params: Params, index: Index, folder: Path) -> tuple[ClassifierModule, Path]:
    """Fit the classifier (or take ``model.checkpoint``) and test it.

    Args:
        folder: for Lightning's checkpoints.

    Returns:
        The tested module, and the checkpoint with its weights.

    Raises:
        ModelError: weights cannot be read or downloaded, or do not fit the model.
    """
    settings, classes = params.model, len(index.classes)
    if settings.checkpoint:
        model = build_model(settings.name, classes, settings.image_size)
    else:
        model = pretrained_model(settings, classes)
    module = ClassifierModule(model, params.train, pretrained=settings.pretrained != "none")
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
    with interruptible():
        if settings.checkpoint:
            checkpoint = Path(settings.checkpoint)
            print_wrapped(f"{checkpoint}: tested, not fitted")
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


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise KeyboardInterrupt again, which Lightning's trainer turns into an exit without a word."""
    try:
        yield
    except SystemExit as error:
        raise KeyboardInterrupt from error
