"""What the HTTP process makes of workers that die, clients that go and bodies that do not come."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Callable
from typing import Any

from servebench.serving.direct.channel import Answer, Channel
from servebench.serving.direct.dispatcher import Dispatcher
from servebench.serving.direct.route import DirectRoute
from servebench.serving.direct.worker_registry import Workers
from tests.unit.test_direct import ask, opened, work

spawn = multiprocessing.get_context("spawn")


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


def test_health_follows_the_workers() -> None:
    async def follow(channel: Channel) -> list[Any]:
        dispatcher = Dispatcher(channel, 10.0, 2)
        dispatcher.start()
        seen = [dispatcher.health()]

        async def next_health() -> None:
            last = seen[-1]
            await until(lambda: dispatcher.health() != last)
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

    with opened(4) as channel:
        seen = asyncio.run(follow(channel))
    assert seen == [
        (503, b'{"status": "starting", "workers": 0, "expected": 2}'),
        (503, b'{"status": "starting", "workers": 1, "expected": 2}'),
        (200, b'{"status": "ok", "workers": 2, "expected": 2}'),
        (200, b'{"status": "degraded", "workers": 1, "expected": 2}'),
        (503, b'{"status": "down", "workers": 0, "expected": 2}'),
        (503, b'{"status": "stopping", "workers": 0, "expected": 2}'),
    ]


def test_a_worker_that_is_gone_before_it_is_watched_counts_as_dead() -> None:
    gone = spawn.Process(target=int)
    gone.start()
    gone.join()
    assert gone.pid is not None
    dead: list[int] = []
    Workers(1, dead.append).register_worker(gone.pid)
    assert dead == [gone.pid]


def test_a_request_lost_between_the_hands_of_a_dying_worker_is_answered_when_another_passes_it() -> None:
    async def lose(channel: Channel) -> list[Any]:
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

    with opened(4) as channel:
        later, lost = asyncio.run(lose(channel))
    assert later == (200, b"later")
    assert lost[0] == 503
    assert b"died" in lost[1]


def test_a_drain_waits_for_what_was_admitted_and_admits_nothing_more() -> None:
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
        channel.send_responses([Answer(request.slot, 200, b"{}")])
        assert await waiting == (200, b"{}")
        assert await draining == 0

    with opened(4) as channel:
        asyncio.run(drain(channel))


def test_a_client_that_goes_in_the_middle_of_its_body_gives_its_place_back() -> None:
    """So does one that is too slow: the protocol ends its connection."""
    sent: list[Any] = []
    pieces = iter([{"type": "http.request", "body": b"half", "more_body": True}, {"type": "http.disconnect"}])

    async def receive() -> dict[str, Any]:
        return next(pieces)

    async def send_back(message: Any) -> None:
        sent.append(message)

    async def never(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("LitServe's route is not reached")

    async def run(channel: Channel) -> None:
        route = DirectRoute(never, Dispatcher(channel, 5.0, 1), 100, 1.0)
        scope = {"type": "http", "path": "/predict", "method": "POST"}
        await route({**scope, "headers": [(b"content-type", b"image/jpeg")]}, receive, send_back)
        assert channel.slots.in_flight == 0

    with opened(1) as channel:
        asyncio.run(run(channel))
    assert sent[0]["status"] == 400
