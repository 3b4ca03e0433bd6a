"""Fine-tune the classifier, keep the best epoch and test it once; or test a model without training it."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from PIL import Image
from timm.data import create_transform
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from litmeter.classifier.data.index import SPLITS, Index, Photo, Split
from litmeter.classifier.model.model import check_shapes, input_config
from litmeter.classifier.training.settings import TrainParams, TrainSettings
from litmeter.classifier.training.weights import (
    classifier_parameters,
    layer_numbers,
    load_all,
    pretrained_model,
    read_state_dict,
)
from litmeter.errors import ParamsError
from litmeter.say.progress import print_wrapped
from litmeter.system.device import resolve_device

Item = tuple[torch.Tensor, int]
Batch = tuple[torch.Tensor, torch.Tensor]


@dataclass(eq=False)
class PhotoDataset(Dataset[Item]):
    """Decodes photographs on access: (3, size, size) float tensor and label."""

    photos: list[Photo]
    transform: Any

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, position: int) -> Item:
        photo = self.photos[position]
        with Image.open(photo.path) as image:
            return self.transform(image.convert("RGB")), photo.label


def loaders(
    index: Index, settings: TrainSettings, image_size: int, config: dict[str, Any]
) -> dict[Split, DataLoader[Item]]:
    """A loader for each split: training photos are shuffled and lightly augmented, others are as served."""
    shape = {"input_size": (3, image_size, image_size), **config}
    served = create_transform(**shape, is_training=False)
    # Crops that keep most of the animal, and mirror images, suffice for a few epochs of fine-tuning.
    shape.pop("crop_pct")
    augmented = create_transform(**shape, is_training=True, scale=(0.5, 1.0), color_jitter=None, re_prob=0.0)
    return {
        split: DataLoader(
            PhotoDataset(index.split(split), augmented if split == "train" else served),
            batch_size=settings.batch_size,
            shuffle=split == "train",
            num_workers=settings.num_workers,
            persistent_workers=settings.num_workers > 0,
        )
        for split in SPLITS
    }


class ClassifierModule(lightning.LightningModule):
    """Cross-entropy with AdamW; the classifier layer learns faster than the backbone.

    With pretrained weights, the first layers (edges, colours) and all batch-norm statistics are frozen:
    a few hundred photos are too few to estimate new statistics.
    """

    def __init__(self, model: Any, settings: TrainSettings, pretrained: bool) -> None:
        super().__init__()
        # Convolutions run faster with the channels innermost.
        self.model = model.to(memory_format=torch.channels_last)
        self.settings = settings
        self.freeze_statistics = pretrained
        if pretrained:
            freeze_first_layers(model, settings.frozen_share)
        self.history: list[dict[str, Any]] = []
        self.predicted: list[int] = []
        self._losses: list[torch.Tensor] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (N, classes) of images (N, 3, H, W)."""
        logits: torch.Tensor = self.model(images.contiguous(memory_format=torch.channels_last))
        return logits

    def on_train_epoch_start(self) -> None:
        """Put frozen batch-norm layers back into evaluation mode, which Lightning ends."""
        self._losses.clear()
        if self.freeze_statistics:
            for layer in self.model.modules():
                if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm):
                    layer.eval()

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """Cross-entropy of one batch."""
        images, labels = batch
        loss = functional.cross_entropy(self(images), labels)
        self._losses.append(loss.detach())
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss and accuracy, averaged over the split by Lightning."""
        images, labels = batch
        logits = self(images)
        loss = functional.cross_entropy(logits, labels)
        accuracy = (logits.argmax(dim=1) == labels).float().mean()
        measured = {"val_loss": loss, "val_accuracy": accuracy}
        self.log_dict(measured, on_epoch=True, prog_bar=True, batch_size=len(labels))

    def on_train_epoch_end(self) -> None:
        """Append the epoch's row to the history; print it where there is no progress bar."""
        losses = {"train_loss": float(torch.stack(self._losses).mean()), **_validated(self.trainer)}
        row = {"epoch": self.current_epoch + 1, **losses}
        self.history.append(row)
        if self.trainer.progress_bar_callback is None:
            values = ", ".join(f"{name} {value:.3f}" for name, value in losses.items())
            print(f"epoch {row['epoch']}/{self.trainer.max_epochs}: {values}", flush=True)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Append the predicted labels in the order of the photographs."""
        images, _ = batch
        self.predicted += self(images).argmax(dim=1).tolist()

    def configure_optimizers(self) -> Any:
        """AdamW with two groups, and one cycle of the learning rate over the whole fit."""
        head = classifier_parameters(self.model)
        backbone = [p for name, p in self.model.named_parameters() if p.requires_grad and name not in head]
        rate = self.settings.learning_rate
        head_rate = rate * self.settings.head_learning_rate_factor
        optimizer = torch.optim.AdamW(
            [{"params": backbone, "lr": rate}, {"params": list(head.values()), "lr": head_rate}],
            weight_decay=self.settings.weight_decay,
        )
        scheduler = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=[rate, head_rate], total_steps=int(self.trainer.estimated_stepping_batches)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def _validated(trainer: lightning.Trainer) -> dict[str, float]:
    return {name: float(trainer.callback_metrics[name]) for name in ("val_loss", "val_accuracy")}


def freeze_first_layers(model: Any, share: float) -> None:
    """Freeze the first ``share`` of the layers."""
    layer_of = layer_numbers(model)
    last = max(layer_of.values())
    for name, parameter in model.named_parameters():
        parameter.requires_grad = layer_of[name] >= share * last


TESTING = TrainSettings.model_construct(epochs=1, batch_size=16, num_workers=0, seed=42)  # type: ignore[call-arg]
"""Where ``train`` is empty."""


def fit(params: TrainParams, index: Index, folder: Path) -> tuple[ClassifierModule, Path]:
    """Fit the classifier, or take ``model.checkpoint`` or a user's model as it is, and test it.

    Return the tested module and its checkpoint; a new checkpoint is in ``folder``. Raise ModelError where
    weights cannot be read or downloaded, or do not fit the model; ParamsError where the input or output of a
    user's model is not that of a classifier of the photos.
    """
    settings, classes, train = params.model, len(index.classes), params.train or TESTING
    fitted = params.train is not None and settings.checkpoint is None
    model = pretrained_model(settings, classes)
    if settings.kind != "name":
        check_shapes(model.eval(), settings, index.classes)
        if fitted:  # some models have other outputs in training
            check_shapes(copy.deepcopy(model).train(), settings, index.classes)
    if fitted and not any(parameter.requires_grad for parameter in model.parameters()):
        raise ParamsError(f"train: {settings.architecture} has no parameters to fit; leave it empty")
    # The weights of a user's model count as pretrained where some shall be frozen.
    frozen = settings.pretrained != "none" if settings.name else fitted and train.frozen_share > 0
    module = ClassifierModule(model, train, pretrained=frozen)
    photos = loaders(index, train, settings.side, input_config(model, settings))
    keep_best = ModelCheckpoint(folder, "best", monitor="val_loss", save_weights_only=True)
    trainer = lightning.Trainer(
        accelerator="gpu" if resolve_device(params.device, torch.cuda.is_available()) == "cuda" else "cpu",
        devices=1,
        max_epochs=train.epochs,
        callbacks=[keep_best],
        logger=False,
        enable_progress_bar=sys.stderr.isatty(),
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    torch.backends.cudnn.allow_tf32 = False  # full precision means IEEE float32, as it is served
    with interruptible():
        if fitted:
            trainer.fit(module, photos["train"], photos["val"])
            checkpoint = Path(keep_best.best_model_path)
        elif settings.checkpoint:
            checkpoint = Path(settings.checkpoint)
        else:
            torch.save(model.state_dict(), checkpoint := folder / "as_it_is.ckpt")
        load_all(model, read_state_dict(checkpoint), str(checkpoint))
        if not fitted:
            print_wrapped(f"{settings.checkpoint or settings.architecture}: tested, not fitted")
            trainer.validate(module, photos["val"], verbose=False)
            module.history = [{"epoch": 0, "train_loss": None, **_validated(trainer)}]
        trainer.test(module, photos["test"], verbose=False)
    return module, checkpoint


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise KeyboardInterrupt, which Lightning's trainer turns into a silent SystemExit."""
    try:
        yield
    except SystemExit as error:
        raise KeyboardInterrupt from error
