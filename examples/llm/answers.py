"""Answers of each configuration, as served, beside those of float32 in-process: metrics/answers.json."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import model
import requests
from server import ChatAPI

from litmeter.kinds.server import Start
from litmeter.params import load_params

ASKED, AT_ONCE, TIMEOUT_S = 6, 4, 120.0
"""Prompts of all, evenly chosen; requests in flight at once."""


def expected(bodies):
    """Tokens of float32's answers."""
    api = ChatAPI("full")
    api.setup("cpu")
    prompts = [api.tokenizer.apply_chat_template(body["messages"], **model.TEMPLATE) for body in bodies]
    batches = [[(prompt["input_ids"], model.MAX_TOKENS)] for prompt in prompts]
    return [[token for [own] in api.tokens(batch) for token in own] for batch in batches]


def served(configuration, bodies, words):
    """Tokens of a server's answers."""

    def ask(body):
        reply = requests.post(server.target, json=body | {"stream": False}, timeout=TIMEOUT_S)
        reply.raise_for_status()
        return words.encode(reply.json()["choices"][0]["message"]["content"], add_special_tokens=False)

    with configuration.starting(Start("cpu", TIMEOUT_S)) as server, ThreadPoolExecutor(AT_ONCE) as pool:
        server.ready()
        return [*pool.map(ask, bodies)]


def agreement(expected, tokens):
    """Share of the tokens up to the first that differs."""
    alike = (one == other for one, other in zip(expected, tokens, strict=False))
    return next((place for place, same in enumerate(alike) if not same), len(expected)) / len(expected)


def main():
    """Write the mean agreement of each configuration."""
    bodies = model.bodies()
    bodies = bodies[:: max(1, len(bodies) // ASKED)][:ASKED]
    reference, words, found = expected(bodies), model.tokenizer(), {}
    for name, configuration in load_params().configurations().items():
        shares = map(agreement, reference, served(configuration, bodies, words))
        found[name] = round(sum(shares) / len(bodies), 3)
        print(f"{name}: {found[name]:.0%} of the tokens up to the first other one", flush=True)
    Path("metrics").mkdir(exist_ok=True)
    Path("metrics/answers.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
