"""Examples by OpenAPI documents: FastAPI writes the document, and pydantic judges the example."""

from __future__ import annotations

import datetime
import json
from enum import Enum
from typing import Annotated, Any, Literal
from urllib.parse import parse_qs
from uuid import UUID

import pytest
from fastapi import Body, FastAPI, Form, Request, UploadFile
from pydantic import AnyUrl, Base64Bytes, BaseModel, Field, TypeAdapter

from litmeter.cli.openapi import example_of
from litmeter.errors import LoadError


class Colour(str, Enum):
    RED = "red"


class Named(BaseModel):
    name: Annotated[str, Field(min_length=8, max_length=9)]


class Node(BaseModel):
    label: str
    children: list[Node]
    parent: Node | None
    other: Node | int


class Everything(BaseModel):
    """A required field of each kind."""

    text: str
    short: Annotated[str, Field(max_length=2)]
    matched: Annotated[str, Field(pattern="^[a-z]+$")]
    count: Annotated[int, Field(gt=3, lt=5)]
    low: Annotated[float, Field(le=-7)]
    share: Annotated[float, Field(gt=0, lt=1)]
    high: Annotated[int, Field(ge=12)]
    choice: Literal["a", "b"]
    only: Literal["c"]
    colour: Colour
    flag: bool
    nothing: None
    moment: datetime.datetime
    day: datetime.date
    time: datetime.time
    id: UUID
    where: AnyUrl
    encoded: Base64Bytes
    several: Annotated[list[Named], Field(min_length=2)]
    none: Annotated[list[int], Field(max_length=0)]
    pair: tuple[int, str]
    either: Named | str
    maybe: Named | None
    mapping: dict[str, int]
    node: Node


class Prompted(BaseModel):
    prompt: Annotated[str, Field(examples=["a cat", "a dog"])]
    style: Annotated[str, Field(examples=["oil"])] = "photo"
    steps: int = 20


class Login(BaseModel):
    user: str
    age: Annotated[int, Field(ge=18)]


def document(annotation: Any) -> dict[str, Any]:
    """That of a server with one route, made as LitServe makes its own."""
    app = FastAPI()

    async def predict(request: annotation) -> None: ...

    predict.__annotations__["request"] = annotation
    app.post("/predict")(predict)
    return app.openapi()


def example(annotation: Any) -> Any:
    body = example_of(document(annotation), "/predict")
    assert body.content_type == "application/json"
    return json.loads(body.contents[0])


@pytest.mark.parametrize("annotation", [Everything, list[Named], str, Node], ids=str)
def test_an_example_is_valid(annotation: Any) -> None:
    annotated = annotation if annotation is not str else Annotated[str, Body()]
    TypeAdapter(annotation).validate_json(json.dumps(example(annotated)))


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        (Prompted, {"prompt": "a cat", "style": "oil"}),
        (Annotated[Named, Body(examples=[{"name": "given here"}])], {"name": "given here"}),
        (
            Annotated[Named, Body(openapi_examples={"a": {"value": {"name": "and here"}}})],
            {"name": "and here"},
        ),
    ],
)
def test_an_example_that_the_server_names_is_taken(annotation: Any, expected: Any) -> None:
    assert example(annotation) == expected


def test_a_form_is_encoded_as_a_form() -> None:
    body = example_of(document(Annotated[Login, Form()]), "/predict")
    assert body.content_type == "application/x-www-form-urlencoded"
    assert parse_qs(body.contents[0].decode()) == {"user": ["text"], "age": ["18"]}


@pytest.mark.parametrize(
    ("annotation", "said"),
    [
        (Request, "does not say what POST /predict takes"),
        (float, "does not say what POST /predict takes"),  # in the query
        (UploadFile, "request is a file .--form request=@FILE"),
        (dict, "names no field of what POST /predict takes"),
        (Annotated[Any, Body()], "does not say what the body is"),
        (Annotated[str, Body(pattern="^[0-9]$")], "must match a pattern"),
        (Annotated[int, Body(gt=3, lt=4)], "allows no number"),
    ],
    ids=str,
)
def test_why_there_is_no_example_is_said(annotation: Any, said: str) -> None:
    with pytest.raises(LoadError, match=said):
        example_of(document(annotation), "/predict")


def test_the_paths_that_there_are_are_named() -> None:
    with pytest.raises(LoadError, match="no POST /other; it has: /predict"):
        example_of(document(Named), "/other")
