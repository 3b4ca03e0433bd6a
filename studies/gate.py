"""How often `litmeter check` is right: ``python -m studies.gate resampled`` or ``live``.

``resampled`` records an hour of twins and one of slowed stubs, and draws checks from each. ``live`` makes 25
checks of two revisions.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import compress, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from litmeter.kinds.command import Command
from litmeter.load import LoadGenerator, load_generator
from litmeter.load.stub import BODY
from litmeter.measure.comparison_rows import rates_of
from litmeter.measure.log import Log
from litmeter.measure.rounds import RESTARTED_PACE, restarted
from litmeter.measure.run import run as measure
from litmeter.measure.subjects import Served
from litmeter.say.tables import markdown_table
from litmeter.stats.gate import OPEN, P95_ERROR, PASSED, SLOWER, exit_status, verdict
from litmeter.stats.ratios import percentile_ratio, ratio
from litmeter.stats.records import Floats
from litmeter.system.machine import exclusive_machine
from studies.harness import (
    DEVICE,
    TIMEOUT_S,
    check_answered,
    configuration,
    keep_runs,
    sender,
    start,
    write_result,
)

RECORDS = Path("samples/gate")
RUNS, RUN_S, USERS, MARGIN = 20, 180.0, 8, 0.05
BLOCK_S = RESTARTED_PACE.block_s
PAIR_S = 2 * BLOCK_S
PAIRS = round(RUN_S / PAIR_S)
"""Of blocks in a run: with starts of a few seconds, blocks have the planned length."""
SAMPLES, MINUTES = 500, (3, 6, 12)
TRUTHS = {"equal": 1.0, "1.10 slower": 1 / 1.1, "at the margin": 1 - MARGIN}
CASES = ("twins", "slowed")
OLD, NEW = "old", "new"
SERVICE_S, SLOTS, SLOW_EVERY_S = 0.01, 2, 20.0
LIVE = {**dict.fromkeys(range(10), "equal"), **dict.fromkeys(range(10, 20), "1.10 slower")}
LIVE |= dict.fromkeys(range(20, 25), "equal, slowed")
LIVE_S = 180


def stub_settings(service_s: float, slow_every_s: float) -> str:
    """What the stub takes on its command line."""
    return json.dumps([service_s, SLOTS, 200, False, slow_every_s, False])


@dataclass(frozen=True)
class Round:
    """A round of twins: their rates, and the latencies of their answers in milliseconds.

    ``block`` is 0 or 1 by turns: the other one begins where both were started anew.
    """

    block: int
    rates: Floats  # shape (2,)
    latencies_ms: tuple[Floats, Floats]


def recorded(case: str) -> list[list[Round]]:
    """An hour of checks of twins, one after another, those that were made before read from files.

    Return the rounds of each pair of starts, in which each twin starts first once.
    """
    pairs: list[list[Round]] = []
    for number in range(RUNS):
        if not (path := RECORDS / f"{case}_{number}.npz").exists():
            record_run(case, number, path)
        with np.load(path) as kept:
            turns = np.split(kept["latencies_ms"], np.cumsum(kept["answers"])[:-1])
            both = zip(turns[::2], turns[1::2], strict=True)
            block_of = (kept["at_s"] / BLOCK_S).astype(int).clip(max=2 * PAIRS - 1)
            rounds = [Round(*one) for one in zip(block_of % 2, kept["rates"], both, strict=True)]
            pair_of = block_of // 2
        pairs += [list(compress(rounds, pair_of == pair)) for pair in range(PAIRS)]
    return pairs


def record_run(case: str, number: int, path: Path) -> None:
    """Keep one check of twins: the candidate's, or stubs that are slow every other SLOW_EVERY_S."""
    settings, log = configuration("candidate"), Log()
    generator: Callable[[], AbstractContextManager[LoadGenerator]] = partial(sender, "image")
    if case != "twins":
        words = [sys.executable, "-m", "litmeter.load.stub", stub_settings(SERVICE_S, SLOW_EVERY_S)]
        settings = Command(command=f"{shlex.join(words)} {{port}}")
        generator = partial(load_generator, [BODY], "application/json")
    with exclusive_machine(), generator() as sending:
        subjects = {name: Served(name, settings, sending, DEVICE, TIMEOUT_S) for name in (OLD, NEW)}
        measure(restarted((OLD, NEW), USERS, RUN_S, number, TIMEOUT_S), subjects, log, RUN_S)
    check_answered(log.rows)
    by_name = rates_of(log.rows, [OLD, NEW])
    latencies_ms = log.latencies_ms()
    turns = sorted(log.rows, key=lambda row: (row.round, row.subject != OLD))
    of_turns = [latencies_ms[row.turn] for row in turns]
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        path,
        at_s=np.array([row.at_s for row in turns[::2]]),
        rates=np.array([by_name[OLD], by_name[NEW]], dtype=float).T,
        latencies_ms=np.concatenate(of_turns).round(2),
        answers=np.array([len(one) for one in of_turns]),
    )
    print(f"{case}: run {number + 1} of {RUNS}, {len(by_name[OLD])} rounds", flush=True)


def judged(rounds: Sequence[Round], old: Sequence[int], truth: float) -> int:
    """Exit status of a check of these rounds.

    Args:
        old: in each round, which of both is the old one; the other's rate is multiplied by ``truth``.
    """
    rates: dict[str, list[float]] = {OLD: [], NEW: []}
    latencies: dict[str, dict[int, Floats]] = {OLD: {}, NEW: {}}
    for number, (one, place) in enumerate(zip(rounds, old, strict=True)):
        rates[OLD].append(one.rates[place])
        rates[NEW].append(truth * one.rates[1 - place])
        latencies[OLD][number] = one.latencies_ms[place]
        latencies[NEW][number] = one.latencies_ms[1 - place] / truth
    new = (number for number, (one, then) in enumerate(pairwise(rounds), 1) if one.block != then.block)
    starts = [0, *new]
    p95 = percentile_ratio(latencies[OLD], latencies[NEW], 95, P95_ERROR, starts)
    return exit_status(verdict(ratio(rates, NEW, OLD, OLD, starts=starts), MARGIN), verdict(p95, MARGIN))


def drawn(pairs: Sequence[Sequence[Round]], minutes: int, truth: float, rng: np.random.Generator) -> int:
    """As a check of successive pairs of blocks, in each of which either twin is the old one, by chance."""
    count = round(60 * minutes / PAIR_S)
    chosen = [pairs[number % len(pairs)] for number in rng.integers(len(pairs)) + np.arange(count)]
    old = [place for pair in chosen for place in [int(rng.integers(2))] * len(pair)]
    return judged([one for pair in chosen for one in pair], old, truth)


def resampled() -> None:
    """Print and keep how often each status comes out, by true ratio and length."""
    rows = []
    status_of = {"not slower": PASSED, "slower": SLOWER, "open": OPEN}
    for case in CASES:
        pairs, rng = recorded(case), np.random.default_rng(1)
        for minutes in MINUTES:
            for name, truth in TRUTHS.items():
                counts = Counter(drawn(pairs, minutes, truth, rng) for _ in range(SAMPLES))
                found = {key: counts[status] / SAMPLES for key, status in status_of.items()}
                rows.append({"case": case, "minutes": minutes, "new is": name, **found})
    write_result("gate", {"runs": RUNS, "seconds": RUN_S, "samples": SAMPLES, "shares": rows})
    print(markdown_table(list(rows[0]), [[str(cell) for cell in row.values()] for row in rows], 3))


def check(number: int) -> dict[str, Any]:
    """A whole check of two revisions of a repository that has a stub's settings."""
    case = LIVE[number]
    slow_every_s = SLOW_EVERY_S if case == "equal, slowed" else 0.0
    with repository(slow_every_s, 1.1 if case == "1.10 slower" else 1.0) as folder:
        words = [sys.executable, "-m", "litmeter.cli.main", "check", "--against", "HEAD", "--json"]
        words += ["--command", "sh serve.sh {port}", "--body", "body.json", "--seconds", str(LIVE_S)]
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode not in (PASSED, SLOWER, OPEN):
        raise RuntimeError(done.stderr)
    found = json.loads(done.stdout)
    kept = {key: found[key] for key in ("rate", "p95", "new_over_old")}
    return {"case": case, "exit_status": done.returncode, **kept}


@contextmanager
def repository(slow_every_s: float, factor: float) -> Iterator[Path]:
    """A git repository with a commit, and a working tree whose stub takes ``factor`` times as long."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stub = f"{shlex.quote(sys.executable)} -m litmeter.load.stub"
        (folder / "serve.sh").write_text(f'exec {stub} "$(cat stub.json)" "$1"\n')
        (folder / "body.json").write_bytes(BODY)
        (folder / "stub.json").write_text(stub_settings(SERVICE_S, slow_every_s))
        identity = ["-c", "user.name=study", "-c", "user.email=study@example.org"]
        for words in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "old"]):
            subprocess.run(["git", *words], cwd=folder, check=True)
        (folder / "stub.json").write_text(stub_settings(factor * SERVICE_S, slow_every_s))
        yield folder


def live() -> None:
    """Check live; print how often each status came out."""
    runs = keep_runs("gate_live", len(LIVE), check, seconds=LIVE_S)
    counts = Counter((run["case"], run["exit_status"]) for run in runs)
    for (case, status), count in sorted(counts.items()):
        print(f"{case}: status {status} in {count}")


if __name__ == "__main__":
    start(__doc__, resampled, live)
