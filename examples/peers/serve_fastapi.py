"""FastAPI on uvicorn: answers one request at a time, without batches."""

import uvicorn
from fastapi import FastAPI
from model import Model, read_options
from pydantic import BaseModel

app, model = FastAPI(), Model()


class Request(BaseModel):
    """The body."""

    inputs: list[float]


@app.get("/health")
async def health() -> str:
    """Answered as soon as the model is there."""
    return "ok"


@app.post("/predict")
async def predict(request: Request) -> dict[str, list[float]]:
    """On the event loop: a thread beside it would only take turns with it."""
    return {"outputs": model.predict([request.inputs])[0]}


if __name__ == "__main__":
    options = read_options(batches=False)
    uvicorn.run(app, host="127.0.0.1", port=options.port, access_log=False, log_level="warning")
