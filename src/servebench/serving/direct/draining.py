"""How the HTTP process stops: it finishes what it has admitted, and says meanwhile that it stops."""

from __future__ import annotations

import asyncio
import logging
import signal

from servebench.serving.direct.dispatcher import Dispatcher

logger = logging.getLogger(__name__)


def drain_on_sigterm(dispatcher: Dispatcher, drain_s: float) -> None:
    """Have SIGTERM drain before it does what it does now; called in uvicorn's event loop.

    Uvicorn would close its socket first: a load balancer would be refused where it wants to be told,
    and whoever asks on a connection that is open would get no answer.
    """
    uvicorn_stops = signal.getsignal(signal.SIGTERM)
    assert callable(uvicorn_stops)
    tasks: set[asyncio.Task[None]] = set()

    async def drain() -> None:
        await dispatcher.drain(drain_s)
        if dispatcher.unfinished:
            logger.error("%d requests were not finished within %g s", dispatcher.unfinished, drain_s)
        uvicorn_stops(signal.SIGTERM, None)

    def begin() -> None:
        if not tasks:
            tasks.add(asyncio.get_running_loop().create_task(drain()))

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, begin)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # blocked since before the fork
