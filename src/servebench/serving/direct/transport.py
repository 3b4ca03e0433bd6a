"""Put the direct transport around a LitAPI: its loop for the workers, a dispatcher for the HTTP process."""

from __future__ import annotations

from servebench.serving.api import ClassifierAPI
from servebench.serving.direct.channel import Channel
from servebench.serving.direct.dispatcher import Dispatcher
from servebench.serving.direct.loop import DirectLoop


def connect(api: ClassifierAPI, timeout_s: float) -> Dispatcher:
    """Have the workers of ``api`` take what the dispatcher is asked.

    Args:
        timeout_s: how long a request may wait for a worker.
    """
    channel = Channel(api.settings.max_queue, api.settings.workers_per_device)
    api.loop = DirectLoop(channel)
    return Dispatcher(channel, timeout_s, api.settings.workers_per_device)
