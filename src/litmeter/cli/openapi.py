"""An example of a request by the server's OpenAPI document, which FastAPI writes, also for LitServe."""

from __future__ import annotations

import json
import math
import os
import re
from collections import ChainMap
from collections.abc import Mapping
from contextlib import suppress
from functools import partial, reduce
from itertools import repeat
from operator import getitem
from typing import Any
from urllib.parse import urlencode, urljoin, urlsplit

import requests

from litmeter.errors import LoadError
from litmeter.load.bodies import JSON, Bodies
from litmeter.system.http import CA_VARIABLE, direct_session

DOCUMENT = "/openapi.json"
TIMEOUT_S = 10.0
URL_ENCODED, MULTIPART = "application/x-www-form-urlencoded", "multipart/form-data"
TEXT = "text"  # is base64, too
FORMATS = {
    "date": "2000-01-01",
    "date-time": "2000-01-01T00:00:00Z",
    "email": "someone@example.com",
    "time": "00:00:00Z",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}
"""A text of each format."""
CHAT = "/chat/completions"
"""The end of a path of OpenAI's protocol; FastAPI's schema of it only says that a role is a text."""


def example_body(url: str) -> Bodies:
    """A valid body of POST requests to ``url``, by the server's OpenAPI document.

    Raise LoadError where there is no document, or it does not say enough.
    """
    try:
        with direct_session() as session:
            session.verify = os.environ.get(CA_VARIABLE, True)
            answer = session.get(urljoin(url, DOCUMENT), timeout=TIMEOUT_S)
        answer.raise_for_status()
        return example_of(answer.json(), urlsplit(url).path)
    except requests.HTTPError as error:
        raise LoadError(f"the server has no {DOCUMENT} (status {answer.status_code})") from error
    except (requests.RequestException, ValueError, AttributeError, LookupError, TypeError) as error:
        raise LoadError(f"{DOCUMENT} of {url} cannot be read ({type(error).__name__})") from error


def example_of(document: Any, path: str) -> Bodies:
    """A valid body of POST requests to ``path``, by an OpenAPI document; raise LoadError without one."""
    posts = [name for name, methods in document["paths"].items() if "post" in methods]
    if path not in posts:
        raise LoadError(f"{DOCUMENT} has no POST {path}; it has: {', '.join(posts) or 'none'}")
    body = _resolved(document["paths"][path]["post"].get("requestBody", {}), document)
    kind = next((one for one in (JSON, URL_ENCODED, MULTIPART) if one in body.get("content", {})), None)
    if kind is None:
        raise LoadError(f"{DOCUMENT} does not say what POST {path} takes (annotated requests are in it)")
    media = body["content"][kind]
    schema = _resolved(media.get("schema", {}), document)
    named = [*_given(media), *(one["value"] for one in media.get("examples", {}).values()), *_given(schema)]
    value = named[0] if named else _example(schema, document, "")
    if path.endswith(CHAT) and not named:
        value["messages"] = [{"role": "user", "content": TEXT}]
    if value == {} and not schema.get("properties"):
        raise LoadError(f"{DOCUMENT} names no field of what POST {path} takes")
    if kind == JSON:
        return Bodies([json.dumps(value).encode()], JSON)
    return Bodies([urlencode(value, doseq=True).encode()], URL_ENCODED)


def _example(schema: Mapping[str, Any], document: Any, place: str, seen: tuple[str, ...] = ()) -> Any:
    """A value that is valid by ``schema``: one that the schema names, else a small one.

    Raise LoadError, with the ``place`` in the body, where none is found.
    """
    if (reference := schema.get("$ref")) in seen:
        raise LoadError(f"{place} contains itself")
    seen, schema = (*seen, *filter(None, [reference])), _resolved(schema, document)
    make = partial(_example, document=document, seen=seen)
    if named := [*_given(schema), *schema.get("enum", ())]:
        return named[0]
    if options := [*schema.get("anyOf", ()), *schema.get("oneOf", ())]:
        for option in options[:-1]:
            with suppress(LoadError):
                return make(option, place=place)
        return make(options[-1], place=place)
    if parts := [make(part, place=place) for part in schema.get("allOf", ())]:
        return dict(ChainMap(*parts)) if isinstance(parts[0], dict) else parts[0]
    kind = schema.get("type", "object" if "properties" in schema else None)
    if kind == "object":
        fields, required = schema.get("properties", {}), schema.get("required", ())
        wanted = [name for name in fields if name in required or {"example", "examples"} & {*fields[name]}]
        return {name: make(fields[name], place=f"{place}.{name}".lstrip(".")) for name in wanted}
    if kind == "array":
        first, others = schema.get("prefixItems", ()), schema.get("items", {})
        least = 0 if others.get("$ref") in seen else 1
        count = min(max(least, len(first), schema.get("minItems", 0)), schema.get("maxItems", math.inf))
        return [make(item, place=f"{place}[]") for item in [*first, *repeat(others, count - len(first))]]
    if kind == "string":
        return _text(schema, place)
    if kind in ("integer", "number"):
        return _number(schema, place)
    if kind in ("boolean", "null"):
        return True if kind == "boolean" else None
    raise LoadError(f"{DOCUMENT} does not say what {place or 'the body'} is")


def _resolved(schema: Mapping[str, Any], document: Any) -> Mapping[str, Any]:
    """A schema with what it refers to."""
    if "$ref" not in schema:
        return schema
    target = reduce(getitem, schema["$ref"].removeprefix("#/").split("/"), document)
    return {**_resolved(target, document), **{key: one for key, one in schema.items() if key != "$ref"}}


def _given(schema: Mapping[str, Any]) -> list[Any]:
    """The values that a schema names as examples, as its only one, or as its default."""
    examples = schema.get("examples", ())
    single = [schema[key] for key in ("example", "const", "default") if key in schema]
    return [*(examples if isinstance(examples, list) else ()), *single]


def _text(schema: Mapping[str, Any], place: str) -> str:
    """A text of the format and length that the schema asks for."""
    if (kind := schema.get("format", "binary" if "contentMediaType" in schema else "")) == "binary":
        raise LoadError(f"{place} is a file (--form {place}=@FILE)")
    text = FORMATS.get(kind, TEXT)
    text = text.ljust(schema.get("minLength", 0), "o")[: schema.get("maxLength")]
    with suppress(re.error):
        if re.search(schema.get("pattern", ""), text):
            return text
    raise LoadError(f"{place} must match a pattern")


def _number(schema: Mapping[str, Any], place: str) -> float:
    """A number within the bounds, near 1."""
    low, high = schema.get("minimum", -math.inf), schema.get("maximum", math.inf)
    above, below = schema.get("exclusiveMinimum", -math.inf), schema.get("exclusiveMaximum", math.inf)
    start, end = (one if math.isfinite(one) else 1 for one in (max(low, above), min(high, below)))
    candidates = [1, math.ceil(start), math.floor(start) + 1, math.floor(end), math.ceil(end) - 1]
    for value in [*candidates, *([(start + end) / 2] if schema["type"] == "number" else [])]:
        if low <= value <= high and above < value < below:
            return value
    raise LoadError(f"{place} allows no number that was found")
