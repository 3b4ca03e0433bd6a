"""``litmeter loadtest`` and ``capacity``: load a server at any URL.

They do not read params.yaml. An option that is also a key of it has the key's type, limits and description.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from pydantic import BaseModel, ConfigDict, Field

from litmeter.cli.cluster import cluster_senders
from litmeter.cli.options import LOAD, OBJECTIVE, LoadOptions, ObjectiveOptions, check_together, given_of
from litmeter.cli.own import Asked, device_here, own_server, read_given
from litmeter.direct.binding import check_ca_file
from litmeter.errors import UsageError
from litmeter.kinds.configuration import Configuration
from litmeter.kinds.server import Start
from litmeter.load import LoadPlan, Trace, load_generator
from litmeter.load.bodies import Bodies, from_environment, request_headers
from litmeter.load.first_request import LOADING, check_first_request
from litmeter.load.senders import Sender, local_senders
from litmeter.load.trace import read_trace
from litmeter.measure.capacity import CapacityMetrics
from litmeter.measure.capacity import capacity as search
from litmeter.measure.loadtest import bodies_to_send, one_after_another
from litmeter.measure.log import Log
from litmeter.measure.rows import TurnRow
from litmeter.measure.run import progress, run
from litmeter.measure.subjects import Target
from litmeter.measure.turn import Sample
from litmeter.say.progress import print_wrapped
from litmeter.say.tables import (
    number_cell,
    pluralise,
    rate_cell,
    significant,
    stream_columns,
    text_table,
    with_texts,
    without_empty,
)
from litmeter.settings import Count, Miss, Positive, Timeout
from litmeter.stats.records import WINDOWS, Limits
from litmeter.system.files import check_outputs, write_rows
from litmeter.system.http import CA_VARIABLE, check_url
from litmeter.system.machine import exclusive_machine

COLUMNS = (
    *("users", "req/s", "95% interval", "p50 ms", "p95 ms", "p99 ms"),
    *("sent", "ok", "failed", "timed out", "client CPU"),
)
CONNECTIONS = 256
TRACE_EDGE_S = 0.2
"""Seconds in the window before the first request of a trace, and after the last one."""


@Parameter(name="*")
class Requests(Asked):
    """The server, what is sent to it, and what sends it."""

    url: str | None = None
    """URL to which each body is sent by POST; status 200 is a good answer"""
    images: Annotated[list[Path], Parameter(consume_multiple=True)] = []  # noqa: RUF012 -- a model
    """images, or folders of them: a body each, the file itself where the content type is an image's"""
    template: str | None = None
    """body of an image otherwise, JSON; {image} is replaced by its base64 (default: {"image": "{image}"})"""
    content_type: str = "application/json"
    """of all bodies"""
    ca: Path | None = None
    """CA certificates to trust with HTTPS (PEM)"""
    senders: Count | None = None
    """that many processes send the requests, each its share (default: 1)"""
    cluster: str | None = None
    """HOST:PORT of a Ray cluster that this machine belongs to: each of its machines sends a share"""
    if_sender_dies: Literal["go-on", "end"] | None = None
    """with --cluster: the others repeat the load and go on (the default), or the command ends"""
    timeout_s: Timeout = 30.0

    @cached_property
    def bodies(self) -> Bodies:
        """What is sent; raise LoadError without a body, UsageError for a wrong template, field or header."""
        if self.chat or self.form:
            return read_given(self)
        read = bodies_to_send(self.body, self.images, self.content_type, self.template)
        return Bodies(read, self.content_type, from_environment(request_headers(self.header)))

    @contextmanager
    def server(self, own: str | None) -> Iterator[dict[str, Target]]:
        """Send the server one request, then start the senders; yield the server as a subject, by its name.

        The server is at ``url``; or it is started for the time of the block, as ``own`` names it. Raise
        UsageError for options that do not go together, LoadError where there is nothing to send, and
        ServerError where the server does not answer the request with 200.
        """
        if (own is None) == (self.url is None):
            raise UsageError("expected either a server to start, or the --url of one that runs")
        of_started = ("--path", "--ready", "--ready-s")
        if own is None and (given := [option for option in of_started if option in given_of(self)]):
            raise UsageError(f"{given[0]}: only with a server to start, and --url names one that runs")
        if self.senders is not None and self.cluster is not None:
            raise UsageError("--senders: not together with --cluster, which has one on each machine")
        if self.if_sender_dies is not None and self.cluster is None:
            raise UsageError("--if-sender-dies: only together with --cluster")
        ca = None
        if self.ca is not None:
            check_ca_file(self.ca)
            os.environ[CA_VARIABLE] = str(self.ca.resolve())  # senders on this machine inherit it
            ca = self.ca.read_bytes()
        started: AbstractContextManager[Sender]
        if self.cluster is not None:
            go_on = self.if_sender_dies != "end"
            started = cluster_senders(self.cluster, *self.bodies, go_on=go_on, ca=ca)
        elif self.senders is not None:
            started = local_senders(self.senders, *self.bodies)
        else:
            started = load_generator(*self.bodies)
        settings = None
        if own is not None:
            settings = own_server(own, [], self, "FILE.py, module:Class or a command with {port}")
            settings.check_there()
        with exclusive_machine(), self._running(settings) as url:
            check_url(url)
            check_first_request(url, *self.bodies, self.timeout_s)
            with started as sender:
                yield {own or url: Target(url, sender)}

    @contextmanager
    def _running(self, settings: Configuration | None) -> Iterator[str]:
        """The URL of the server, which is started by its ``settings`` if it is one's own."""
        if settings is None:
            yield str(self.url)
            return
        with settings.starting(Start(device_here(), self.timeout_s)) as server:
            server.ready(
                settings.ready_s,
                lambda: check_first_request(server.target, *self.bodies, self.timeout_s, LOADING),
            )
            yield server.target


REQUESTS = Requests()


@Parameter(name="*")
class Traffic(BaseModel):
    """When the requests of an open loop are due."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    arrivals: Literal["poisson", "gamma", "constant"] | None = None
    """of a rate: at random (poisson, the default), at random in bursts (gamma), or at equal distances"""
    burstiness: Positive | None = None
    """of gamma, as in vLLM: shape of the gamma distribution of the gaps; 1 is poisson, less is burstier"""
    trace: Path | None = None
    """a file, a line for each request: seconds, perhaps with the index of a body; or a web server's log"""

    @property
    def shape(self) -> float:
        """Shape of the gamma distribution of the gaps."""
        return math.inf if self.arrivals == "constant" else self.burstiness or 1.0

    def given(self) -> set[str]:
        """The options that were given, and --arrivals also with its value."""
        return {f"--{name}" for name, value in self if value is not None} | {f"--arrivals {self.arrivals}"}

    def recorded(self, requests: Requests, seed: int) -> Trace | None:
        """The trace, if one was given; raise UsageError where it cannot be read."""
        return None if self.trace is None else read_trace(self.trace, len(requests.bodies.contents), seed)


TRAFFIC = Traffic()
TRAFFIC_RULES = (
    ("--arrivals", "not", ["--trace"]),
    ("--arrivals gamma", "only", ["--burstiness"]),
    ("--burstiness", "only", ["--arrivals gamma"]),
)
"""Each rule: this option is allowed "only" or "not" together with one of these options."""
LOADTEST_RULES = (
    ("--users", "not", ["--rate", "--trace"]),
    ("--trace", "not", ["--rate", "--requests", "--seconds", "--warmup-s"]),
    *TRAFFIC_RULES,
    ("--connections", "only", ["--rate", "--trace"]),
    ("--arrivals", "only", ["--rate"]),
    ("--trace-scale", "only", ["--trace"]),
    ("--miss", "only", ["--slo-ms", "--first-ms", "--piece-ms"]),
)


def loadtest(
    server: str | None = None,
    /,
    *,
    requests: Requests = REQUESTS,
    load: LoadOptions = LOAD,
    traffic: Traffic = TRAFFIC,
    rate: Positive | None = None,
    trace_scale: Positive | None = None,
    connections: Count | None = None,
    slo_ms: Positive | None = None,
    first_ms: Positive | None = None,
    piece_ms: Positive | None = None,
    miss: Miss | None = None,
    seconds: Positive | None = None,
    max_windows: Annotated[int, Field(ge=WINDOWS)] = 5,
    out: Path | None = None,
) -> int:
    """Load-test a server, and print a row per level.

    A closed loop of --users, or with --rate or --trace an open one. The exit status is 1 if a level is not
    valid or misses the objective.

    Args:
        server: to start for the test: FILE.py, module:Class or a command with {port}; else --url names one
        rate: open loop: R requests/s, whatever is answered
        trace_scale: with --trace: X times as many requests a second
        connections: open loop: connections; requests due while all are busy are sent late (default: 256)
        slo_ms: objective: how long a request may take
        first_ms: objective: how long the first piece of an answer that streams may take
        piece_ms: objective: how long its further pieces, or tokens, may take in the mean
        miss: with an objective: share of the requests that may take longer or fail (default: 0.05)
        seconds: of all levels, warm-ups and repeated windows included (default: 4 a level at most)
        max_windows: windows per level, at most; a level is unstable if its last three differ
        out: a CSV file for the table
    """
    from litmeter.report.claims import unexpected_streams

    values = {"--rate": rate, "--trace-scale": trace_scale, "--connections": connections}
    values |= {"--slo-ms": slo_ms, "--first-ms": first_ms, "--piece-ms": piece_ms}
    values |= {"--miss": miss, "--seconds": seconds}
    given = {option for option, value in values.items() if value is not None} | traffic.given()
    given |= given_of(load)
    check_together(given, LOADTEST_RULES)
    trace = traffic.recorded(requests, load.seed)
    max_s, levels, repeats = (load.max_s, len(load.users), max_windows / WINDOWS)
    if rate:
        levels, repeats = 1, 1
    if seconds and (max_s := (seconds / levels - load.warmup_s) / repeats) <= 0:
        raise UsageError(f"--seconds: got {seconds:g}, which --warmup-s of each level takes alone")
    min_s = max_s if seconds and "--requests" not in given else min(load.min_s, max_s)
    plan = LoadPlan(
        users=connections or CONNECTIONS,
        max_windows=max_windows,
        timeout_s=requests.timeout_s,
        rate_rps=rate,
        burstiness=traffic.shape,
        min_s=min_s,
        max_s=max_s,
        **load.model_dump(include={"requests", "warmup_s", "seed"}),
    )
    plans = [plan]
    if trace is not None:
        scale = trace_scale or 1.0
        due_s = tuple((TRACE_EDGE_S + trace.due_s / scale).tolist())
        bodies = None if trace.bodies is None else tuple(trace.bodies.tolist())
        seconds = due_s[-1] + TRACE_EDGE_S
        plan = replace(plan, requests=1, warmup_s=0.0, min_s=seconds, max_s=seconds, max_windows=WINDOWS)
        plans = [replace(plan, rate_rps=len(due_s) / seconds, due_s=due_s, bodies=bodies)]
    elif rate is None:
        plans = [replace(plan, users=users) for users in load.users]
    check_outputs(out=out)
    limits = Limits(slo_ms, first_ms, piece_ms)
    budget_s = sum(plan.warmup_s + plan.max_s / WINDOWS * plan.max_windows for plan in plans)
    with requests.server(server) as subjects, progress(budget_s, "load") as show:
        [name] = subjects
        samples = run(
            one_after_another(name, plans, limits if limits.text else None), subjects, Log(), budget_s, show
        )
    allowed = OBJECTIVE.miss if miss is None else miss
    rows = [sample.row for sample in samples]
    heads, streams = stream_columns([row.stream for row in rows])
    cells = [level_cells(sample) + stream for sample, stream in zip(samples, streams, strict=True)]
    verdicts = [verdict_text(sample, allowed) for sample in samples]
    print(with_texts(text_table([*COLUMNS, *heads], cells), "verdict", verdicts))
    said = [claim.plain for claim in unexpected_streams(requests.bodies.contents, rows)]
    if (first_ms or piece_ms) and not said and not any(row.stream for row in rows):
        said.append("The answers do not stream: the first piece of each is the whole answer.")
    print_wrapped("\n".join(said))
    if out is not None:
        write_rows(out, TurnRow, rows)
    kept = all(not row.void and (row.missed or 0.0) <= allowed for row in rows)
    return 0 if kept else 1


def level_cells(sample: Sample) -> list[str]:
    """A level as a row under COLUMNS."""
    row = sample.row
    return [
        str(row.users) if row.offered_rps is None else f"{row.offered_rps:.6g}/s",
        rate_cell(row.rate_rps),
        "-" if row.low_rps is None else f"{rate_cell(row.low_rps)} to {rate_cell(row.high_rps)}",
        *(number_cell(ms, 1) for ms in (row.p50_ms, row.p95_ms, row.p99_ms)),
        *map(str, (row.sent, row.sent - row.failed - row.timed_out, row.failed, row.timed_out)),
        f"{sample.requests.cores:.0%}",
    ]


def verdict_text(sample: Sample, miss: float) -> str:
    """Whether a level is valid, and keeps to the objective, which the share ``miss`` of requests may miss."""
    row = sample.row
    verdict = f"not valid: {row.void}" if row.void else "valid"
    return "; ".join(filter(None, (verdict, _objective_text(sample, miss), row.warnings)))


def _objective_text(sample: Sample, miss: float) -> str:
    record, missed, limits = sample.requests, sample.row.missed, sample.turn.limits
    if limits is None:  # an open loop may then be valid with any latency
        return "" if record.rate_rps is None else "no objective given (--slo-ms, --first-ms)"
    if missed is None:
        return ""
    opened, closed = record.window
    good_rps = float((record.in_window & ~limits.missed(record)).sum()) / (closed - opened)
    good = f"{significant(good_rps)} req/s {limits.text}"
    if missed <= miss:
        return good
    late = f"{100 * missed:.3g}% failed or took longer, allowed: {100 * miss:.4g}%"
    return f"objective missed: {late}; {good}"


def capacity(
    server: str | None = None,
    /,
    *,
    requests: Requests = REQUESTS,
    objective: ObjectiveOptions = OBJECTIVE,
    traffic: Traffic = TRAFFIC,
    seconds: Positive = OBJECTIVE.max_s,
    out: Path | None = None,
    picture: Path | None = None,
) -> int:
    """Search the highest rate at which a server keeps to an objective.

    With --trace, it is the mean rate at which the trace is played. The exit status is 0 if it is resolved or
    the objective held at all rates, else 1.

    Args:
        server: to start for the search: FILE.py, module:Class or a command with {port}; else --url names one
        seconds: in all
        out: a CSV file for the loads and their figures
        picture: a PNG file for a picture of the probes and the capacity
    """
    from litmeter.report.charts import capacity as chart
    from litmeter.report.charts import save_png
    from litmeter.report.claims import disturbances
    from litmeter.report.tables import capacity_text

    def cells(row: TurnRow) -> list[str]:
        load = f"{row.offered_rps:.1f}/s" if row.offered_rps else pluralise(row.users or 0, "user")
        figures = (row.rate_rps, row.p50_ms, row.p95_ms, row.p99_ms)
        missed = "-" if row.missed is None else f"{row.missed:.1%}"
        remark = f"void: {row.void}" if row.void and row.offered_rps else "-"
        return [load, *(number_cell(figure, 1) for figure in figures), missed, remark]

    check_together(traffic.given(), TRAFFIC_RULES)
    trace = traffic.recorded(requests, objective.seed)
    pieces = {"first_ms", "piece_ms"} & objective.model_fields_set
    whole = {"slo_ms": None} if pieces and "slo_ms" not in objective.model_fields_set else {}
    objective = objective.model_copy(update={"max_s": seconds, **whole})
    check_outputs(out=out, picture=picture)
    with requests.server(server) as subjects, progress(seconds, "capacity") as show:
        [name] = subjects
        schedule = search([name], objective, requests.timeout_s, traffic.shape, trace)
        found = run(schedule, subjects, Log(), seconds, show)[name]
    more, streams = stream_columns([row.stream for row in found.rows])
    heads = ["load", "answers/s", "p50 ms", "p95 ms", "p99 ms", "missed", "remark", *more]
    lines = [cells(row) + stream for row, stream in zip(found.rows, streams, strict=True)]
    print(text_table(*without_empty(heads, lines)))
    if out is not None:
        write_rows(out, TurnRow, found.rows)
    if picture is not None:
        save_png(picture, chart({name: found}))
    options = capacity_text(found.metrics)
    options = options.replace("objective.max_s", "--seconds").replace("objective.tolerance", "--tolerance")
    times = "" if trace is None else times_text(found.metrics, trace.rate_rps)
    said = [f"{name} {options}", times, *(claim.plain for claim in disturbances(found.rows))]
    print_wrapped("\n".join(filter(None, said)))
    return 0 if found.metrics.status in ("resolved", "above_range") else 1


def times_text(metrics: CapacityMetrics, rate_rps: float) -> str:
    """A capacity as a multiple of the mean rate of a trace; empty where it is not known."""
    if (known_rps := metrics.capacity_rps or metrics.low_rps) is None:
        return ""
    interval = ""
    if metrics.low_rps is not None and metrics.high_rps is not None:
        low, high = (significant(end / rate_rps) for end in (metrics.low_rps, metrics.high_rps))
        interval = f" ({low} to {high})"
    times = f"{significant(known_rps / rate_rps)} times the trace{interval}"
    return f"{times}, whose mean is {rate_rps:.1f} a second"
