"""Requests that are wrong as HTTP, or lie about how long they are."""

from __future__ import annotations

from tests.support.bad_bodies import CLOSED, JSON, NOT_JSON, Case, text


def raw(
    name: str,
    head: str,
    body: bytes = b"",
    status: int = 400,
    reason: str = "",
    *,
    first: str = "POST /predict HTTP/1.1",
    kind: str = JSON,
    stock: int | None = None,
) -> Case:
    """A request as its bytes; the client sends no more after them."""
    lines = [first, "Host: x", f"Content-Type: {kind}", "Connection: close", *([head] if head else [])]
    message = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body
    return Case(name, text(message), status, reason, stock=stock, raw=True)


def chunked(name: str, body: bytes, status: int = 400, reason: str = "", stock: int | None = None) -> Case:
    return raw(name, "Transfer-Encoding: chunked", body, status, reason, stock=stock)


EMPTY = b'{"image":""}'
HTTP_CASES = [
    raw("body shorter than announced", "Content-Length: 50", EMPTY, CLOSED),
    raw("body longer than announced", "Content-Length: 5", EMPTY, 400, NOT_JSON),
    raw("no length", "", EMPTY, 422, "Field required"),
    raw("length below nothing", "Content-Length: -12", EMPTY),
    raw("length in hexadecimal", "Content-Length: 0xC", EMPTY),
    raw("length of 30 digits", "Content-Length: " + "9" * 30, EMPTY),
    raw("two lengths", "Content-Length: 12\r\nContent-Length: 5", EMPTY),
    raw("28 MB announced", "Content-Length: 28000000", b"", 413, "too large"),
    raw(
        "length and chunks",
        "Content-Length: 12\r\nTransfer-Encoding: chunked",
        b"c\r\n" + EMPTY + b"\r\n0\r\n\r\n",
    ),
    raw("unknown transfer encoding", "Transfer-Encoding: gzip", EMPTY),
    chunked("honest chunks", b"c\r\n" + EMPTY + b"\r\n0\r\n\r\n", 400, "image: empty"),
    chunked("chunk shorter than it says", b"ff\r\n" + EMPTY + b"\r\n0\r\n\r\n", CLOSED),
    chunked("chunk longer than it says", b"5\r\n" + EMPTY + b"\r\n0\r\n\r\n"),
    chunked("chunk size below nothing", b"-c\r\n" + EMPTY + b"\r\n0\r\n\r\n"),
    chunked("extension of 1 MB", b"c;" + b"x" * 1_000_000, 431, "head", stock=CLOSED),
    chunked("trailer of 1 MB", b"0\r\nX-Long: " + b"a" * 1_000_000, 431, "head", stock=CLOSED),
    chunked("no last chunk", b"c\r\n" + EMPTY + b"\r\n", CLOSED),
    chunked("chunks without end", (b"fffff\r\n" + b"A" * 0xFFFFF + b"\r\n") * 40, 413, "too large"),
    raw(
        "image of 21 MB in chunks",
        "Transfer-Encoding: chunked",
        (b"fffff\r\n" + b"A" * 0xFFFFF + b"\r\n") * 21,
        *(413, "too large"),
        kind="image/png",
    ),
    raw("no HTTP", "", first="hello"),
    raw("no version", "", b"", 422, "Field required", first="POST /predict"),
    raw("no such method", "", first="FETCH /predict HTTP/1.1"),
    raw("NUL in a header", "X-Bad: a\0b"),
    raw("header of 5 MB", "X-Long: " + "a" * 5_000_000, b"", 431, "head", stock=422),
    raw("100,000 headers", "\r\n".join(f"X-{n}: {n}" for n in range(100_000)), b"", 431, "head", stock=422),
    raw("path of 1 MB", "", b"", 431, "head", first="POST /" + "a" * 1_000_000 + " HTTP/1.1", stock=400),
]
