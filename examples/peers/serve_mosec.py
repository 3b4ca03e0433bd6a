"""mosec: HTTP and batching in Rust, and a process that takes whole batches."""

from __future__ import annotations

import sys
from typing import Any

from model import WAIT_S, Model, read_options
from mosec import Server, Worker


class PeerWorker(Worker):
    """Holds the model."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()

    def forward(self, data: Any) -> Any:
        """Answer a batch of bodies, or where there is no batching a single one."""
        batch = data if self.max_batch_size > 1 else [data]
        answers = [{"outputs": output} for output in self.model.predict([one["inputs"] for one in batch])]
        return answers if self.max_batch_size > 1 else answers[0]


if __name__ == "__main__":
    options = read_options()
    # mosec reads the command line, too.
    sys.argv[1:] = ["--address", "127.0.0.1", "--port", str(options.port), "--log-level", "warning"]
    server = Server()
    server.append_worker(
        PeerWorker, max_batch_size=options.batch, max_wait_time=round(1000 * WAIT_S), route="/predict"
    )
    server.run()
