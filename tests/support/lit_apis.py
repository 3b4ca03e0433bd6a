"""LitAPIs as users write them, in no need of a model; a test serves them from this folder."""

import datetime
import enum
import os
import signal
import sys
import time
from dataclasses import dataclass

import litserve
import numpy as np
from fastapi import HTTPException
from fastapi.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException as StarletteHTTPException


class Square(litserve.LitAPI):
    """The square of ``input``, alone or in a batch, as in LitServe's README."""

    def decode_request(self, request):
        return float(request["input"])

    def predict(self, x):
        return [one * one for one in x] if isinstance(x, list) else x * x

    def encode_response(self, output):
        return {"output": output}


class Context(Square):
    """Takes LitServe's context in each of its methods."""

    def decode_request(self, request, context):
        context["input"] = request["input"]
        return float(request["input"])

    def predict(self, x, context):
        if isinstance(x, list):
            return [one + each["input"] for one, each in zip(x, context, strict=True)]
        return x + context["input"]

    def encode_response(self, output, context):
        return {"output": output, "input": context["input"]}


class Unawaited(Square):
    """Does not say that it is async."""

    async def predict(self, x):
        return x * x


class OwnBatch(Square):
    """A batch of its own kind, also of a single item."""

    def batch(self, inputs):
        return {"inputs": inputs}

    def predict(self, x):
        if isinstance(x, dict):
            return {"outputs": [one * one for one in x["inputs"]]}
        return x * x

    def unbatch(self, output):
        return output["outputs"]


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


class Form(Square):
    """Takes a form with a file."""

    def decode_request(self, request):
        return float(request["input"]) + len(request["file"].file.read())


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


class Trap(Square):
    """Wrong in a batch: it answers each item with the mean of all."""

    def predict(self, x):
        return [sum(x) / len(x)] * len(x) if isinstance(x, list) else x


class RandomWeights(Square):
    """Another model in each worker."""

    def setup(self, device):
        self.weight = 2.0 ** (os.getpid() % 64)  # far from the other's, for certain

    def predict(self, x):
        return x * self.weight


class Rounded(Square):
    """Differs by ``relative`` in a batch."""

    def __init__(self, relative: float) -> None:
        super().__init__()
        self.relative = relative

    def predict(self, x):
        return [one * (1 + self.relative) for one in x] if isinstance(x, list) else x


class Consumes(Square):
    """Empties what it gets."""

    def predict(self, x):
        return [x.pop() for _ in list(x)][::-1]


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
            if "sleep_s" in request:
                time.sleep(request["sleep_s"])
            if "short" in request:
                return x[:-1] if isinstance(x, list) else x
        return x

    def encode_response(self, output):
        if output.get("in") == "encode":
            raise ERRORS[output["raise"]]()
        return ANSWERS[output["answer"]]() if "answer" in output else {"number": output.get("number")}


class LosesItsGpu(Square):
    """Raises what CUDA raises when its context is broken, and would from then on."""

    def predict(self, x):
        if x == 13:
            import torch

            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
        return super().predict(x)


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
