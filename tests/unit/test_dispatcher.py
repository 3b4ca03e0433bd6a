"""The HTTP process's side: every request gets its answer from workers, which are watched."""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
from collections.abc import Callable

import pytest

from litmeter.serving.direct.channel import Channel, Response
from litmeter.serving.direct.dispatcher import Dispatcher, WorkerRegistry
from litmeter.serving.errors import Reply
from tests.support.direct import ask, open_channel, work

spawn = multiprocessing.get_context("spawn")


def ask_many(
    workers: int,
    bodies: list[bytes],
    *,
    capacity: int = 1024,
    seconds: float = 0.0,
    timeout_s: float = 10.0,
    within_s: float = 60.0,
) -> list[Reply]:
    """What a dispatcher gets for ``bodies``, all asked at once, ``within_s`` from then."""
    with open_channel(capacity) as channel:
        asked = _ask_many(channel, workers, bodies, seconds, timeout_s, "works", within_s)
        return asyncio.run(asked)


async def _ask_many(
    channel: Channel,
    workers: int,
    bodies: list[bytes],
    seconds: float,
    timeout_s: float,
    kind: str,
    within_s: float = 60.0,
) -> list[Reply]:
    processes = [
        spawn.Process(target=work, args=(channel, number, seconds, kind), daemon=True)
        for number in range(workers)
    ]
    for process in processes:
        process.start()
    try:
        dispatcher = Dispatcher(channel, timeout_s, workers)
        dispatcher.start()
        await until(lambda: dispatcher.health().status == 200)  # the workers have started
        answers = asyncio.gather(*(ask(dispatcher, body) for body in bodies))
        return list(await asyncio.wait_for(answers, within_s))
    finally:
        for process in processes:
            process.kill()
            process.join()


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


def test_each_answer_goes_to_its_request() -> None:
    bodies = [bytes([number]) * (1 + number * number * 3) for number in range(250)]
    assert ask_many(2, bodies) == [(200, body) for body in bodies]


def test_beyond_the_capacity_requests_get_503_at_once() -> None:
    replies = ask_many(1, [b"x"] * 10, capacity=4)
    assert [status for status, _ in replies] == [200] * 4 + [503] * 6
    assert b"full" in replies[-1][1]


def test_a_request_that_waits_too_long_gets_504_unworked() -> None:
    # All twenty would take ten seconds.
    replies = ask_many(1, [b"x"] * 20, seconds=0.5, timeout_s=1.5, within_s=9.0)
    statuses = [status for status, _ in replies]
    assert set(statuses) == {200, 504}
    assert statuses.count(504) > 10
    assert b"no worker was free within 1.5 s" in replies[-1][1]


def test_requests_of_a_worker_that_dies_get_503() -> None:
    with open_channel(16) as channel:
        replies = asyncio.run(_ask_many(channel, 1, [b"x", b"y"], 0.3, 1.5, "dies"))
    assert [status for status, _ in replies] == [503, 504]
    assert b"the worker that had this request died" in replies[0][1]


def test_a_request_given_up_frees_its_slot_unworked() -> None:
    async def give_up(channel: Channel) -> None:
        dispatcher = Dispatcher(channel, 10.0, 1)
        dispatcher.start()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ask(dispatcher, b"first"), 0.1)
        second = asyncio.create_task(ask(dispatcher, b"second"))
        await asyncio.sleep(0)

        claimed = []

        def serve() -> None:
            for _ in range(2):
                request = channel.wait_for_request(0)
                if channel.slots.claim(request.slot, 0, 1):
                    claimed.append(request.body)
                    channel.send_responses([Response(request.slot, 200, request.body)])

        worker = threading.Thread(target=serve)
        worker.start()
        assert await second == (200, b"second")
        worker.join()
        assert claimed == [b"second"]

    with open_channel(1) as channel:
        asyncio.run(give_up(channel))


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


def test_a_drain_finishes_admitted_requests_and_admits_no_more() -> None:
    async def drain(channel: Channel) -> None:
        dispatcher = Dispatcher(channel, 10.0, 1)
        dispatcher.start()
        waiting = asyncio.create_task(ask(dispatcher, b"first"))
        await asyncio.sleep(0)
        draining = asyncio.create_task(dispatcher.drain(30.0))
        await asyncio.sleep(0)
        status, body = await ask(dispatcher, b"second")
        assert (status, b"stopping" in body) == (503, True)
        request = channel.receive_request()
        assert request is not None
        assert not draining.done()
        channel.send_responses([Response(request.slot, 200, b"{}")])
        assert await waiting == (200, b"{}")
        await draining
        assert dispatcher.unfinished == 0

    with open_channel(4) as channel:
        asyncio.run(drain(channel))


def test_health_follows_the_workers() -> None:
    async def follow(channel: Channel) -> list[Reply]:
        dispatcher = Dispatcher(channel, 10.0, 2)
        dispatcher.start()
        seen = [dispatcher.health()]

        async def next_health() -> None:
            last = seen[-1]
            while dispatcher.health() == last:
                await asyncio.sleep(0.01)
            seen.append(dispatcher.health())

        workers = []
        for number in range(2):
            workers.append(spawn.Process(target=work, args=(channel, number, 0.0, "works"), daemon=True))
            workers[-1].start()
            await next_health()
        for worker in workers:
            worker.kill()
            await next_health()
        await dispatcher.drain(0.0)
        return [*seen, dispatcher.health()]

    with open_channel(4) as channel:
        seen = asyncio.run(follow(channel))
    assert seen == [
        (503, b'{"status": "starting", "workers": 0, "expected": 2}'),
        (503, b'{"status": "starting", "workers": 1, "expected": 2}'),
        (200, b'{"status": "ok", "workers": 2, "expected": 2}'),
        (200, b'{"status": "degraded", "workers": 1, "expected": 2}'),
        (503, b'{"status": "down", "workers": 0, "expected": 2}'),
        (503, b'{"status": "stopping", "workers": 0, "expected": 2}'),
    ]


def test_a_worker_gone_before_it_is_watched_is_dead() -> None:
    gone = spawn.Process(target=int)
    gone.start()
    gone.join()
    assert gone.pid is not None
    dead: list[int] = []
    WorkerRegistry(1, dead.append).register_worker(gone.pid)
    assert dead == [gone.pid]
