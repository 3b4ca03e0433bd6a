"""The HTTP API, fuzzed from its own OpenAPI document: every answer is one that the document promises."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from litmeter.classifier.server.client import request_bodies
from litmeter.kinds.classifier import Classifier
from litmeter.paths import ModelFolders
from tests.support.models import CLASSES
from tests.support.servers import running_server

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def api(exported: ModelFolders) -> Iterator[schemathesis.BaseSchema]:
    direct = Classifier(transport="direct", max_batch_size=4, preprocess="torchvision")
    with running_server(exported, direct, "cpu", 30.0) as server:
        yield schemathesis.openapi.from_url(f"{server.url}/openapi.json")


def test_the_document_describes_both_bodies_and_every_answer(api: schemathesis.BaseSchema) -> None:
    predict = api.raw_schema["paths"]["/predict"]["post"]
    bodies = predict["requestBody"]["content"]
    assert predict["requestBody"]["required"]
    assert bodies["application/json"]["schema"]["required"] == ["image"]
    assert bodies["image/*"]["schema"]["format"] == "binary"
    answers = {
        int(status): answer["content"]["application/json"]["schema"]
        for status, answer in predict["responses"].items()
    }
    assert set(answers) == {200, 400, 401, 408, 413, 415, 422, 431, 503, 504}
    assert answers.pop(200)["properties"]["label"]["enum"] == CLASSES
    assert all(refusal["required"] == ["detail"] for refusal in answers.values())
    assert set(api.raw_schema["paths"]["/health"]["get"]["responses"]) == {"200", "503"}


def test_a_prediction_is_as_documented(api: schemathesis.BaseSchema, photos: list[Path]) -> None:
    for content_type, body in (
        ("image/jpeg", photos[0].read_bytes()),
        ("application/json", request_bodies(photos[:1], "json")[0]),
    ):
        url = f"{api.get_base_url().rstrip('/')}/predict"
        answer = requests.post(url, data=body, headers={"Content-Type": content_type}, timeout=30)
        assert answer.status_code == 200
        api["/predict"]["POST"].validate_response(answer)


def test_every_answer_is_in_the_document(api: schemathesis.BaseSchema) -> None:
    """Not by schemathesis' own pytest plugin, which needs an older pytest."""
    sent: set[tuple[str, str | None]] = set()
    for result in api.get_all_operations():
        operation = result.ok()
        fuzz(operation, GenerationMode.POSITIVE, sent)
        if operation.label == "POST /predict":  # the others take nothing that could be wrong
            fuzz(operation, GenerationMode.NEGATIVE, sent)
    assert {("/predict", "application/json"), ("/health", None)} <= sent
    assert any(path == "/predict" and kind is not None and kind.startswith("image/") for path, kind in sent)


def fuzz(
    operation: schemathesis.APIOperation, mode: GenerationMode, sent: set[tuple[str, str | None]]
) -> None:
    @settings(
        max_examples=30,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: schemathesis.Case) -> None:
        sent.add((case.path, case.media_type))
        case.call_and_validate(checks=CHECKS)

    ask()
