"""Results of a search: the winner, a row per configuration that raced, and what each knob is worth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from litmeter.measure.capacity import CapacityMetrics
from litmeter.system.files import Record

Status = Literal["winner", "equal", "not resolved", "slower", "excluded"]


class TuneMetrics(Record):
    """The winner of a search, and what was searched: metrics/tune.json.

    Attributes:
        goal, users: as in the section ``tune`` of params.yaml.
        winner: the values of the kind's knobs, by key.
        rate_rps, over_serve, p95_ms, memory_mib, agreement: of the winner, as in its TuneRow.
        capacity: of the winner, by goal capacity.
        equal, not_resolved, raced: numbers of configurations; ``raced`` counts all.
        combinations: number of combinations of knobs, those that were left out among them.
        settled: whether the search ended before its time did.
        fresh_rounds: of the winner and ``serve`` alone, after it was chosen: the winner's rate and ratio to
            ``serve`` are of these, or, where there are none, of the rounds that chose it.
        machine, environment: of metrics/machine.json, see ``system.machine.recorded_machine``.
        weights_sha256: digest of the served model; None for a model that litmeter does not know.
        left_out: number of combinations that did not race, by reason.
    """

    goal: Literal["throughput", "capacity"]
    users: int
    winner: Mapping[str, Any]
    rate_rps: float | None
    over_serve: float | None
    over_serve_low: float | None
    over_serve_high: float | None
    p95_ms: float | None
    memory_mib: float | None
    agreement: float | None
    capacity: CapacityMetrics | None
    equal: int
    not_resolved: int
    combinations: int
    raced: int
    rounds: int
    settled: bool
    fresh_rounds: int = 0
    seconds: int
    machine: str
    environment: str
    measured_at: str
    weights_sha256: str | None
    left_out: Mapping[str, int]


@dataclass(frozen=True)
class TuneRow:
    """A configuration that raced, in plots/tune.csv.

    Attributes:
        status: "winner"; "equal" to the fastest, where the whole interval lies within 3%; "not resolved"
            from it; "slower"; or "excluded" by a constraint. By goal capacity, finalists are "equal" to the
            winner where the intervals of their capacities overlap, else "slower".
        incumbent: whether it is the section ``serve``.
        rate_rps, p95_ms: geometric mean over its rounds (see TuneMetrics.fresh_rounds); p95 of all its
            answers, None where too few came.
        ratio, over_serve: its rate over the fastest one's, and over that of ``serve``, in rounds of both,
            each with its 95% interval (not simultaneous).
        agreement: share of the photos that the model was not fitted to, with the label of full precision;
            None where that is not known.
        failed: requests that were refused, failed or timed out.
        eliminated_after_rounds: rounds of the race after which it was eliminated; None where it was not. A
            configuration that left early looks some 4% slower than it is: it left where it was unlucky.
        reason: of "excluded".
        knobs: the values of the kind's knobs, by key, a column each; texts of a file.
    """

    name: str
    status: str
    incumbent: bool
    rate_rps: float | None
    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None
    over_serve: float | None
    over_serve_low: float | None
    over_serve_high: float | None
    p95_ms: float | None
    memory_mib: float | None
    agreement: float | None
    failed: int
    rounds: int
    capacity_rps: float | None
    capacity_low_rps: float | None
    capacity_high_rps: float | None
    reason: str
    eliminated_after_rounds: int | None = None
    knobs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class KnobRow:
    """What another value of one knob was worth at the winner, in plots/tune_knobs.csv.

    Attributes:
        knob: a key of ``serve:``; workers and threads go together, as "2x1".
        value: of the knob; all others are the winner's.
        ratio: of its rate to the winner's, with its 95% interval.
    """

    knob: str
    value: str
    ratio: float
    ratio_low: float | None
    ratio_high: float | None
