"""LitAPIs as users write them, in no need of a model; a test serves them from this folder."""

import datetime
import enum
import os
import signal
import sys
import time
from dataclasses import dataclass
from typing import Annotated

import litserve
import numpy as np
from fastapi import File, Form, HTTPException, UploadFile
from fastapi.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from litserve.specs import OpenAIEmbeddingSpec, OpenAISpec
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException as StarletteHTTPException


class Square(litserve.LitAPI):
    """The square of ``input``, alone or in a batch, as in LitServe's README."""

    def setup(self, device):
        pass

    def decode_request(self, request):
        return float(request["input"])

    def predict(self, x):
        return [one * one for one in x] if isinstance(x, list) else x * x

    def encode_response(self, output):
        return {"output": output}


class Unawaited(Square):
    """Does not say that it is async."""

    async def predict(self, x):
        return x * x


class Number(BaseModel):
    """A request that FastAPI validates."""

    input: float
    factor: int = 2


class Validated(Square):
    """Takes a pydantic model."""

    def decode_request(self, request: Number):
        return request.input * request.factor


class Sleeps(Square):
    """Takes ``seconds`` for each item decoded, batch and answer, and prints."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def decode_request(self, request):
        time.sleep(self.seconds)
        return super().decode_request(request)

    def predict(self, x):
        time.sleep(self.seconds)
        print("predicting", x)
        return super().predict(x)

    def encode_response(self, output):
        time.sleep(self.seconds)
        return super().encode_response(output)


def heavy():
    """What of the classifier this process has imported."""
    names = (
        "torch",
        "timm",
        "openvino",
        "litmeter.classifier.model.predictor",
        "litmeter.classifier.model.image",
    )
    return [name for name in names if name in sys.modules]


class Lean(Square):
    """Fails where one of its processes has a module of the classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.main = heavy()

    def predict(self, x):
        return self.main + heavy()

    def encode_response(self, output):
        if output:
            raise RuntimeError(f"imported: {output}")
        return "none"


class Stream(Square):
    """Answers in parts."""

    def __init__(self) -> None:
        litserve.LitAPI.__init__(self, stream=True)

    def predict(self, x):
        yield x["input"]

    def decode_request(self, request):
        return request

    def encode_response(self, output):
        for one in output:
            yield {"output": one}


class Misnamed(Square):
    """LitServe wants another name."""

    def decode_request(self, body):
        return body["input"]


PREDICTIONS = {
    "mean": lambda x: [sum(x) / len(x)] * len(x) if isinstance(x, list) else x,
    "by worker": lambda x: x * 2.0 ** (os.getpid() % 64),  # far from the other's, for certain
    "rounded": lambda x: [0.995 * one for one in x] if isinstance(x, list) else x,
    "a fifth off": lambda x: [1.2 * one for one in x] if isinstance(x, list) else x,
    "a third off": lambda x: [1.3 * one for one in x] if isinstance(x, list) else x,
    "consumed": lambda x: [x.pop() for _ in list(x)][::-1],
}


class Odd(Square):
    """Answers that depend on the batch or the worker, or that consume the inputs."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def predict(self, x):
        return PREDICTIONS[self.how](x)


class Generates(Square):
    """Streams without saying so."""

    def predict(self, x):
        yield x


class Broken(Square):
    """Breaks in a method, at a batch size if one is given."""

    def __init__(self, method: str, how: str, size: int = 0) -> None:
        self.method, self.how, self.size = method, how, size
        super().__init__()
        self._break("__init__")

    def __reduce__(self):
        self._break("pickling")
        return super().__reduce__()

    def _break(self, method: str, size: int = 0) -> None:
        if method == self.method and size >= self.size:
            breaks[self.how]()

    def setup(self, device):
        self._break("setup")

    def decode_request(self, request):
        self._break("decode_request")
        return float(request["input"])

    def predict(self, x):
        self._break("predict", len(x) if isinstance(x, list) else 1)
        if self.method == "length" and isinstance(x, list) and len(x) > 1:
            return x[:1]
        return x

    def encode_response(self, output):
        self._break("encode_response")
        return {"output": object() if self.method == "unpicklable" else output}


def fail():
    raise ValueError("no such thing\nas this")


breaks = {
    "raises": fail,
    "hangs": lambda: time.sleep(600),
    "exits": lambda: os._exit(3),
    "segfaults": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "leaves": lambda: sys.exit("no model here"),
}


class Colour(str, enum.Enum):
    RED = "red"


@dataclass
class Point:
    x: int
    y: float


ANSWERS = {
    "dict": lambda: {"a": 1, "b": [1.5, None, True, {"c": "é\u2028"}], 3: "key", None: 4},
    "list": lambda: [],
    "text": lambda: 'plain "text"',
    "number": lambda: 0.1 + 0.2,
    "none": lambda: None,
    "tuple": lambda: (1, (2, 3)),
    "set": lambda: {7},
    "long": lambda: {"text": 5000 * "long "},
    "not finite": lambda: {"value": float("nan")},
    "hidden": lambda: {"_sa_instance": 1, "shown": {"_sa": 2, "a": "_sa"}},
    "surrogate": lambda: "\ud800",
    "enum": lambda: {Colour.RED: Colour.RED},
    "dataclass": lambda: Point(1, 2.0),
    "model": lambda: Number(input=1.0),
    "date": lambda: datetime.date(2020, 1, 2),
    "bytes": lambda: b"bytes",
    "numpy": lambda: {"value": np.float64(1.5)},
    "float32": lambda: np.float32(1.5),
    "object": object,
    "json": lambda: JSONResponse({"a": 1}, 201, {"X-Own": "yes", "Retry-After": "7"}),
    "plain": lambda: PlainTextResponse("plain"),
    "empty": lambda: Response(status_code=204),
    "binary": lambda: Response(bytes(range(256)), media_type="application/octet-stream"),
    "elsewhere": lambda: RedirectResponse("/elsewhere"),
}
ERRORS = {
    "teapot": lambda: HTTPException(418, "short and stout"),
    "details": lambda: HTTPException(422, {"why": ["a", 1]}, {"X-Own": "yes"}),
    "unavailable": lambda: HTTPException(503, "loading"),
    "no content": lambda: HTTPException(204),
    "starlette": lambda: StarletteHTTPException(418, "not FastAPI's"),
    "value": lambda: ValueError("no such thing"),
    "key": lambda: KeyError("key"),
}


class Anything(litserve.LitAPI):
    """Does in each method what the request says; in a batch, too."""

    def decode_request(self, request):
        if request.get("in") == "decode":
            raise ERRORS[request["raise"]]()
        return request

    def predict(self, x):
        for request in x if isinstance(x, list) else [x]:
            if request.get("in") == "predict":
                raise ERRORS[request["raise"]]()
            if "gpu" in request:  # as CUDA does from then on when its context is broken
                import torch

                raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
            if "sleep_s" in request:
                time.sleep(request["sleep_s"])
            if "short" in request:
                return x[:-1] if isinstance(x, list) else x
        return x

    def encode_response(self, output):
        if output.get("in") == "encode":
            raise ERRORS[output["raise"]]()
        return ANSWERS[output["answer"]]() if "answer" in output else {"number": output.get("number")}


class Unwell(Square):
    """Says that it is not healthy while a file is there."""

    def __init__(self, file: str) -> None:
        super().__init__()
        self.file = file

    async def health(self):
        return not os.path.exists(self.file)


class Misannotated(Square):
    """An answer that is not what it says it is."""

    def encode_response(self, output) -> Number:
        return {"input": output} if output > 1 else {"other": output}


class Authorised(Square):
    """Checks who asks."""

    def authorize(self):
        raise HTTPException(403)


class InTheQuery(Square):
    """Takes no body."""

    def decode_request(self, request: float):
        return request


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

    def setup(self, device):
        pass

    def decode_request(self, request: Prompt, context: dict):
        context["temperature"] = request.temperature
        return request.prompt

    def predict(self, x, context):
        if isinstance(x, list):
            return [f"{one} at {own['temperature']}" for one, own in zip(x, context, strict=True)]
        return f"{x} at {context['temperature']}"

    def encode_response(self, output) -> Completion:
        return Completion(text=output, tokens=len(output.split()))


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


class Chat(litserve.LitAPI):
    """OpenAI's chat: says again what it was told."""

    def __init__(self) -> None:
        super().__init__(spec=OpenAISpec())

    def predict(self, x):
        yield from x.messages[-1].content.split()


class AsyncChat(litserve.LitAPI):
    """The same, async."""

    def __init__(self) -> None:
        super().__init__(spec=OpenAISpec(), enable_async=True)

    async def predict(self, x):
        for word in x.messages[-1].content.split():
            yield word


class Embed(litserve.LitAPI):
    """OpenAI's embeddings: random weights, alone or in a batch."""

    def __init__(self) -> None:
        super().__init__(spec=OpenAIEmbeddingSpec())

    def setup(self, device):
        self.weights = np.random.default_rng(0).normal(size=(256, 4))

    def predict(self, x):
        texts = [x] if isinstance(x, str) else x
        found = [self.weights[list(text.encode())].mean(axis=0).tolist() for text in texts]
        return found if self.max_batch_size > 1 else found[0]


class Awaits(Unawaited):
    """Says that it is async."""

    def __init__(self) -> None:
        super().__init__(enable_async=True)
