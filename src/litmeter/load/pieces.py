"""The pieces of a streamed answer: when each came, and how large it was.

A piece is an event of ``text/event-stream`` that has content; of any other answer without a length, a chunk
of HTTP's chunked encoding; without that, too, what one read gave.
"""

from __future__ import annotations

import json
import re
from typing import Any

from litmeter.stats.streams import CHUNKS, EVENTS, READS

EVENT_STREAM = b"text/event-stream"
EVENT_END = re.compile(rb"\n\r?\n|\r\r")
"""The end of an event's last line, and an empty line (WHATWG HTML, 9.2.5: server-sent events)."""
LINE_END = re.compile(rb"\r\n|\n|\r")
CONTENTS = frozenset(
    {"content", "reasoning_content", "reasoning", "refusal", "text", "tool_calls", "function_call"}
)
"""Keys of a choice's delta that are content, in the dialects of OpenAI's API."""
DECODER = json.JSONDecoder()
"""Its ``raw_decode`` takes a fifth of the time of ``json.loads``, which looks for white space first."""
FRAME = re.compile(r"response\.(?!.*delta$).*|(message|content_block)_(start|stop)|message_delta|ping")
"""Types of events without content, of OpenAI's Responses API and of Anthropic's."""


Event = tuple[int, int, bool]
"""What an event says: bytes of its content, 0 for one without (a role, a finish, usage, a comment, [DONE]);
tokens of the whole answer, 0 if it does not say them; and whether it says that the answer has failed."""


class Pieces:
    """The pieces of the answer that is coming in, as an HTTP parser hands over its body.

    Attributes:
        times: when each piece was complete, on the monotonic clock, in seconds.
        sizes: bytes of content of each piece.
        tokens: of the answer, as its last event with ``usage`` says; else 0.
        failed: whether an event has said so.
    """

    def __init__(self, unit: int) -> None:
        self.unit = unit
        self.times: list[float] = []
        self.sizes: list[int] = []
        self.tokens = 0
        self.failed = False
        self._part = bytearray()  # of an event
        self._chunk_bytes = self._searched = 0
        self._has_returns = False  # else lines end with a line feed alone, and are found faster

    def add(self, data: bytes, now: float) -> None:
        """Take a part of the body that was received at ``now``."""
        if self.unit == CHUNKS:
            self._chunk_bytes += len(data)
        elif self.unit == READS:
            self.times.append(now)
            self.sizes.append(len(data))
        else:
            part, begin = self._part, 0
            part += data
            if self._has_returns or b"\r" in data:
                self._has_returns = True
                for found in EVENT_END.finditer(part, self._searched):
                    self._event(bytes(part[begin : found.start()]), now)
                    begin = found.end()
            else:  # much faster
                while (end := part.find(b"\n\n", begin or self._searched)) >= 0:
                    self._event(bytes(part[begin:end]), now)
                    begin = end + 2
            del part[:begin]
            self._searched = max(0, len(part) - 2)

    def end_chunk(self, now: float) -> None:
        """Take note that a chunk is complete."""
        if self._chunk_bytes:
            self.times.append(now)
            self.sizes.append(self._chunk_bytes)
            self._chunk_bytes = 0

    def end(self, now: float) -> None:
        """Take note that the answer is complete; its last event may lack an empty line, as LitServe's."""
        if self._part:
            self._event(bytes(self._part), now)

    def _event(self, lines: bytes, now: float) -> None:
        size, tokens, is_error = read_event(lines)
        self.tokens = tokens or self.tokens
        self.failed |= is_error
        if size:
            self.times.append(now)
            self.sizes.append(size)


def unit_of(content_type: bytes, *, chunked: bool, has_length: bool) -> int | None:
    """What the pieces of an answer with this head are; None for an answer that does not stream."""
    if content_type.lower().startswith(EVENT_STREAM):
        return EVENTS
    return CHUNKS if chunked else None if has_length else READS


def read_event(lines: bytes) -> Event:
    """Read the lines of an event; content is its data, of OpenAI's API the text in it."""
    if lines.startswith(b"data: ") and b"\n" not in lines and b"\r" not in lines:  # the usual one, fast
        content = lines[6:]
    else:
        fields = [line.partition(b":") for line in LINE_END.split(lines)]
        if any(name == b"event" and value.strip() == b"error" for name, _, value in fields):
            return 0, 0, True
        content = b"\n".join(value.removeprefix(b" ") for name, _, value in fields if name == b"data")
    if not content.startswith(b"{"):
        return 0 if content.strip() in (b"", b"[DONE]") else len(content), 0, False
    try:
        value, _ = DECODER.raw_decode(content.decode())
    except (ValueError, RecursionError):
        return len(content), 0, False
    choices, usage = value.get("choices"), value.get("usage")
    if choices is None and isinstance(error := value.get("error"), (str, dict)) and error:
        return 0, 0, True
    if isinstance(kind := value.get("type"), str) and FRAME.fullmatch(kind):
        return 0, 0, False
    size = sum(map(_text_bytes, choices)) if isinstance(choices, list) else len(content)
    tokens = usage.get("completion_tokens") if isinstance(usage, dict) else 0
    return size, tokens if isinstance(tokens, int) else 0, False


def _text_bytes(choice: Any) -> int:
    """Bytes of the content in a choice of OpenAI's API, calls of tools included."""
    if not isinstance(choice, dict):
        return 0
    delta = choice.get("delta")
    if not isinstance(delta, dict):
        delta = choice
    size = 0
    for key, content in delta.items():
        if content and key in CONTENTS:
            text = content if isinstance(content, str) else json.dumps(content)
            size += len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))
    return size
