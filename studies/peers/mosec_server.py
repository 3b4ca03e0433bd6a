"""mosec: HTTP and batching in Rust, one process per worker that takes whole batches."""

from __future__ import annotations

import sys
from typing import Any

from mosec import Server, Worker

from studies import TIMEOUT_S
from studies.peers.photos import Photos, read_options


class PhotoWorker(Worker):
    """Decodes and classifies; a stage of its own for decoding would have to send tensors on."""

    def __init__(self) -> None:
        super().__init__()
        self.photos = Photos()

    def deserialize(self, data: bytes) -> bytes:
        """The body is the image file; mosec's default is JSON."""
        return data

    def forward(self, data: Any) -> Any:
        """Answer a batch, or where there is no batching a single request."""
        return self.photos.answers(data) if self.max_batch_size > 1 else self.photos.answers([data])[0]


def main() -> None:
    """Serve until SIGTERM."""
    options = read_options()
    sys.argv += ["--address", "127.0.0.1", "--port", str(options.port), "--log-level", "warning"]
    server = Server()
    server.append_worker(
        PhotoWorker,
        num=options.settings.workers_per_device,
        max_batch_size=options.settings.max_batch_size,
        max_wait_time=max(1, round(options.settings.batch_timeout_s * 1000)),
        timeout=TIMEOUT_S,
        route="/predict",
    )
    server.run()


if __name__ == "__main__":
    main()
