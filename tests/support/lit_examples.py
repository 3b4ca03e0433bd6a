"""Examples of LitServe's documentation, rewritten small."""

import base64
import io
from typing import Annotated

import litserve
import numpy as np
from fastapi import File, Form, HTTPException, Response, UploadFile
from PIL import Image
from pydantic import BaseModel, Field


class Pipeline(litserve.LitAPI):
    """The README's: two models, and an answer of several keys."""

    def setup(self, device):
        self.model1 = lambda x: x**2
        self.model2 = lambda x: x**3

    def decode_request(self, request):
        return request["input"]

    def predict(self, x):
        if isinstance(x, list):
            return [{"output": self.model1(one) + self.model2(one)} for one in x]
        return {"output": self.model1(x) + self.model2(x)}


class Arrays(litserve.LitAPI):
    """Batching: arrays are stacked, and the rows of a matrix are the outputs."""

    def setup(self, device):
        self.matrix = np.arange(6.0).reshape(2, 3)

    def decode_request(self, request):
        return np.asarray(request["input"])

    def predict(self, x):
        return np.atleast_1d(x @ self.matrix)

    def encode_response(self, output):
        return {"output": output.tolist(), "class": int(output.argmax())}


class Tokens(litserve.LitAPI):
    """Text classification: batches of a kind of their own."""

    def decode_request(self, request):
        return request["text"]

    def batch(self, inputs):
        return {"lengths": np.array([len(text) for text in inputs]), "texts": inputs}

    def predict(self, x):
        if isinstance(x, str):
            return len(x)
        return {"logits": x["lengths"]}

    def unbatch(self, output):
        return output["logits"].tolist()

    def encode_response(self, output):
        return {"label": "long" if output > 5 else "short", "tokens": output}


class Prompt(BaseModel):
    prompt: str
    temperature: float = Field(0.7, ge=0, le=2)


class Completion(BaseModel):
    text: str
    tokens: int


class Typed(litserve.LitAPI):
    """Request and response models, which FastAPI validates and documents; the context carries a parameter."""

    def decode_request(self, request: Prompt, context: dict):
        context["temperature"] = request.temperature
        return request.prompt

    def predict(self, x, context):
        if isinstance(x, list):
            return [f"{one} at {own['temperature']}" for one, own in zip(x, context, strict=True)]
        return f"{x} at {context['temperature']}"

    def encode_response(self, output) -> Completion:
        return Completion(text=output, tokens=len(output.split()))


class Picture(litserve.LitAPI):
    """Image generation: the answer is no JSON."""

    def decode_request(self, request):
        if not request.get("prompt"):
            raise HTTPException(status_code=400, detail="Prompt is required.", headers={"X-Why": "empty"})
        return request["prompt"]

    def predict(self, x):
        return [Image.new("RGB", (len(one), 4)) for one in ([x] if isinstance(x, str) else x)]

    def encode_response(self, output):
        image = output[0] if isinstance(output, list) else output
        image.save(buffered := io.BytesIO(), format="PNG")
        return Response(content=buffered.getvalue(), headers={"Content-Type": "image/png"})


class Classify(litserve.LitAPI):
    """An image in JSON, as base64."""

    def decode_request(self, request):
        image = Image.open(io.BytesIO(base64.b64decode(request["image_data"])))
        return np.asarray(image.resize((8, 8)), np.float32)

    def predict(self, x):
        return x.mean((-3, -2))

    def encode_response(self, output):
        return {"mean": [float(one) for one in output]}


class Transcribe(litserve.LitAPI):
    """Speech recognition: a file of a form."""

    def decode_request(self, request):
        return request["content"].file.read() + request["language"].encode()

    def predict(self, x):
        return [one.upper() for one in x] if isinstance(x, list) else x.upper()

    def encode_response(self, output):
        return {"transcription": output.decode()}


class Upload(litserve.LitAPI):
    """A file that FastAPI takes out of the form."""

    def decode_request(self, request: Annotated[UploadFile, File()]):
        return len(request.file.read())

    def predict(self, x):
        return x


class Login(BaseModel):
    user: str
    age: int


class FormModel(litserve.LitAPI):
    """A form that FastAPI validates."""

    def decode_request(self, request: Annotated[Login, Form()]):
        return request.model_dump()

    def predict(self, x):
        return x
