"""Replies as responses of Starlette's, for middleware and LitServe; workers get along without it."""

from __future__ import annotations

from starlette.responses import Response

from litmeter.serving.errors import Reply


def response_of(reply: Reply) -> Response:
    """The response with the status and the JSON body of ``reply``."""
    return Response(reply.body, reply.status, media_type="application/json")
