"""The keys of ``serve`` for a server of the classifier."""

from __future__ import annotations

from pydantic import model_validator

from litmeter.classifier.model.settings import InferenceSettings
from litmeter.direct.settings import WorkerSettings


class ServerSettings(WorkerSettings, InferenceSettings):
    """How the model runs, and in which workers."""

    @model_validator(mode="after")
    def _check_threads(self) -> ServerSettings:
        if self.compiled and self.threads_per_worker not in (None, 1):
            raise ValueError(
                f"threads_per_worker ({self.threads_per_worker}): allowed with compiled: 1, on which it runs"
            )
        return self
