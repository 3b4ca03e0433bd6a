"""Ray Serve: a replica behind Ray's HTTP proxy, on a cluster of this machine alone."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
from model import WAIT_S, Model, read_options
from ray import serve
from starlette.requests import Request


class Peer:
    """Answers requests in batches of what waits."""

    def __init__(self, batch: int) -> None:
        self.model = Model()
        self.outputs.set_max_batch_size(batch)
        self.outputs.set_batch_wait_timeout_s(WAIT_S if batch > 1 else 0.0)

    @serve.batch
    async def outputs(self, inputs: list[list[float]]) -> list[list[float]]:
        """The outputs of a batch."""
        return self.model.predict(inputs)

    async def __call__(self, request: Request) -> Any:
        """Answer a body; GET asks whether the replica is there."""
        if request.method == "GET":
            return "ok"
        return {"outputs": await self.outputs((await request.json())["inputs"])}


if __name__ == "__main__":
    options = read_options()
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # Ray has set its own
    try:
        serve.start(
            http_options={"host": "127.0.0.1", "port": options.port},
            logging_config={"enable_access_log": False, "log_level": "WARNING"},
        )
        # With its default, 5 requests at once, others wait where no batch is made of them.
        deployment = serve.deployment(Peer, max_ongoing_requests=1000)
        serve.run(deployment.bind(options.batch))
        threading.Event().wait()
    finally:
        ray.shutdown()
