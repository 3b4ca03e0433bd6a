"""Answers of each configuration, as served, beside those of float32 in-process: metrics/answers.json."""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import takewhile
from pathlib import Path

import model
import requests
from server import ChatAPI

from litmeter.kinds.server import Start
from litmeter.params import params_here

ASKED, AT_ONCE, TIMEOUT_S = 6, 4, 120.0
"""Prompts of all, evenly chosen; requests in flight at once."""


def expected(bodies):
    """Tokens of float32's answers."""
    api = ChatAPI("full")
    api.setup("cpu")
    prompts = [api.tokenizer.apply_chat_template(body["messages"], **model.TEMPLATE) for body in bodies]
    batches = [[(prompt["input_ids"], model.MAX_TOKENS)] for prompt in prompts]
    return [[token for [own] in api.tokens(batch) for token in own] for batch in batches]


def served(configuration, bodies, device):
    """The text of a server's answers, and how many tokens each has (pieces, where it does not say)."""

    def ask(body):
        pieces, count = [], None
        asked = body | {"stream": True}  # otherwise LitServe adds up the usage of all pieces
        with requests.post(server.target, json=asked, stream=True, timeout=TIMEOUT_S) as reply:
            reply.raise_for_status()
            for line in reply.iter_lines():
                event = json.loads(line[6:]) if line.startswith(b"data: {") else {"choices": []}
                if "error" in event:
                    sys.exit(f"{configuration.spec}: an answer failed: {event['error']}")
                pieces += [one["delta"].get("content") or "" for one in event["choices"]]
                count = (event.get("usage") or {}).get("completion_tokens", count)
        return "".join(pieces), sum(map(bool, pieces)) if count is None else count

    with configuration.starting(Start(device, TIMEOUT_S)) as server, ThreadPoolExecutor(AT_ONCE) as pool:
        server.ready()
        return [*pool.map(ask, bodies)]


def agreement(expected, answer, words):
    """Share of the tokens, of the longer of both, with which the served answer begins as the expected one.

    Servers send text, which has other tokens where it is split anew: so texts are compared, token by token.
    """
    text, count = answer
    longest = max(len(expected), count)
    begun = (words.decode(expected[:end], skip_special_tokens=True) for end in range(1, longest + 1))
    alike = [*takewhile(lambda own: text.startswith(own.rstrip("\ufffd")), begun)]
    return min(len(alike), len(expected), count) / longest if longest else 1.0


def main():
    """Write the mean agreement of each configuration."""
    bodies = model.bodies()
    bodies = bodies[:: max(1, len(bodies) // ASKED)][:ASKED]
    reference, words, found = expected(bodies), model.tokenizer(), {}
    params, device = params_here()
    for name, configuration in params.configurations().items():
        answers = served(configuration, bodies, device)
        shares = [agreement(*both, words) for both in zip(reference, answers, strict=True)]
        found[name] = round(sum(shares) / len(bodies), 3)
        print(f"{name}: {found[name]:.0%} of the tokens up to the first other one", flush=True)
    Path("metrics").mkdir(exist_ok=True)
    Path("metrics/answers.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
