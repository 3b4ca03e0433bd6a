"""What the HTTP process knows of its workers."""

from __future__ import annotations

import asyncio
import multiprocessing

from litmeter.serving.direct.channel import Channel
from litmeter.serving.direct.dispatcher import Dispatcher
from litmeter.serving.direct.worker_registry import WorkerRegistry
from litmeter.serving.errors import Reply
from tests.support.direct import open_channel, work

spawn = multiprocessing.get_context("spawn")


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
