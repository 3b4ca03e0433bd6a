"""The section ``data`` of params.yaml."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from litmeter.settings import Fraction, Section, Seed


class DataSettings(Section):
    """Which photographs, and how they are split."""

    folder: str = Field(description="Oxford-IIIT Pet as torchvision lays it out, or class folders")
    download: bool = Field(description="take all 7,349 photos of Oxford-IIIT Pet instead (0.8 GB)")
    task: Literal["species", "breed"] = Field(description="cat/dog, or the 37 breeds")
    val_fraction: Fraction = Field(description="share of the training photos kept for validation")
    test_fraction: Fraction = Field(description="share kept for testing, where no split is given")
    seed: Seed = Field(description="seed of the splits")


class DataParams(Section):
    """The keys of params.yaml for the photographs."""

    data: DataSettings
