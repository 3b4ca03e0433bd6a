"""What the sections of params.yaml have in common: their base, and types of values."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Timeout = Annotated[Positive, Field(description="a request without an answer by then has timed out")]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Counts = Annotated[tuple[Annotated[int, Field(ge=1, strict=True)], ...], Field(min_length=1, strict=False)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Precision = Literal["full", "half", "int8"]
Preprocess = Literal["timm", "torchvision", "scaled"]
Transport = Literal["litserve", "direct"]


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, types are not converted, instances are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
