"""The HTTP process's side: every request gets its answer from workers, which are watched."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Callable

from litmeter.serve.direct.channel import Channel
from litmeter.serve.direct.dispatcher import Dispatcher
from litmeter.serve.errors import Reply
from tests.support.direct import ask, never_disconnects, open_channel, work

spawn = multiprocessing.get_context("spawn")


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


def test_a_request_that_a_dead_worker_had_gets_503_and_one_that_finds_none_in_time_504() -> None:
    async def die(channel: Channel) -> list[Reply]:
        dispatcher = Dispatcher(channel, 1.5, 1)
        dispatcher.start()
        worker = spawn.Process(target=work, args=(channel, 0, 0.3, "dies"), daemon=True)
        worker.start()
        await until(lambda: dispatcher.health().status == 200)
        return list(await asyncio.gather(*(ask(dispatcher, body) for body in (b"x", b"y"))))

    with open_channel(16) as channel:
        replies = asyncio.run(die(channel))
    assert [status for status, _ in replies] == [503, 504]
    assert b"the worker that had this request died" in replies[0][1]
    assert b"no worker was free within 1.5 s" in replies[1][1]


def test_a_request_lost_with_a_worker_gets_503() -> None:
    async def lose(channel: Channel) -> list[Reply]:
        dispatcher = Dispatcher(channel, 60.0, 1)
        dispatcher.start()
        first = spawn.Process(target=work, args=(channel, 0, 0.0, "drops"), daemon=True)
        first.start()
        lost = asyncio.create_task(ask(dispatcher, b"lost"))
        await until(lambda: first.exitcode is not None)
        second = spawn.Process(target=work, args=(channel, 0, 0.0, "works"), daemon=True)
        second.start()
        answers = [await ask(dispatcher, b"later"), await lost]
        second.kill()
        second.join()
        return answers

    with open_channel(4) as channel:
        later, lost = asyncio.run(lose(channel))
    assert later == (200, b"later")
    assert lost[0] == 503
    assert b"died" in lost[1]


def test_a_worker_gone_before_it_is_watched_is_dead() -> None:
    gone = spawn.Process(target=int)
    gone.start()
    gone.join()
    assert gone.pid is not None

    async def watch(channel: Channel, worker: int) -> Reply:
        dispatcher = Dispatcher(channel, 60.0, 1)
        slot = dispatcher.slots.acquire()
        assert slot is not None
        asked = asyncio.create_task(dispatcher.submit(slot, True, b"x", never_disconnects))
        await asyncio.sleep(0)
        assert channel.slots.claim(slot, 0, worker)
        dispatcher.watch_worker(worker)
        return await asked

    with open_channel(4) as channel:
        status, body = asyncio.run(watch(channel, gone.pid))
    assert status == 503
    assert b"died" in body
