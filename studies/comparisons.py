"""How far a comparison can be trusted: ``python -m studies.comparisons`` and a study's name.

``known_ratio`` compares stub servers of known speeds, while all of them become slower and faster again.
``streams`` compares those that stream, some equally fast and some slower, twenty times. ``short_queue``
compares turns of Python's own server, which drops some of the connections that are opened at once, with
longer loads. ``twins`` compares three servers of the candidate and the reference, ten times. ``runs`` repeats
`dvc repro --force` five times, in a clone, as it replaces results; further arguments are those of
`dvc repro`.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import asdict, replace
from itertools import combinations
from time import monotonic
from typing import Any

import numpy as np

from litmeter.kinds.command import Command
from litmeter.load import load_generator
from litmeter.load.stub import BODY, running_stub
from litmeter.measure.comparison_rows import pairs
from litmeter.measure.log import Log
from litmeter.measure.rounds import head_to_head, turn_plan
from litmeter.measure.rows import ComparisonRow
from litmeter.measure.run import run
from litmeter.measure.subjects import Served, Target
from litmeter.measure.turn import Schedule, Turn, make_ready, measure
from litmeter.params import load_params
from litmeter.paths import COMPARISON
from litmeter.stats.ratios import Ratio, ranks, ratio, ratios, simultaneous
from litmeter.system.files import digest, read_rows
from litmeter.system.machine import exclusive_machine, fingerprint
from studies.harness import (
    DEVICE,
    SERVER,
    TIMEOUT_S,
    Case,
    check_answered,
    compare_cases,
    keep_runs,
    rates,
    start,
    summary,
    write_result,
)
from studies.harness import ratios as harness_ratios

TIMES = {"reference": 1.0, "5% slower": 1.05, "20% slower": 1.2}
SERVICE_S, SLOTS, SLOW_EVERY_S, SECONDS = 0.02, 2, 20.0, 330.0
USERS = 8
STREAMED = {"reference": 1.0, "equal": 1.0, "5% slower": 1.05}
STREAM_RUNS, FIRST_S, PIECE_S, PIECES = 20, 0.05, 0.005, 20
PAIRS, LOAD_S = 12, 5.0
PYTHONS = """
import sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(0.01)
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_):
        pass

ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
"""A server of threads; it writes head and body apart, which takes 40 ms more (Nagle)."""
TWIN_RUNS, TWIN_SECONDS = 10, 90.0
TWINS = ("twin 1", "twin 2", "twin 3")
WHOLE_RUNS = 5


def known_ratio() -> None:
    """Compare stubs for SECONDS; keep and print the ratios with their intervals."""
    log = Log()
    with exclusive_machine(), ExitStack() as stack, load_generator([BODY], "application/json") as generator:
        subjects = {}
        for name, factor in TIMES.items():
            stub = stack.enter_context(running_stub(SERVICE_S * factor, SLOTS, slow_every_s=SLOW_EVERY_S))
            subjects[name] = Target(stub.url, generator)
        run(head_to_head(list(TIMES), USERS, SECONDS, seed=0, timeout_s=TIMEOUT_S), subjects, log, SECONDS)
    by_round = {name: rates([row for row in log.rows if row.subject == name]) for name in TIMES}
    measured, rank_of = ratios(by_round, "reference"), ranks(by_round, "reference")
    found = {
        name: {"truth": round(1 / factor, 4), **rounded(measured[name]), "rank": rank_of[name]}
        for name, factor in TIMES.items()
    }
    write_result("known_ratio", {"ratios": found, "rounds": len(by_round["reference"])})
    print(*found.items(), sep="\n")


def rounded(own: Ratio) -> dict[str, float]:
    """A ratio with its interval."""
    return {"ratio": round(own.ratio, 4), "low": round(own.low or 0, 4), "high": round(own.high or 0, 4)}


def streams() -> None:
    """Compare stubs that stream STREAM_RUNS times; say how many intervals hold the true ratio."""

    def compared(number: int) -> dict[str, Any]:
        log = Log()
        with ExitStack() as stack, load_generator([BODY], "application/json") as generator:
            subjects = {}
            for place, (name, times) in enumerate(STREAMED.items()):
                pieces = {"pieces": PIECES, "piece_s": PIECE_S * times}
                random = 1 + number * len(STREAMED) + place
                stub = running_stub(FIRST_S * times, USERS, random=random, **pieces)
                subjects[name] = Target(stack.enter_context(stub).url, generator)
            schedule = head_to_head(list(STREAMED), USERS, 1.0, seed=number, timeout_s=TIMEOUT_S)
            run(schedule, subjects, log, 1.0)
        measured = pairs(list(STREAMED), "reference", log.rows, log.first_ms())
        return {f"{one.name} / {one.other}": asdict(one) for one in measured}

    found = keep_runs("streams", STREAM_RUNS, compared)
    for pair, one in found[0].items():
        times = STREAMED[one["name"]] / STREAMED[one["other"]]
        own = [each[pair] for each in found]
        for what, truth, low, high in (
            ("bytes/s", 1 / times, "low", "high"),
            ("TTFT p95", times, "p95_low", "p95_high"),
        ):
            known = [each for each in own if each[low] is not None]
            hold = sum(each[low] <= truth <= each[high] for each in known)
            resolved = sum(not each[low] <= 1 <= each[high] for each in known)
            print(
                f"{pair}, {what}: {hold} of {len(known)} intervals hold the true "
                f"{truth:.3f}, {resolved} find a difference"
            )


def short_queue() -> None:
    """Serve PYTHONS by a command; keep and print each turn's rate over that of a longer load beside it."""
    short = turn_plan(USERS, TIMEOUT_S, 0, 0)
    plans = {"turn": short, "load": replace(short, give_up_s=None, min_s=LOAD_S, max_s=LOAD_S)}

    def in_turn() -> Schedule[dict[str, list[float]]]:
        yield from make_ready([SERVER])
        rates_of: dict[str, list[float]] = {name: [] for name in plans}
        for number in range(PAIRS):
            for name in list(plans)[:: -1 if number % 2 else 1]:
                sample = yield from measure(Turn(SERVER, replace(plans[name], repeat=number), number))
                check_answered([sample.row])
                rates_of[name] += rates([sample.row])
        return rates_of

    words = shlex.join([sys.executable, "-c", PYTHONS]) + " {port}"
    with exclusive_machine(), load_generator([BODY], "application/json") as generator:
        subject = Served(SERVER, Command(command=words), generator, DEVICE, TIMEOUT_S)
        found = run(in_turn(), {SERVER: subject}, Log(), PAIRS * LOAD_S)
    ratio_of = summary(harness_ratios(found["turn"], found["load"]))
    write_result("short_queue", {"turn over load": ratio_of, "rates": found})
    print(ratio_of)


def twins() -> None:
    """Compare equals TWIN_RUNS times, and say how many comparisons found a difference."""
    params = load_params()
    cases = {twin: Case(params.serve) for twin in TWINS}
    cases |= {"reference": Case(params.configuration(params.comparison.reference))}
    error = simultaneous(len(list(combinations(cases, 2))))

    def compared(_: int) -> dict[str, Any]:
        turns = compare_cases(cases, [USERS], TWIN_SECONDS)[USERS]
        by_round = {name: rates(rows) for name, rows in turns.items()}
        found = [ratio(by_round, name, other, other, error) for other, name in combinations(TWINS, 2)]
        return {
            "ratios": [list(rounded(one).values()) for one in found],
            "resolved": any(one.resolved for one in found),
            "rates": by_round,
        }

    found = keep_runs("twins", TWIN_RUNS, compared, seconds=TWIN_SECONDS)
    print(f"{sum(one['resolved'] for one in found)} of {len(found)} found a difference between equals")


def runs(*arguments: str) -> None:
    """Run the pipeline WHOLE_RUNS times, and print how well the ratios agree.

    Each ``comparison.seconds`` and each machine, by all of its fingerprint, has a result of its own.
    """

    def compared(_: int) -> dict[str, Any]:
        began = monotonic()
        subprocess.run([sys.executable, "-m", "dvc", "repro", "--force", *arguments], check=True)
        found = {}
        for row in read_rows(COMPARISON, ComparisonRow):
            interval = {"low": row.ratio_low, "high": row.ratio_high, "rounds": row.rounds}
            found[row.experiment] = {"rate_rps": row.rate_rps, "ratio": row.ratio, **interval}
        return {"seconds": round(monotonic() - began), "compared": found}

    name = f"comparisons_{load_params().comparison.seconds:.0f}_{digest(json.dumps(fingerprint()).encode())}"
    found = keep_runs(name, WHOLE_RUNS, compared)
    for name in found[0]["compared"]:
        own = [one["compared"][name] for one in found]
        if any(one["low"] is None for one in own):
            continue
        measured = [one["ratio"] for one in own]
        agreeing = [a["low"] <= b["high"] and b["low"] <= a["high"] for a, b in combinations(own, 2)]
        widths = [(one["high"] - one["low"]) / one["ratio"] for one in own]
        print(
            f"{name}: ratios {min(measured):.2f} to {max(measured):.2f} "
            f"(CV {np.std(measured, ddof=1) / np.mean(measured):.1%}), intervals {min(widths):.2f} to "
            f"{max(widths):.2f} of the ratio wide, {sum(agreeing)} of {len(agreeing)} pairs overlap"
        )


if __name__ == "__main__":
    start(__doc__, known_ratio, streams, short_queue, twins, runs)
