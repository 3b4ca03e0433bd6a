"""The first request to a server, before the load."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping, Sequence

import requests

from litmeter.errors import ServerError
from litmeter.system.http import CA_VARIABLE, direct_session

LOADING = (404, 503)
"""Statuses that a server without a health check may send until its model is loaded."""


class BadAnswerError(ServerError):
    """The first request was answered, but not with 200."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def check_first_request(
    url: str,
    bodies: Sequence[bytes],
    content_type: str,
    headers: Mapping[str, str],
    timeout_s: float,
    others: Collection[int] = (),
) -> int:
    """Send one request before the load starts, so that a wrong URL or body is reported at once.

    Return its status: 200, which counts as a good answer, or one of ``others``; raise ServerError for any
    other status (BadAnswerError) and for none.
    """
    body, headers = bodies[0], {**headers, "Content-Type": content_type}
    with direct_session() as session:
        session.verify = os.environ.get(CA_VARIABLE, True)
        try:
            answer = session.post(url, data=body, headers=headers, timeout=timeout_s)
        except requests.Timeout as error:
            raise ServerError(f"{url} did not answer within {timeout_s:g} s") from error
        except requests.exceptions.SSLError as error:
            doubt = f"{url} cannot be trusted ({_reason(error)})"
            raise ServerError(f"{doubt}; --ca names the CA certificates to trust") from error
        except requests.ConnectionError as error:
            raise ServerError(f"{url} cannot be reached ({_reason(error)})") from error
        except (requests.RequestException, ValueError) as error:
            raise ServerError(f"{url}: {error}") from error
    if answer.status_code != 200 and answer.status_code not in others:
        sent = f"{len(body):,} bytes of {content_type}, beginning with {body[:24]!r}"
        text = " ".join(answer.text.split())[:200]
        message = f"{url} answered a request ({sent}) with {answer.status_code}: {text}"
        raise BadAnswerError(message, answer.status_code)
    return answer.status_code


def _reason(error: requests.ConnectionError) -> str:
    # The operating system's message, without urllib3's wrapping.
    match = re.search(r"\[Errno -?\d+\] ([\w ]+)|certificate verify failed", str(error))
    return (match[1] or match[0]) if match else type(error).__name__
