"""The HTTP process's side: every request gets its answer from workers, which are watched."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Callable

from litmeter.direct.channel import Channel
from litmeter.direct.dispatcher import Dispatcher
from litmeter.direct.messages import Reply
from litmeter.kinds.classifier import Classifier
from tests.support.direct import ask, die, never_disconnects, open_channel

spawn = multiprocessing.get_context("spawn")


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


def test_a_request_that_a_dead_worker_had_gets_503_and_one_that_finds_none_in_time_504() -> None:
    async def ask_twice(channel: Channel) -> list[Reply]:
        dispatcher = Dispatcher(channel, Classifier(), 1.5)
        dispatcher.start()
        worker = spawn.Process(target=die, args=(channel, 0.3), daemon=True)
        worker.start()
        await until(lambda: dispatcher.health().status == 200)
        return list(await asyncio.gather(*(ask(dispatcher, body) for body in (b"x", b"y"))))

    with open_channel(16) as channel:
        replies = asyncio.run(ask_twice(channel))
    assert [reply.status for reply in replies] == [503, 504]
    assert b"the worker that had this request died" in replies[0].body
    assert b"no worker was free within 1.5 s" in replies[1].body


def test_a_worker_gone_before_it_is_watched_is_dead() -> None:
    gone = spawn.Process(target=int)
    gone.start()
    gone.join()
    assert gone.pid is not None

    async def watch(channel: Channel, worker: int) -> Reply:
        dispatcher = Dispatcher(channel, Classifier(), 60.0)
        slot = dispatcher.slots.acquire()
        asked = asyncio.create_task(dispatcher.submit(slot, b"", b"x", never_disconnects))
        await asyncio.sleep(0)
        assert channel.slots.claim(slot, 0, worker)
        dispatcher.watch_worker(worker)
        return await asked

    with open_channel(4) as channel:
        reply = asyncio.run(watch(channel, gone.pid))
    assert reply.status == 503
    assert b"died" in reply.body
