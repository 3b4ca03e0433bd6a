"""A LitAPI that says what its answers cost has bounds above its model, in tokens a second."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from litmeter.cli.main import main
from litmeter.errors import ApiError
from litmeter.kinds.lit_api import LitApi
from litmeter.load.bodies import Bodies
from litmeter.measure.checks import check_all, refuse_faulty

SERVER = """
import litserve
import torch

LAYERS, SIDE, TOKENS = 4, 1024, 6


class Chat(litserve.LitAPI):
    def __init__(self, costs={}):
        super().__init__(stream=True)
        self.more = costs

    def setup(self, device):
        self.layers = [torch.nn.Linear(SIDE, SIDE, bias=False) for _ in range(LAYERS)]

    def decode_request(self, request):
        return request["prompt"]

    @torch.inference_mode()
    def predict(self, prompt):
        state = torch.ones(1, SIDE)
        for _ in range(TOKENS):
            for layer in self.layers:
                state = layer(state).tanh()
            yield f"{int(state.argmax())} "

    def encode_response(self, output):
        yield from output

    def costs(self):
        weights = LAYERS * SIDE * SIDE
        own = {"weights_bytes": 4 * weights, "flops": 2 * weights, "flops_per_token": 2 * weights}
        return own | {"tokens": TOKENS, "prompt_tokens": 1} | self.more
"""
BODIES = Bodies([b'{"prompt": "a"}', b'{"prompt": "b"}'], "application/json")


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "server.py").write_text(SERVER)
    (tmp_path / "a.json").write_text('{"prompt": "a"}')
    monkeypatch.chdir(tmp_path)


def test_costs_and_where_the_time_goes_are_known_before_anything_is_timed() -> None:
    [found] = check_all({"chat": LitApi(api="server:Chat")}, BODIES, "cpu", 60.0).values()
    assert found.fault == ""
    assert found.costs is not None
    assert (found.costs.tokens, found.costs.weights_bytes) == (6, 4 * 4 * 1024**2)
    assert set(found.operators) == {"products", "others", "between"}
    assert sum(found.operators.values()) == pytest.approx(1.0)
    assert found.operators["products"] > found.operators["others"]


def test_wrong_costs_are_refused_in_a_line() -> None:
    wrong = LitApi(api="server:Chat", api_kwargs={"costs": {"flop": 1}})
    with pytest.raises(ApiError, match=r"^chat: costs: flop: unknown key, did you mean flops\?"):
        refuse_faulty(check_all({"chat": wrong}, BODIES, "cpu", 60.0))


def test_the_report_has_a_ladder_from_the_roofline_down_in_tokens_a_second(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--body", "a.json", "--users", "2", "--seconds", "20", "--report", "page.html", "--json"]
    assert main(["compare", "chat=server:Chat threads_per_worker=1", *given]) == 0
    [row] = json.loads(capsys.readouterr().out)["configurations"]
    page = " ".join(re.sub(r"<[^>]+>", " ", (tmp_path / "page.html").read_text()).split())
    assert "From the hardware's peak down to the served rate, in tokens/s" in page
    text = re.sub(
        r"\(.*?\)", "", page.partition("configuration roofline ")[2].partition("The roofline is")[0]
    )
    heads, rates = text.split("chat")
    found = dict(
        zip(
            ["roofline", *heads.split()], (float(one.replace(",", "")) for one in rates.split()), strict=False
        )
    )
    assert 0 < found["served"] <= found["roofline"]
    assert found["served"] == pytest.approx(6 * row["rate_rps"], rel=0.01)
    assert found.get("model", 0.0) <= 1.1 * found["roofline"]
