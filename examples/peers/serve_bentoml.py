"""BentoML: a service that answers one request at a time.

Its batching takes lists from each body; for bodies of one item it needs a second service behind this one.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")

import bentoml
from model import Model, read_options


@bentoml.service(
    workers=1,
    traffic={"timeout": 30},
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
)
class Peer:
    """Holds the model."""

    def __init__(self) -> None:
        self.model = Model()

    @bentoml.api
    async def predict(self, inputs: list[float]) -> dict[str, list[float]]:
        """Answer a body; on the event loop, as in serve_fastapi.py."""
        return {"outputs": self.model.predict([inputs])[0]}


if __name__ == "__main__":
    options = read_options(batches=False)
    service: Any = import_module("serve_bentoml").Peer  # by the name under which its workers import it
    service.serve_http(host="127.0.0.1", port=options.port)
