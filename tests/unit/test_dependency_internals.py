"""``Supervisor`` takes LitServe's places: this fails when LitServe is not what it was written for."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from typing import Any

import litserve
import pytest
from litserve.loops import inference_worker
from litserve.loops.base import LitLoop

READ = {
    litserve.LitServer.run: "a53f4b3f53ea3e13",
    litserve.LitServer._init_manager: "ec955dbe647ca5b4",
    litserve.LitServer._start_server: "509cc1cb9ae3a09a",
    litserve.LitServer.verify_worker_status: "b973dfc5137f98c4",
    litserve.LitServer.launch_inference_worker: "15d290e5a5ee6fa5",
    litserve.LitServer.launch_single_inference_worker: "c2d7b5b4cdf1f0e3",
    inference_worker: "f7d46425b66a2aff",
    LitLoop.__call__: "510abb166c25d8a4",
}
"""Hashes of the source that was read, of what Supervisor calls, replaces or is called by."""


@pytest.mark.parametrize("function", READ, ids=lambda function: function.__qualname__)
def test_litserve_is_what_the_direct_server_was_written_for(function: Callable[..., Any]) -> None:
    source = inspect.getsource(function)
    assert hashlib.sha256(source.encode()).hexdigest()[:16] == READ[function], (
        f"LitServe {litserve.__version__} has changed {function.__qualname__}: read it, see that "
        "servebench.serving.direct.supervisor still fits, and note the new hash here"
    )
