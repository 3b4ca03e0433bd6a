"""A chat server by torch, as LitServe's documentation has it: answers one after another, or in step."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads of torch take the cores from others

import litserve
import torch
from litserve.specs.openai import OpenAISpec
from model import CONVERTED, Answer, costs, prompt, tokenizer
from transformers import AutoModelForCausalLM, DynamicCache

DTYPES = {"full": (torch.float32, 4), "half": (torch.bfloat16, 2)}


class ChatAPI(litserve.LitAPI):
    """Greedy decoding; precision is full (float32) or half (bfloat16)."""

    def __init__(self, precision="full"):
        super().__init__(spec=OpenAISpec())
        if precision not in DTYPES:
            raise ValueError(f"precision: got {precision!r}; allowed: {', '.join(DTYPES)}")
        self.dtype, self.bytes_per_weight = DTYPES[precision]

    def costs(self):
        """What an answer costs."""
        return costs(str(self.dtype).removeprefix("torch."), self.bytes_per_weight)

    def setup(self, device):
        """Load the model."""
        self.tokenizer = tokenizer()
        self.last = self.tokenizer.eos_token_id
        self.model = AutoModelForCausalLM.from_pretrained(CONVERTED, dtype=self.dtype).to(device).eval()

    def decode_request(self, request):
        """The tokens of the prompt, and the most that may follow."""
        return prompt(self.tokenizer, request)

    def batch(self, inputs):
        """Called where max_batch_size is above 1."""
        return list(inputs)

    def predict(self, prompts):
        """A piece for each token; of a list of prompts, lists of pieces."""
        batch = prompts if isinstance(prompts, list) else [prompts]
        answers = [Answer(self.tokenizer, ids) for ids, _ in batch]
        for tokens in self.tokens(batch):
            pieces = [answer.piece(*own) for answer, own in zip(answers, tokens, strict=True)]
            yield pieces if isinstance(prompts, list) else pieces[0]

    def unbatch(self, output):
        """The pieces of a batch are in lists already."""
        yield from output

    def encode_response(self, output):
        """The pieces are as the spec sends them."""
        yield from output

    @torch.inference_mode()
    def tokens(self, batch):
        """The next token of each prompt, in a list that is empty once its answer has ended."""
        padded = self.tokenizer.pad({"input_ids": [ids for ids, _ in batch]}, return_tensors="pt")
        ids, mask = (padded[name].to(self.model.device) for name in ("input_ids", "attention_mask"))
        cache, left = DynamicCache(), [most for _, most in batch]
        while any(left):
            positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
            padding = {"attention_mask": mask, "position_ids": positions}
            logits = self.model(ids, cache=cache, use_cache=True, logits_to_keep=1, **padding).logits
            ids = logits[:, -1].argmax(1, keepdim=True)
            mask = torch.cat([mask, torch.ones_like(ids)], 1)
            found = ids[:, 0].tolist()
            left = [0 if token == self.last else more for token, more in zip(found, left, strict=True)]
            yield [[token] * (more > 0) for token, more in zip(found, left, strict=True)]
            left = [max(0, more - 1) for more in left]


if __name__ == "__main__":
    litserve.LitServer(ChatAPI("half"), accelerator="cpu").run(port=8000)
