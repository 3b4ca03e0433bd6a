"""A server that runs already, on this machine or another: it is measured as it is."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

from pydantic import Field

from litmeter.errors import UsageError
from litmeter.kinds.configuration import Configuration, Given, Tried
from litmeter.kinds.server import Server, Start
from litmeter.load.bodies import Bodies


class Url(Configuration):
    """A server that somebody else has started, and nobody pauses."""

    kind = "url"

    url: str = Field(description="of a server that runs already", pattern=r"^https?://")

    @classmethod
    def recognised(cls, given: Given) -> dict[str, Any] | None:
        """What begins with http:// or https://."""
        return {"url": given.text} if given.text.startswith(("http://", "https://")) else None

    @property
    def spec(self) -> str:
        """The URL."""
        return self.url

    def describe(self, device: str) -> str:
        """The URL."""
        return self.url

    def starting(self, how: Start) -> AbstractContextManager[Server]:
        """Nothing is started."""
        return nullcontext(Server(self.url))

    @property
    def workers(self) -> int:
        """None that are started."""
        return 0

    no_pipeline: ClassVar[str] = "a server that runs already is not run in-process"

    def init_try(self, bodies: Bodies, device: str) -> Tried:
        """Raise UsageError: there are no files on which its results depend."""
        raise UsageError(
            f"{self.url}: a project is for a server that can be started; `litmeter compare` takes it"
        )
