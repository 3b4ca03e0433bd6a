"""Graceful shutdown of the HTTP process: it drains, that is, finishes the requests that it has admitted."""

from __future__ import annotations

import asyncio
import logging
import signal

from litmeter.serving.direct.dispatcher import Dispatcher

logger = logging.getLogger(__name__)


def drain_on_sigterm(dispatcher: Dispatcher, drain_s: float) -> None:
    """Make SIGTERM drain ``dispatcher`` before uvicorn shuts down; called in uvicorn's event loop.

    Uvicorn alone would close its listening socket at once: a load balancer could not read ``stopping`` from
    ``/health``, and further requests on open connections would get no answer.

    Args:
        drain_s: how long draining may take.
    """
    stop_uvicorn = signal.getsignal(signal.SIGTERM)
    assert callable(stop_uvicorn)
    tasks: set[asyncio.Task[None]] = set()

    async def drain() -> None:
        await dispatcher.drain(drain_s)
        if dispatcher.unfinished:
            logger.error("%d requests were not finished within %g s", dispatcher.unfinished, drain_s)
        stop_uvicorn(signal.SIGTERM, None)

    def begin() -> None:
        if not tasks:
            tasks.add(asyncio.get_running_loop().create_task(drain()))

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, begin)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # blocked since before the fork
