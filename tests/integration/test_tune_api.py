"""A search for a LitAPI of one's own, from its params.yaml to what is written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from litmeter.cli.tune import apply_winner
from litmeter.errors import ApiError, ParamsError
from litmeter.load.bodies import Bodies
from litmeter.params import Params, load_params
from litmeter.paths import MACHINE, TUNE_KNOBS, TUNE_METRICS, TUNE_TABLE
from litmeter.report.stage_lines import done
from litmeter.stages.tune import job_of, key_of, main
from litmeter.system.files import read_json, read_rows, write_json
from litmeter.system.machine import fingerprint
from litmeter.tune.rows import KnobRow, TuneRow

SERVER = """
import litserve
import numpy as np


class Product(litserve.LitAPI):
    def setup(self, device):
        self.matrix = np.random.default_rng(0).normal(size=(600, 600)).astype(np.float32)

    def decode_request(self, request):
        return np.full(600, request["input"], np.float32)

    def predict(self, x):
        return np.tanh(x @ self.matrix).sum(-1)

    def encode_response(self, output):
        return {"output": float(output)}


class BatchesOnly(Product):
    def predict(self, x):
        if x.ndim == 1:
            raise ValueError("no batch")
        return super().predict(x)


class Never(Product):
    def predict(self, x):
        raise ValueError("no weights")


class Stream(litserve.LitAPI):
    def __init__(self):
        super().__init__(stream=True)

    def setup(self, device):
        pass

    def predict(self, x):
        yield from range(3)

    def encode_response(self, output):
        for one in output:
            yield str(one)
"""
TUNE: Mapping[str, Any] = {
    "workers_per_device": [1],
    "threads_per_worker": [1],
    "max_batch_size": [1, 4],
    "batch_timeout_s": [0.0],
    "transport": ["litserve"],
    "num_api_servers": [1],
    "max_s": 15.0,
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "server.py").write_text(SERVER)
    (tmp_path / "bodies.jsonl").write_text("\n".join(json.dumps({"input": k / 9}) for k in range(9)))
    monkeypatch.chdir(tmp_path)
    write_json(MACHINE, fingerprint())
    return tmp_path


def write_params(serve: Mapping[str, Any], tune: Mapping[str, Any] = TUNE) -> Params:
    sections = {
        "device": "cpu",
        "serve": dict(serve),
        "experiments": {"one": dict(serve)},
        "load": {
            **{"users": [8], "requests": 1, "min_s": 0.5, "max_s": 0.5, "warmup_s": 0.1, "timeout_s": 30.0},
            **{"bodies": "bodies.jsonl", "seed": 0},
        },
        "objective": {
            **{"slo_ms": 1000.0, "miss": 0.05, "configurations": ["one"], "tolerance": 0.5},
            **{"max_s": 1.0, "seed": 0},
        },
        "comparison": {"reference": "one", "users": 8, "seconds": 10.0},
        "tune": dict(tune),
    }
    Path("params.yaml").write_text(yaml.safe_dump(sections))
    return load_params()


@pytest.mark.smoke
def test_a_winner_is_found_written_and_applied(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = {**TUNE, "transport": ["litserve", "direct"], "max_batch_size": [4]}
    write_params({"api": "server:Product", "threads_per_worker": 1, "max_batch_size": 4}, both)
    outcome, turns = main()
    beside = replace(turns[0], other_percent=40.0, others={"python3": 0.8})
    done("tune", (outcome, [beside]))
    metrics, rows = read_json(TUNE_METRICS), read_rows(TUNE_TABLE, TuneRow)
    assert metrics["winner"].keys() == TUNE.keys() - {"max_s"}
    assert metrics["weights_sha256"] is None
    assert {row.name for row in rows} == {"1x1 b4 0ms", "1x1 b4 0ms direct"}
    assert outcome.winner.search_name == rows[0].name
    assert all(row.rate_rps and not row.failed for row in rows)
    assert {row.knob for row in read_rows(TUNE_KNOBS, KnobRow)} == {"transport"}
    printed = capsys.readouterr().out
    assert "agreement" not in printed
    assert "others used the cores (python3" in " ".join(printed.split())
    write_json(TUNE_METRICS, metrics | {"winner": metrics["winner"] | {"transport": "direct"}})
    apply_winner()
    assert load_params().serve.transport == "direct"


def test_turns_of_a_search_depend_on_all_that_machine_json_has(project: Path) -> None:
    params = write_params({"api": "server:Product"})
    before = key_of(params, "cpu", Bodies([b"{}"], "application/json"))
    assert key_of(params, "cpu", Bodies([b"{}"], "application/json")) == before
    write_json(MACHINE, read_json(MACHINE) | {"anyio": "99.0"})
    assert key_of(params, "cpu", Bodies([b"{}"], "application/json")) != before


def test_a_stream_races_too(project: Path) -> None:
    both = {**TUNE, "transport": ["litserve", "direct"]}
    write_params({"api": "server:Stream", "threads_per_worker": 1}, both)
    outcome, _ = main()
    assert {row.name for row in outcome.rows} == {"1x1 b1 0ms"}
    assert any("serves no LitAPI with stream" in reason for reason in outcome.left_out)
    assert any("max_batch_size 4: encode_response" in reason for reason in outcome.left_out)
    assert outcome.rows[0].rate_rps


def test_batch_sizes_that_fail_are_left_out_and_another_takes_the_place_of_serve(project: Path) -> None:
    params = write_params({"api": "server:BatchesOnly"})
    job = job_of(params, "cpu", params.bodies())
    assert [one.search_name for one in job.configurations] == ["1x1 b4 0ms"]
    [reason] = job.space.left_out
    assert "no batch" in reason
    params = write_params({"api": "server:Never"})
    with pytest.raises(ApiError, match="no weights"):
        job_of(params, "cpu", params.bodies())


def test_what_cannot_be_tuned_is_one_line(project: Path) -> None:
    write_params({"command": "python server.py {port}"})
    with pytest.raises(ParamsError, match=r"^serve: a command has no knobs"):
        main()
    with pytest.raises(ParamsError, match=r"^params.yaml: tune.precision: unknown key; allowed: goal, "):
        write_params({"api": "server:Product"}, {**TUNE, "precision": ["half"]})
