"""The HTTP process's route, as a LitServe spec: it replaces LitServe's own, whose way leads to its queue."""

import hmac
import os
from typing import Annotated, Any

from fastapi import Header, HTTPException, Request, Response
from litserve.specs.base import LitSpec

from servebench.serving.direct.dispatcher import Dispatcher

KEY_VARIABLE = "LIT_SERVER_API_KEY"


# FastAPI reads the annotations: so none as text in this module.
class DirectSpec(LitSpec):
    """``POST /predict``: the body goes to the workers as it came, JSON or an image file."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        super().__init__()
        self.api_path = "/predict"
        self._dispatcher: Dispatcher | None = dispatcher
        self.add_endpoint(self.api_path, self.predict, ["POST"])

    def __getstate__(self) -> dict[str, Any]:
        """Workers get neither the route nor what is behind it."""
        return {**super().__getstate__(), "_endpoints": [], "_dispatcher": None}

    def setup(self, server: Any) -> None:
        """Nothing: LitServe would connect its own queues here."""

    async def predict(self, request: Request) -> Response:
        """Classify an image."""
        assert self._dispatcher is not None
        is_image = request.headers.get("content-type", "").startswith("image/")
        status, body = await self._dispatcher.ask(is_image, await request.body())
        headers = {"Retry-After": "1"} if status == 503 else None
        return Response(body, status, headers, media_type="application/json")


async def anybody() -> None:
    """LitServe's own check of nothing is not a coroutine, so that FastAPI takes it through a thread."""


async def keyholder(x_api_key: Annotated[str, Header()] = "") -> None:
    """The check of LitServe's API key, for the same reason.

    Raises:
        HTTPException: 401 where it is not the one in the environment.
    """
    if not hmac.compare_digest(x_api_key.encode(), os.environ[KEY_VARIABLE].encode()):
        raise HTTPException(401, "X-API-Key: missing or wrong")
