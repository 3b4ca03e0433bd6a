"""A timm classifier as a LightningModule."""

from __future__ import annotations

from typing import Any

import lightning
import torch
from timm.models import group_parameters
from torch.nn import functional

from litmeter.params import TrainSettings
from litmeter.training.weights import classifier_parameters

Batch = tuple[torch.Tensor, torch.Tensor]


class ClassifierModule(lightning.LightningModule):
    """Cross-entropy with AdamW; the classifier layer learns faster than the backbone.

    With pretrained weights, the first layers (edges, colours) and all batch-norm statistics are frozen:
    a few hundred photos are too few to estimate new statistics.
    """

    def __init__(self, model: Any, settings: TrainSettings, pretrained: bool) -> None:
        super().__init__()
        # On CPUs and GPUs alike, convolutions run faster with the channels innermost.
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
        """Put frozen batch-norm layers back into evaluation mode; Lightning puts all into training mode."""
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
        for name, value in (("val_loss", loss), ("val_accuracy", accuracy)):
            self.log(name, value, on_epoch=True, prog_bar=True, batch_size=len(labels))

    def on_train_epoch_end(self) -> None:
        """Append the epoch's row to the training curves; print it where there is no progress bar."""
        metrics = self.trainer.callback_metrics
        row = {
            "epoch": self.current_epoch + 1,
            "train_loss": float(torch.stack(self._losses).mean()),
            "val_loss": float(metrics["val_loss"]),
            "val_accuracy": float(metrics["val_accuracy"]),
        }
        self.history.append(row)
        if self.trainer.progress_bar_callback is None:
            values = ", ".join(f"{name} {row[name]:.3f}" for name in list(row)[1:])
            print(f"epoch {row['epoch']}/{self.trainer.max_epochs}: {values}", flush=True)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Append the predicted labels, in the order of the photographs."""
        images, _ = batch
        self.predicted += self(images).argmax(dim=1).tolist()

    def configure_optimizers(self) -> Any:
        """AdamW with two groups, and one cycle of the learning rate over the whole fit."""
        head = classifier_parameters(self.model)
        in_head = {id(parameter) for parameter in head}
        backbone = [p for p in self.model.parameters() if p.requires_grad and id(p) not in in_head]
        rate = self.settings.learning_rate
        head_rate = rate * self.settings.head_learning_rate_factor
        optimizer = torch.optim.AdamW(
            [{"params": backbone, "lr": rate}, {"params": head, "lr": head_rate}],
            weight_decay=self.settings.weight_decay,
        )
        scheduler = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=[rate, head_rate],
            total_steps=int(self.trainer.estimated_stepping_batches),
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }


def freeze_first_layers(model: Any, share: float) -> None:
    """Freeze the first ``share`` of the layers, as timm groups them."""
    layer_of = group_parameters(model, model.group_matcher(coarse=True), reverse=True)
    last = max(layer_of.values())
    for name, parameter in model.named_parameters():
        parameter.requires_grad = layer_of[name] >= share * last
