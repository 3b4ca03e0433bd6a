"""LitAPIs that are served in studies, as a user's own would be."""

from typing import Any

import litserve
import numpy as np
import numpy.typing as npt


class Nothing(litserve.LitAPI):
    """Answers with its request."""

    def decode_request(self, request) -> Any:  # type: ignore[no-untyped-def]  # annotated, it would be a schema
        """The body."""
        return request

    def predict(self, x: Any) -> Any:
        """The same."""
        return x

    def encode_response(self, output):  # type: ignore[no-untyped-def]
        """The same."""
        return output


class Pieces(litserve.LitAPI):
    """Streams PIECES pieces without a model."""

    PIECES = 100

    def __init__(self) -> None:
        super().__init__(stream=True)

    def decode_request(self, request) -> Any:  # type: ignore[no-untyped-def]
        """The body."""
        return request

    def predict(self, x: Any) -> Any:
        """At once."""
        for number in range(self.PIECES):
            yield f"piece{number};"

    def encode_response(self, output):  # type: ignore[no-untyped-def]
        """The same."""
        yield from output


class Product(litserve.LitAPI):
    """Takes {"input": ...}, and multiplies by a matrix so many times."""

    def __init__(self, products: int) -> None:
        super().__init__()
        self.products = products

    def setup(self, device: str) -> None:
        """Make the matrix."""
        self.matrix = np.random.default_rng(0).normal(size=(512, 512)).astype(np.float32)

    def decode_request(self, request) -> npt.NDArray[np.float32]:  # type: ignore[no-untyped-def]
        """A vector of the number, (512)."""
        return np.full(512, request["input"], np.float32)

    def predict(self, x: npt.NDArray[np.float32]) -> Any:
        """A number for each item of a batch (N, 512), or for an item (512)."""
        for _ in range(self.products):
            x = np.tanh(x @ self.matrix)
        return x.sum(-1)

    def encode_response(self, output):  # type: ignore[no-untyped-def]
        """The answer."""
        return {"output": float(output)}
