"""FastAPI on uvicorn: each process holds the model and answers one request at a time, without batches."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from studies.peers.photos import Photos, read_options


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Load the model before the first request."""
    app.state.photos = Photos()
    yield


app = FastAPI(lifespan=lifespan)


@app.post("/predict")
async def predict(request: Request) -> JSONResponse:
    """Classify the image file that the body is.

    On the event loop: a thread beside it would only take turns with it.
    """
    return JSONResponse(request.app.state.photos.answers([await request.body()])[0])


def main() -> None:
    """Serve until SIGTERM."""
    options = read_options()
    uvicorn.run(
        "studies.peers.fastapi_server:app",
        host="127.0.0.1",
        port=options.port,
        workers=options.settings.workers_per_device,
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
    )


if __name__ == "__main__":
    main()
