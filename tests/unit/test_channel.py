"""The way between the HTTP process and workers in other processes."""

from __future__ import annotations

import asyncio
import collections
import multiprocessing

from litmeter.serving.direct.channel import Channel, Response
from litmeter.serving.direct.dispatcher import Dispatcher
from litmeter.serving.errors import Reply
from tests.support.direct import ask, open_channel


def answer_with_number(channel: Channel, number: int) -> None:
    channel.send_registration()
    while True:
        request = channel.wait_for_request(number)
        channel.send_responses([Response(request.slot, 200, str(number).encode())])


def test_one_user_gets_the_same_worker_every_time() -> None:
    """Whose caches are warm; readers that block on the socket would take turns."""

    async def ask_in_turn(channel: Channel) -> list[Reply]:
        spawn = multiprocessing.get_context("spawn")
        workers = [
            spawn.Process(target=answer_with_number, args=(channel, number), daemon=True)
            for number in range(3)
        ]
        for worker in workers:
            worker.start()
        try:
            dispatcher = Dispatcher(channel, 30.0, len(workers))
            dispatcher.start()
            while sum(channel._idle) < len(workers):
                await asyncio.sleep(0.05)
            answers = []
            for _ in range(50):
                await asyncio.sleep(0.005)  # so that every worker waits again
                answers.append(await ask(dispatcher, b"image"))
            return answers
        finally:
            for worker in workers:
                worker.kill()

    with open_channel(8) as channel:
        answers = asyncio.run(ask_in_turn(channel))
    assert {status for status, _ in answers} == {200}
    _, most = collections.Counter(answers).most_common(1)[0]
    assert most > 34  # in turn it would be 17
