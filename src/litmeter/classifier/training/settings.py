"""The section ``train`` of params.yaml."""

from __future__ import annotations

from pydantic import Field

from litmeter.classifier.model.settings import ModelSettings
from litmeter.settings import Count, Device, Positive, Section, Seed


class TrainSettings(Section):
    """How the classifier is fine-tuned."""

    epochs: Count = Field(description="passes over the training photos")
    batch_size: Count = Field(description="photos per optimiser step")
    learning_rate: Positive = Field(description="AdamW's rate for the backbone")
    head_learning_rate_factor: Positive = Field(description="the classifier layer learns faster")
    weight_decay: float = Field(ge=0, description="AdamW's weight decay")
    frozen_share: float = Field(ge=0, lt=1, description="share of the layers, from the input on, not trained")
    num_workers: int = Field(ge=0, description="processes that decode photos")
    seed: Seed = Field(description="seed of weights, order and augmentation")


class TrainParams(Section):
    """The keys of params.yaml for training; ``train`` is empty where a user's model is not trained."""

    device: Device = "auto"
    model: ModelSettings
    train: TrainSettings | None = None
