"""``servebench loadtest``: measure any server at any URL with the pipeline's load generator."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import requests

from servebench.benchmark.levels import level_row
from servebench.benchmark.rows import LevelRow
from servebench.benchmark.telemetry import Telemetry, Usage
from servebench.errors import LoadError, ServerError
from servebench.loadgen import LoadPlan, generate
from servebench.loadgen.progress import load_bar
from servebench.stats.objective import ALLOWED_LATE, late_share
from servebench.stats.records import LoadRecord
from servebench.system.files import check_writable
from servebench.system.machine_lock import exclusive_machine
from servebench.system.rows import write_rows
from servebench.system.tables import text_table

IMAGE_TOKEN = "{image}"
HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([!-~][ -~]*)")
"""Name and value by RFC 9110, in ASCII."""
COLUMNS = (
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
    plans: Sequence[LoadPlan],
    slo_ms: float | None,
    out: Path | None,
) -> int:
    """Load ``url`` at every level of ``plans``, print a row for each.

    Args:
        slo_ms: the objective: at most ALLOWED_LATE of the requests may fail or take longer.
        out: a CSV file for the rows.

    Returns:
        0 where all levels are valid and keep the objective, else 1.

    Raises:
        ServerError: ``url`` does not answer the first body with 200; LoadError: the load generator
            failed; StorageError: ``out`` cannot be written, which is checked before anything is sent.
    """
    if out is not None:
        check_writable([out])
    with exclusive_machine():
        check_first_request(url, bodies[0], {**headers, "Content-Type": content_type}, plans[0].timeout_s)
        results = measure(url, bodies, content_type, headers, plans)
    rows = [row for row, _ in results]
    missed = [missed_objective(record, slo_ms) for _, record in results]
    cells = [
        level_cells(row, plan.rate_rps, miss) for row, plan, miss in zip(rows, plans, missed, strict=True)
    ]
    print(text_table(COLUMNS, cells))
    if out is not None:
        write_rows(out, LevelRow, rows)
    return 0 if all(row.valid for row in rows) and not any(missed) else 1


def missed_objective(record: LoadRecord, slo_ms: float | None) -> str | None:
    """How the load misses the objective; None where it keeps it, or there is none."""
    late = None if slo_ms is None else late_share(record, slo_ms)
    if late is None or late <= ALLOWED_LATE:
        return None
    return (
        f"objective missed: {late:.1%} failed or took longer than {slo_ms:g} ms, allowed: {ALLOWED_LATE:.0%}"
    )


def check_first_request(url: str, body: bytes, headers: Mapping[str, str], timeout_s: float) -> None:
    """Send one request before the load starts, so that a wrong URL or body is reported at once.

    Raises:
        ServerError: it was not answered with 200, the one status that counts as a good answer.
    """
    with requests.Session() as session:
        session.trust_env = False  # no proxy and no netrc: the load generator uses neither
        session.verify = os.environ.get("SSL_CERT_FILE", True)  # which the load generator's OpenSSL reads
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
    plans: Sequence[LoadPlan],
) -> list[tuple[LevelRow, LoadRecord]]:
    """Run the levels; return the summary and the record of each.

    The server may run anywhere, so its resource usage is unknown. Only the client's CPU is used of the
    telemetry, which follows this process in place of a server.
    """
    with Telemetry(os.getpid()) as telemetry, load_bar(plans, "load") as update_bar:
        records = generate(
            url,
            bodies,
            content_type,
            plans,
            headers=headers,
            on_start=telemetry.follow_client,
            on_progress=update_bar,
        )
        cores = [telemetry.usage(*record.window).client_cores for record in records]
    return [
        (level_row(record, Usage(client_cores=client)), record)
        for record, client in zip(records, cores, strict=True)
    ]


def level_cells(row: LevelRow, rate_rps: float | None, missed: str | None) -> list[str]:
    """A level as a row of the table; ``missed`` is how it misses the objective."""
    client = row.client_cores
    verdict = "valid" if row.valid else f"not valid: {row.invalid_reason}"
    return [
        str(row.users) if rate_rps is None else f"{rate_rps:g}/s",
        f"{row.throughput_rps:.1f}",
        f"{row.low_rps:.1f} to {row.high_rps:.1f}",
        *("-" if ms is None else f"{ms:.1f}" for ms in (row.p50_ms, row.p95_ms, row.p99_ms)),
        *(str(count) for count in (row.sent, row.ok, row.failed, row.timed_out)),
        "-" if client is None else f"{client:.0%}",
        "; ".join(filter(None, (verdict, missed))),
    ]


def read_bodies(body_files: Sequence[Path], images: Sequence[Path], template: str) -> list[bytes]:
    """The contents of ``body_files``, then one body per image: ``template`` with the image in base64.

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
    """The system's message in ``error``, without urllib3's wrapping."""
    match = re.search(r"\[Errno -?\d+\] ([\w ]+)|certificate verify failed", str(error))
    return (match[1] or match[0]) if match else type(error).__name__
