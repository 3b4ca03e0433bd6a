"""The same chat server by OpenVINO, in 4 bits: one answer after another, or each token of all in one step."""

import asyncio
import itertools
import os
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
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
    """Puts each token into a queue; ``abandoned`` ends the generation."""

    def __init__(self, queue):
        super().__init__()
        self.queue, self.abandoned = queue, False

    def write(self, token):
        """Called in the thread that generates."""
        self.queue.put([token] if isinstance(token, int) else token)
        status = openvino_genai.StreamingStatus
        return status.CANCEL if self.abandoned else status.RUNNING

    def end(self):
        """Called at the end, but not where the generation fails."""


def checked(found):
    """Tokens; raise what was found instead."""
    if isinstance(found, Exception):
        raise found
    return found


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
        streamer = Tokens(queue)

        def generate():
            try:
                self.pipeline.generate(openvino.Tensor(numpy.array([ids])), greedy(most), streamer)
                queue.put([])
            except Exception as error:
                queue.put(error)

        thread = threading.Thread(target=generate)
        thread.start()
        try:
            while tokens := checked(queue.get()):
                yield answer.piece(*tokens)
        finally:  # the pipeline has one generation at a time
            streamer.abandoned = True
            thread.join()


@dataclass(eq=False)
class Request:
    """A prompt, the most tokens that may follow, and what takes them, none at the end, or an error."""

    ids: list
    most: int
    put: Callable
    handle: object = None
    abandoned: bool = False


class ContinuousAPI(litserve.LitAPI):
    """Each step makes a token for all answers under way."""

    def __init__(self):
        super().__init__(spec=OpenAISpec(), enable_async=True)

    def costs(self):
        """A step has as many answers as there are users."""
        return costs("int8", at_once=256)

    def setup(self, device):
        """Load the model, and begin to step."""
        self.tokenizer, self.came = tokenizer(), SimpleQueue()
        self.begin()

    def begin(self):
        """Load the model, and step in a thread."""
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.cache_size = CACHE_GB
        self.pipeline = openvino_genai.ContinuousBatchingPipeline(str(weights_file()), scheduler, "CPU")
        threading.Thread(target=self.steps, daemon=True).start()

    async def decode_request(self, request):
        """The tokens of the prompt, and the most that may follow."""
        return prompt(self.tokenizer, request)

    async def predict(self, prompt):
        """A piece for each token."""
        answer, queue = Answer(self.tokenizer, prompt[0]), asyncio.Queue()
        request = Request(*prompt, partial(asyncio.get_running_loop().call_soon_threadsafe, queue.put_nowait))
        self.came.put(request)
        try:
            while tokens := checked(await queue.get()):
                yield answer.piece(*tokens)
        finally:
            request.abandoned = True

    def steps(self):
        """Step until that fails: then all under way get the error, and the model is loaded anew."""
        numbers, under_way = itertools.count(), []
        try:
            while True:
                self.step(numbers, under_way)
        except Exception as error:
            traceback.print_exc()
            for request in under_way:
                request.put(error)
        try:
            self.begin()
        except Exception:
            traceback.print_exc()
            os._exit(1)  # all requests would wait: the worker ends

    def step(self, numbers, under_way):
        """Make a token for all answers under way, and hand them over; wait for a request if there is none."""
        while not under_way or not self.came.empty():
            under_way.append(request := self.came.get())
            tokens = openvino.Tensor(numpy.array([request.ids]))
            request.handle = self.pipeline.add_request(next(numbers), tokens, greedy(request.most))
        self.pipeline.step()
        for request in [*under_way]:
            handle, status = request.handle, request.handle.get_status()
            while handle.can_read():
                [output] = handle.read().values()
                request.put(output.generated_ids)
            if request.abandoned:
                handle.cancel()
            elif status == openvino_genai.GenerationStatus.RUNNING:
                continue
            else:
                ended = status == openvino_genai.GenerationStatus.FINISHED
                request.put([] if ended else RuntimeError(f"the answer was cut short: {status.name}"))
            under_way.remove(request)


if __name__ == "__main__":
    litserve.LitServer(ContinuousAPI(), accelerator="cpu").run(port=8000)
