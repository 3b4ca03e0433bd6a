"""The keys of ``serve`` for a server of the classifier."""

from __future__ import annotations

from litmeter.classifier.model.settings import InferenceSettings
from litmeter.direct.settings import WorkerSettings


class ServerSettings(WorkerSettings, InferenceSettings):
    """How the model runs, and in which workers."""
