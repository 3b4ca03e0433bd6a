"""A server that runs already, on this machine or another: it is measured as it is."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

from pydantic import Field

from litmeter.kinds.configuration import Configuration, Given
from litmeter.kinds.server import Server, Start


class Url(Configuration):
    """A server that somebody else has started, and that is never paused."""

    kind = key = "url"
    is_started: ClassVar[bool] = False
    no_pipeline: ClassVar[str] = "a server that runs already is not run in-process"

    url: str = Field(
        description="of a server that runs already: http://HOST:PORT/PATH", pattern=r"^https?://[^\s/]+\S*$"
    )

    @classmethod
    def recognised(cls, given: Given) -> dict[str, Any] | None:
        """What begins with http:// or https://."""
        return {"url": given.text} if given.text.startswith(("http://", "https://")) else None

    @property
    def spec(self) -> str:
        """The URL."""
        return self.url

    def starting(self, how: Start) -> AbstractContextManager[Server]:
        """Nothing is started."""
        return nullcontext(Server(self.url))
