"""``servebench loadtest``: measure any server at any URL with the instrument of the pipeline."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import requests

from servebench.benchmark.levels import level_row
from servebench.benchmark.rows import LevelRow
from servebench.benchmark.telemetry import Telemetry, Usage
from servebench.errors import LoadError, ServerError
from servebench.loadgen import LoadPlan, generate
from servebench.system.files import check_writable
from servebench.system.machine_lock import exclusive_machine
from servebench.system.progress import bar
from servebench.system.rows import write_rows
from servebench.system.tables import text_table

IMAGE_TOKEN = "{image}"
HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([!-~][ -~]*)")
"""Name and value as RFC 9110 has them, without the bytes that are not ASCII."""
HEAD = (
    "users",
    "req/s",
    "95% interval",
    "p50 ms",
    "p95 ms",
    "p99 ms",
    "sent",
    "ok",
    "failed",
    "timed out",
    "client CPU",
    "verdict",
)


def loadtest(
    url: str,
    bodies: Sequence[bytes],
    content_type: str,
    headers: Mapping[str, str],
    plan: Sequence[LoadPlan],
    out: Path | None,
) -> int:
    """Load ``url`` at every level of ``plan``, show a row for each; 0 where all are valid, else 1.

    Args:
        out: a CSV file for the rows.

    Raises:
        ServerError: ``url`` does not answer the first body well; LoadError: the load generator
            failed; StorageError: ``out`` cannot be written, which is found before anything is sent.
    """
    if out is not None:
        check_writable([out])
    with exclusive_machine():
        check_first_request(url, bodies[0], {**headers, "Content-Type": content_type}, plan[0].timeout_s)
        rows = measure(url, bodies, content_type, headers, plan)
    shown = [cells(row, level.rate_rps) for row, level in zip(rows, plan, strict=True)]
    print(text_table(HEAD, shown))
    if out is not None:
        write_rows(out, LevelRow, rows)
    return 0 if all(row.valid for row in rows) else 1


def check_first_request(url: str, body: bytes, headers: Mapping[str, str], timeout_s: float) -> None:
    """Send one request before the load starts: a wrong URL or body is better found at once.

    Raises:
        ServerError: it was not answered with 200, the one status that counts as a good answer.
    """
    with requests.Session() as session:
        session.trust_env = False  # no proxy and no netrc, as the load generator knows neither
        session.verify = os.environ.get("SSL_CERT_FILE", True)  # which OpenSSL, and so that one, heeds
        try:
            answer = session.post(url, data=body, headers=headers, timeout=timeout_s)
        except requests.Timeout as error:
            raise ServerError(f"{url} did not answer within {timeout_s:g} s") from error
        except requests.ConnectionError as error:
            raise ServerError(f"{url} cannot be reached ({_reason(error)})") from error
        except (requests.RequestException, ValueError) as error:
            raise ServerError(f"{url}: {error}") from error
    if answer.status_code != 200:
        text = " ".join(answer.text.split())[:200]
        raise ServerError(f"{url} answered the first request with {answer.status_code}: {text}")


def measure(
    url: str,
    bodies: Sequence[bytes],
    content_type: str,
    headers: Mapping[str, str],
    plan: Sequence[LoadPlan],
) -> list[LevelRow]:
    """Run the levels and summarise them.

    Nothing is known of what the server uses: it may run anywhere. The telemetry follows our own
    process in its stead, for the sake of the client's CPU.
    """
    with (
        Telemetry(os.getpid()) as telemetry,
        bar(sum(level.requests for level in plan), "load", "answer") as progress,
    ):
        records = generate(
            url,
            bodies,
            content_type,
            plan,
            headers=headers,
            on_start=telemetry.follow_client,
            on_progress=_follow(progress, plan),
        )
        cores = [telemetry.usage(*record.window).client_cores for record in records]
    return [
        level_row(record, Usage(client_cores=client)) for record, client in zip(records, cores, strict=True)
    ]


def cells(row: LevelRow, rate_rps: float | None) -> list[str]:
    """A level as a row of the table."""
    client = row.client_cores
    return [
        str(row.users) if rate_rps is None else f"{rate_rps:g}/s",
        f"{row.throughput_rps:.1f}",
        f"{row.low_rps:.1f} to {row.high_rps:.1f}",
        *("-" if ms is None else f"{ms:.1f}" for ms in (row.p50_ms, row.p95_ms, row.p99_ms)),
        *(str(count) for count in (row.sent, row.ok, row.failed, row.timed_out)),
        "-" if client is None else f"{client:.0%}",
        "valid" if row.valid else f"not valid: {row.invalid_reason}",
    ]


def request_bodies(body_files: Sequence[Path], images: Sequence[Path], template: str) -> list[bytes]:
    """The files as they are, then one body per image: ``template`` with the image in base64.

    Raises:
        LoadError: there is no body, a file cannot be read, or the template is not JSON with {image}.
    """
    if not body_files and not images:
        raise LoadError("there is nothing to send: give --body-file or --images")
    if IMAGE_TOKEN not in template:
        raise LoadError(f"--template: {IMAGE_TOKEN} is missing, got {template!r}")
    try:
        json.loads(template)
    except ValueError as error:
        raise LoadError(f"--template: not JSON ({error}), got {template!r}") from error
    bodies = [_read(path) for path in body_files]
    for path in images:
        encoded = base64.b64encode(_read(path)).decode("ascii")
        bodies.append(template.replace(IMAGE_TOKEN, encoded).encode())
    return bodies


def request_headers(lines: Sequence[str]) -> dict[str, str]:
    """Headers from lines of the form ``Name: value``.

    Raises:
        LoadError: another form, or Content-Type, which has an option of its own.
    """
    headers = {}
    for line in lines:
        match = HEADER.fullmatch(line)
        if match is None:
            raise LoadError(f"--header: expected 'Name: value', got {line!r}")
        if match[1].lower() == "content-type":
            raise LoadError("--header: the content type is given by --content-type")
        headers[match[1]] = match[2]
    return headers


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise LoadError(f"{path}: {error.strerror}") from error


def _reason(error: requests.ConnectionError) -> str:
    """What the system said, without urllib3's wrapping."""
    found = re.search(r"\[Errno -?\d+\] ([\w ]+)|certificate verify failed", str(error))
    return (found[1] or found[0]) if found else type(error).__name__


def _follow(progress: Any, plan: Sequence[LoadPlan]) -> Callable[[int, int, float], None]:
    """Move the bar as the load generator reports."""
    before = {level.users: sum(p.requests for p in plan[:place]) for place, level in enumerate(plan)}
    wanted = {level.users: level.requests for level in plan}

    def follow(users: int, answers: int, seconds: float) -> None:
        progress.set_postfix_str(f"{users} users")
        progress.update(before[users] + min(answers, wanted[users]) - progress.n)

    return follow
