"""Ray Serve: a replica per worker behind Ray's HTTP proxy, on a cluster of this machine alone."""

from __future__ import annotations

import signal
import sys
import threading
from typing import Any

import ray
from ray import serve
from starlette.requests import Request

from studies.peers.photos import Photos, read_options


class PhotoReplica:
    """Answers requests in batches of what waits."""

    def __init__(self, max_batch_size: int, batch_timeout_s: float) -> None:
        self.photos = Photos()
        self.batch.set_max_batch_size(max_batch_size)
        self.batch.set_batch_wait_timeout_s(batch_timeout_s)

    @serve.batch
    async def batch(self, contents: list[bytes]) -> list[dict[str, Any]]:
        """Classify image files."""
        return self.photos.answers(contents)

    async def __call__(self, request: Request) -> Any:
        """Classify the image file that the body is."""
        return await self.batch(await request.body())


def main() -> None:
    """Serve until SIGTERM."""
    options = read_options()
    settings = options.settings
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    ray.init(num_cpus=settings.workers_per_device, include_dashboard=False, log_to_driver=False)
    try:
        serve.start(
            http_options={"host": "127.0.0.1", "port": options.port},
            logging_config={"enable_access_log": False, "log_level": "WARNING"},
        )
        deployment = serve.deployment(
            num_replicas=settings.workers_per_device,
            max_ongoing_requests=1000,  # with its default, 5, requests wait where no batch is made of them
        )
        serve.run(deployment(PhotoReplica).bind(settings.max_batch_size, settings.batch_timeout_s))
        threading.Event().wait()
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
