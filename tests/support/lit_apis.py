"""LitAPIs as users write them, in no need of a model; a test serves them from this folder."""

import time

import litserve
from pydantic import BaseModel


class Square(litserve.LitAPI):
    """The square of ``input``, alone or in a batch, as in LitServe's README."""

    def __init__(self, sleep_s: float = 0.0) -> None:
        super().__init__()
        self.sleep_s = sleep_s

    def setup(self, device):
        self.device_name = device

    def decode_request(self, request):
        time.sleep(self.sleep_s)
        return float(request["input"])

    def predict(self, x):
        time.sleep(self.sleep_s)
        return [one * one for one in x] if isinstance(x, list) else x * x

    def encode_response(self, output):
        time.sleep(self.sleep_s)
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
