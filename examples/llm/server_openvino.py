"""The same chat server by OpenVINO, in 4 bits: one answer after another, or each token of all in one step."""

import asyncio
import threading
from queue import SimpleQueue

import litserve
import numpy
import openvino
import openvino_genai
from litserve.specs.openai import OpenAISpec
from model import Answer, costs, prompt, tokenizer, weights_file

CACHE_GB = 1
"""Of keys and values."""


def greedy(most):
    """Options of a generation."""
    options = openvino_genai.GenerationConfig()
    options.max_new_tokens, options.do_sample = most, False
    return options


class Tokens(openvino_genai.StreamerBase):
    """Puts each token into a queue."""

    def __init__(self, queue):
        super().__init__()
        self.queue = queue

    def write(self, token):
        """Called in the thread that generates."""
        self.queue.put([token] if isinstance(token, int) else token)
        return openvino_genai.StreamingStatus.RUNNING

    def end(self):
        """Called at the end."""
        self.queue.put([])


class FourBitAPI(litserve.LitAPI):
    """One answer after another."""

    def __init__(self):
        super().__init__(spec=OpenAISpec())

    def costs(self):
        """OpenVINO multiplies with numbers of 8 bits, at most as fast as their peak."""
        return costs("int8")

    def setup(self, device):
        """Load the model."""
        self.tokenizer = tokenizer()
        self.pipeline = openvino_genai.LLMPipeline(str(weights_file()), "CPU")

    def decode_request(self, request):
        """The tokens of the prompt, and the most that may follow."""
        return prompt(self.tokenizer, request)

    def predict(self, prompt):
        """A piece for each token."""
        ids, most = prompt
        answer, queue = Answer(self.tokenizer, ids), SimpleQueue()
        arguments = openvino.Tensor(numpy.array([ids])), greedy(most), Tokens(queue)
        threading.Thread(target=self.pipeline.generate, args=arguments).start()
        while tokens := queue.get():
            yield answer.piece(*tokens)


class ContinuousAPI(litserve.LitAPI):
    """Each step makes a token for all answers under way."""

    def __init__(self):
        super().__init__(spec=OpenAISpec(), enable_async=True)

    def costs(self):
        """A step has as many answers as there are users."""
        return costs("int8", at_once=256)

    def setup(self, device):
        """Load the model, and begin to step."""
        self.tokenizer, scheduler = tokenizer(), openvino_genai.SchedulerConfig()
        scheduler.cache_size = CACHE_GB
        self.pipeline = openvino_genai.ContinuousBatchingPipeline(str(weights_file()), scheduler, "CPU")
        self.under_way, self.came, self.number = {}, threading.Event(), 0
        threading.Thread(target=self.step, daemon=True).start()

    async def decode_request(self, request):
        """The tokens of the prompt, and the most that may follow."""
        return prompt(self.tokenizer, request)

    async def predict(self, prompt):
        """A piece for each token."""
        ids, most = prompt
        answer, queue, self.number = Answer(self.tokenizer, ids), asyncio.Queue(), self.number + 1
        number, loop = self.number, asyncio.get_running_loop()
        handle = self.pipeline.add_request(number, openvino.Tensor(numpy.array([ids])), greedy(most))
        self.under_way[number] = handle, lambda tokens: loop.call_soon_threadsafe(queue.put_nowait, tokens)
        self.came.set()
        while tokens := await queue.get():
            yield answer.piece(*tokens)

    def step(self):
        """Make tokens while answers are under way, and hand them over."""
        while self.came.wait():
            self.came.clear()
            while self.under_way:
                self.pipeline.step()
                for number, (handle, put) in [*self.under_way.items()]:
                    while handle.can_read():
                        [output] = handle.read().values()
                        put([*output.generated_ids])
                    if handle.get_status() != openvino_genai.GenerationStatus.RUNNING:
                        put([])
                        del self.under_way[number]


if __name__ == "__main__":
    litserve.LitServer(ContinuousAPI(), accelerator="cpu").run(port=8000)
