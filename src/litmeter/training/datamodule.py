"""Photographs of the index as batches of tensors."""

from __future__ import annotations

from typing import Any

import lightning
import torch
from PIL import Image
from timm.data import create_transform
from torch.utils.data import DataLoader, Dataset

from litmeter.data.index import Index, Photo
from litmeter.params import TrainSettings

Item = tuple[torch.Tensor, int]


class PhotoDataset(Dataset[Item]):
    """Decodes photographs on access: (3, size, size) float tensor and label."""

    def __init__(self, photos: list[Photo], transform: Any) -> None:
        self.photos = photos
        self.transform = transform

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, position: int) -> Item:
        photo = self.photos[position]
        with Image.open(photo.path) as image:
            return self.transform(image.convert("RGB")), photo.label


class PhotoDataModule(lightning.LightningDataModule):
    """The three splits: training photos shuffled and lightly augmented, the others transformed as served."""

    def __init__(
        self, index: Index, settings: TrainSettings, image_size: int, config: dict[str, Any]
    ) -> None:
        super().__init__()
        self.index = index
        self.settings = settings
        shape = {"input_size": (3, image_size, image_size), **config}
        self.evaluation = create_transform(**shape, is_training=False)
        # Crops that keep most of the animal, and a mirror: enough for a few epochs of fine-tuning.
        shape.pop("crop_pct")
        self.augmentation = create_transform(
            **shape, is_training=True, scale=(0.5, 1.0), color_jitter=None, re_prob=0.0
        )

    def _loader(self, photos: list[Photo], transform: Any, shuffle: bool) -> DataLoader[Item]:
        return DataLoader(
            PhotoDataset(photos, transform),
            batch_size=self.settings.batch_size,
            shuffle=shuffle,
            num_workers=self.settings.num_workers,
            persistent_workers=self.settings.num_workers > 0,
        )

    def train_dataloader(self) -> DataLoader[Item]:
        """Training photos, shuffled and augmented."""
        return self._loader(self.index.split("train"), self.augmentation, shuffle=True)

    def val_dataloader(self) -> DataLoader[Item]:
        """Validation photos in the index's order, transformed as served."""
        return self._loader(self.index.split("val"), self.evaluation, shuffle=False)

    def test_dataloader(self) -> DataLoader[Item]:
        """Test photos in the index's order, transformed as served."""
        return self._loader(self.index.split("test"), self.evaluation, shuffle=False)
