"""Section ``load`` of params.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, model_validator

from litmeter.load.bodies import HEADER
from litmeter.settings import Count, OneOrMore, Positive, Seconds, Section, Seed, StrictCount, Timeout


class LoadSettings(Section):
    """How the server is loaded; the same for every experiment."""

    users: OneOrMore[StrictCount] = Field(description="concurrency levels: requests in flight at once")
    requests: Count = Field(description="answers in three windows of a level, at least")
    min_s: Positive = Field(description="seconds of three windows, at least")
    max_s: Positive = Field(description="seconds of three windows, at most")
    warmup_s: Seconds = Field(description="seconds of load thrown away before each level")
    timeout_s: Timeout
    request_body: Literal["json", "image"] = Field(
        "image", description="what every user sends, image files or base64 in JSON; the classifier takes both"
    )
    bodies: str | None = Field(None, description="sent instead: a file, JSON lines, or a folder of files")
    content_type: str | None = Field(None, description="of the bodies; absent: by the files' names")
    headers: Mapping[str, str] = Field({}, description="request headers; ${NAME} is of the environment")
    seed: Seed = Field(description="seed of the order in which users send them")

    @model_validator(mode="after")
    def _check(self) -> LoadSettings:
        if self.min_s > self.max_s:
            raise ValueError(f"min_s ({self.min_s}) is above max_s ({self.max_s})")
        if len(set(self.users)) != len(self.users):
            raise ValueError("users names a level twice")
        for name, value in self.headers.items():
            if name.lower() == "content-type" or not HEADER.fullmatch(f"{name}: {value}"):
                raise ValueError(f"headers: got {name!r}; allowed: a header besides Content-Type, in ASCII")
        return self
