"""The fingerprint: stable, complete, and null where there is nothing to say."""

from __future__ import annotations

import json
from importlib.metadata import version

import pytest

from servebench.device import describe_machine, resolve_device
from servebench.errors import ParamsError
from servebench.machine import LIBRARIES, fingerprint


def test_the_fingerprint_does_not_move_by_itself() -> None:
    assert fingerprint() == fingerprint()


def test_it_names_hardware_and_libraries() -> None:
    found = fingerprint()
    assert found["cores"] >= 1
    assert found["memory_gib"] >= 1
    assert found["cpu"]
    for library in LIBRARIES:
        assert found[library] == version(library)
    json.dumps(found, allow_nan=False)


def test_its_id_follows_from_what_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint()
    monkeypatch.setattr("servebench.machine.platform.python_version", lambda: "3.99.0")
    after = fingerprint()
    assert after["python"] == "3.99.0"
    assert after["id"] != before["id"]


def test_a_machine_in_one_line() -> None:
    found = fingerprint()
    assert "no GPU" in describe_machine({**found, "gpu": None})
    assert "Tesla T4" in describe_machine({**found, "gpu": "Tesla T4"})


def test_the_device_is_what_the_machine_has() -> None:
    assert resolve_device("auto", cuda_available=True) == "cuda"
    assert resolve_device("auto", cuda_available=False) == "cpu"
    assert resolve_device("cpu", cuda_available=True) == "cpu"
    with pytest.raises(ParamsError, match="finds no CUDA device"):
        resolve_device("cuda", cuda_available=False)
