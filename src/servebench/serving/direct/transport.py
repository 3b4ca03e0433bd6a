"""Put the direct transport into a LitAPI before LitServe gets it: a loop, a spec and a check of the key."""

from __future__ import annotations

import os

from servebench.serving.api import ClassifierAPI
from servebench.serving.direct.channel import Channel
from servebench.serving.direct.dispatcher import Dispatcher
from servebench.serving.direct.loop import DirectLoop
from servebench.serving.direct.spec import KEY_VARIABLE, DirectSpec, anybody, keyholder

MOST_UNDER_WAY = 1024
"""Requests beyond these are refused at once: what waits longer than anyone would is of no use."""


def connect(api: ClassifierAPI, timeout_s: float) -> None:
    """Have ``api`` served by the direct transport.

    Args:
        timeout_s: how long a request may wait for a worker.
    """
    channel = Channel(MOST_UNDER_WAY)
    api.loop = DirectLoop(channel)
    api.spec = DirectSpec(Dispatcher(channel, timeout_s))
    api.authorize = keyholder if os.environ.get(KEY_VARIABLE) else anybody
