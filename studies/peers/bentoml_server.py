"""BentoML: a service whose workers each hold the model."""

from __future__ import annotations

from typing import Any

import bentoml

from studies import TIMEOUT_S
from studies.peers import photos

OPTIONS = photos.read_options()


@bentoml.service(
    workers=OPTIONS.settings.workers_per_device,
    traffic={"timeout": TIMEOUT_S},
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
)
class PhotoService:
    """Answers one request at a time.

    Its adaptive batching takes lists from the body; for one image a body it needs a second service
    behind this one, and a tensor sent over for each request.
    """

    def __init__(self) -> None:
        self.photos = photos.Photos()

    @bentoml.api
    async def predict(self, content: bytes, /) -> dict[str, Any]:
        """Classify the image file that the body is."""
        return self.photos.answers([content])[0]


def main() -> None:
    """Serve until SIGTERM."""
    from studies.peers import bentoml_server  # by the name under which its workers import it

    service: Any = bentoml_server.PhotoService
    service.serve_http(host="127.0.0.1", port=OPTIONS.port)


if __name__ == "__main__":
    main()
