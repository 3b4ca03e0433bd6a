"""The project's answer in three sentences, what to try next, and a finding per configuration."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from litmeter.benchmark.capacity import CapacityMetrics
from litmeter.benchmark.rows import ComparisonRow
from litmeter.inference.precision_rows import TEST
from litmeter.params import CANDIDATE, ServeSettings
from litmeter.report.bounds import DATASHEET, MODEL, PIPELINE, ROOFLINE, SERVED, TRANSPORT, Bound
from litmeter.report.capacity import EXAMPLE_RPS, SPARE_MACHINES, machines_needed
from litmeter.report.losses import Diagnosis, Loss
from litmeter.report.results import Result
from litmeter.report.served_causes import other_load
from litmeter.report.snapshot import Snapshot
from litmeter.report.tune import Tuned
from litmeter.stats.capacity import mostly_unsteady
from litmeter.system.tables import pluralise
from litmeter.tune.rows import TuneRow, ratio_cell

MOST_WORDS = 25
"""Of a sentence here."""
MOST_KEYS = 2
"""Named in a sentence."""
LOSSES = {
    ROOFLINE: "the roofline measured here is",
    MODEL: "the model alone reaches",
    PIPELINE: "the pipeline reaches",
    TRANSPORT: "transport leaves",
    SERVED: "served are",
}
OWNERS = {
    DATASHEET: "the datasheet's",
    ROOFLINE: "the roofline's",
    MODEL: "the model's",
    PIPELINE: "the pipeline's",
    TRANSPORT: "the possible",
}
"""How sentences call the lower and the upper bound of a loss."""


def answer(snapshot: Snapshot) -> list[str]:
    """Which configuration is fastest, what limits it, and how much traffic is taken."""
    leaders = leading(snapshot.compared)
    if not leaders:
        return ["No configuration could be compared: the reference answered nothing."]
    fastest = leaders[0].experiment
    others = any((row.rank or 1) > 1 for row in snapshot.compared)
    return [
        fastest_sentence(leaders, snapshot.reference, others, len(snapshot.compared)),
        f"What limits {finding(fastest, snapshot)}",
        traffic_sentence(fastest, snapshot),
    ]


def leading(rows: Sequence[ComparisonRow]) -> list[ComparisonRow]:
    """Those of rank 1, the highest ratio first."""
    return sorted((row for row in rows if row.rank == 1), key=lambda row: -(row.ratio or 0.0))


def fastest_sentence(leaders: Sequence[ComparisonRow], reference: str, others: bool, compared: int) -> str:
    """Who is fastest, how much faster than the reference, and how sure.

    Args:
        others: whether any was ranked behind them, which their ranks are certain of.
        compared: how many were compared.
    """
    first, *tied = leaders
    rate = f"{first.rate_rps:,.1f} requests/s from {pluralise(first.users, 'user')}"
    if first.experiment != reference:
        rate += f", {ratio_cell(first.ratio, first.ratio_low, first.ratio_high)} times `{reference}`"
    if tied:
        more = f"`{tied[0].experiment}`" if len(tied) == 1 else f"{len(tied)} others"
        return f"`{first.experiment}` does {rate}; whether it or {more} is fastest is not resolved."
    certainty = ", with 95% certainty" if others else ""
    return f"Of {compared} configurations `{first.experiment}` is fastest{certainty}: {rate}."


def terms(snapshot: Snapshot) -> str:
    """What the names stand for that every reader meets, and what the fastest one costs."""
    text = (
        f"Ratios are taken to `{snapshot.reference}`. `{CANDIDATE}` is the section `serve:` of params.yaml, "
        "which `litmeter serve` starts."
    )
    lead = snapshot.lead
    if lead is not None:
        times = ratio_cell(lead.ratio.ratio, lead.ratio.low, lead.ratio.high)
        text = f"`{lead.fastest}` serves {times} times the rate of the second, `{lead.second}`. {text}"
    leaders = leading(snapshot.compared)
    if not leaders or leaders[0].p95_ms is None:
        return text
    metrics = next(one.metrics for one in snapshot.results if one.name == leaders[0].experiment)
    return (
        f"{text} `{leaders[0].experiment}` is ready {metrics['ready_s']:.1f} s after its start, takes "
        f"{metrics['memory_mib']:,.0f} MiB, and answers 95% of the requests of "
        f"{pluralise(leaders[0].users, 'user')} within {leaders[0].p95_ms:.0f} ms."
    )


def finding(name: str, snapshot: Snapshot) -> str:
    """What limits a configuration: its cause, and the loss that it explains."""
    diagnosis, bounds = snapshot.explanation.diagnoses[name], snapshot.explanation.bounds[name]
    loss = explained_loss(diagnosis, bounds)
    best = next(one.best for one in snapshot.results if one.name == name)
    doubt = "" if best is None or best.valid else "; its best level is not valid"
    load = None if best is None or "other load" in diagnosis.cause else other_load(best)
    doubt += f"; {load} meanwhile" if load else ""
    return f"`{name}`: {diagnosis.cause}" + ("" if loss is None else f"; {loss_text(loss)}") + f"{doubt}."


def cause_cell(result: Result, snapshot: Snapshot) -> str:
    """What holds a configuration back, marked if its best level is not valid."""
    doubt = " (not valid)" if result.best and not result.best.valid else ""
    return snapshot.explanation.diagnoses[result.name].cause + doubt


def explained_loss(diagnosis: Diagnosis, bounds: Sequence[Bound]) -> Loss | None:
    """The loss that the first cause explains; None where none is resolved."""
    losses = itertools.starmap(Loss, itertools.pairwise(bounds))
    return next((loss for loss in losses if loss.share == diagnosis.share), None)


def loss_text(loss: Loss) -> str:
    """A loss in words, as "the model alone reaches 61.0 of the roofline's 270 images/s (23%)"."""
    low, high = rate_text(loss.lower.rate_rps), rate_text(loss.upper.rate_rps)
    return f"{LOSSES[loss.lower.name]} {low} of {OWNERS[loss.upper.name]} {high} images/s ({loss.share:.0%})"


def rate_text(rate_rps: float) -> str:
    """A rate with a decimal below a hundred."""
    return f"{rate_rps:,.0f}" if rate_rps >= 100 else f"{rate_rps:.1f}"


def traffic_sentence(name: str, snapshot: Snapshot) -> str:
    """How many requests at random times the fastest takes, or else the candidate, or the search's winner."""
    if snapshot.label:
        return "Capacities and searches are shown of the present tree only."
    measured = snapshot.capacities
    known = next((one for one in (name, CANDIDATE) if one in measured), None)
    if known is not None:
        return capacity_finding(known, measured[known].metrics)
    tuned, objective = snapshot.tuned, snapshot.params.objective
    takes = None if tuned is None else capacity_text(tuned.metrics)
    if takes is not None:
        share = f"{100 * (1 - objective.miss):.4g}% within {objective.slo_ms:g} ms"
        return f"With random arrivals, {share}, the search's winner takes {takes}."
    return f"How much traffic `{name}` can take is not measured: `make capacity`."


def capacity_text(metrics: Mapping[str, Any]) -> str | None:
    """A capacity of metrics/tune.json with what is known of it; None where nothing is."""
    rate, low, high = (metrics[f"capacity_{key}rps"] for key in ("", "low_", "high_"))
    if low is None:
        return None
    if rate is None:
        return f"at least {rate_text(low)} requests/s"
    doubt = "" if metrics["capacity_status"] == "resolved" else ", not resolved"
    return f"{rate_text(rate)} requests/s ({rate_text(low)} to {rate_text(high)}){doubt}"


def capacity_finding(name: str, metrics: CapacityMetrics) -> str:
    """The capacity in a sentence."""
    objective = f"{100 * (1 - metrics.miss):.4g}% within {metrics.slo_ms:g} ms"
    if metrics.status == "slo_unreachable":
        return f"`{name}` cannot keep {objective} at any rate."
    if metrics.status == "above_range" and metrics.low_rps is not None:
        return f"`{name}` takes at least {rate_text(metrics.low_rps)} requests/s with {objective}."
    if metrics.capacity_rps is None or metrics.low_rps is None or metrics.high_rps is None:
        return f"The rate at which `{name}` keeps {objective} is not resolved."
    low, high = rate_text(metrics.low_rps), rate_text(metrics.high_rps)
    rest = f", not resolved: {metrics.reason}"
    if mostly_unsteady(metrics.unsteady, metrics.probes):
        rest = f", not resolved: in {metrics.unsteady} of {metrics.probes} probes the machine was slow"
    if metrics.status == "resolved":
        needed = machines_needed(metrics, EXAMPLE_RPS)
        rest = f"; {EXAMPLE_RPS:,.0f} need {needed} machines, {SPARE_MACHINES} of them spare"
    return (
        f"With random arrivals `{name}` takes {rate_text(metrics.capacity_rps)} requests/s "
        f"({low} to {high}), {objective}{rest}."
    )


def next_step(snapshot: Snapshot) -> str | None:
    """What to try next: the search's winner where it is faster than the candidate, a search, or a key.

    None for a revision, of which it is not known whether anything was searched.
    """
    if snapshot.label:
        return None
    if snapshot.tuned is not None:
        return tuned_finding(snapshot.tuned, snapshot.params.serve)
    diagnosis = snapshot.explanation.diagnoses[CANDIDATE]
    key = f", or `serve.{diagnosis.parameter}`" if diagnosis.parameter else ""
    return f"Try next: `make tune`, which searches for a faster `serve:` and is not tried yet{key}."


def tuned_finding(tuned: Tuned, serve: ServeSettings) -> str:
    """What the search has found, and whether ``serve`` has it already."""
    winner = tuned.rows[0]
    present = serve.model_dump()
    if all(present[key] == value for key, value in tuned.metrics["winner"].items()):
        return f"`serve:` is what the search found: `{winner.name}`."
    if winner.incumbent:
        return "The search found nothing faster than the candidate as it was."
    keys = changed_keys(tuned.metrics["winner"], present)
    advice = f"Try next: `litmeter tune --apply`, which sets {keys}"
    takes = capacity_text(tuned.metrics)
    if tuned.metrics["goal"] == "capacity" and takes is not None:
        return f"{advice}: with random arrivals it takes {takes}."
    gain = ratio_cell(winner.over_serve, winner.over_serve_low, winner.over_serve_high)
    if winner.over_serve_low is None or winner.over_serve_low <= 1:
        return f"The search found `{winner.name}`, {gain} times the candidate: not resolved."
    return f"{advice}, for {gain} times the candidate's rate."


def changed_keys(winner: Mapping[str, Any], present: Mapping[str, Any]) -> str:
    """The keys of ``serve:`` that ``winner`` has other values for, or how many where they are many."""
    changed = [
        f"`{key}: {json.dumps(value).strip(chr(34))}`"
        for key, value in winner.items()
        if present[key] != value
    ]
    return " and ".join(changed) if len(changed) <= MOST_KEYS else f"{len(changed)} keys of `serve:`"


def agreement_bound(snapshot: Snapshot, winner: TuneRow) -> float | None:
    """With 95% certainty no smaller share of such photos has the same label; None where nobody looked."""
    same = (winner.precision, winner.preprocess, TEST)
    rows = [row for row in snapshot.changes if (row.precision, row.preprocess, row.split) == same]
    return rows[0].agreement_low if rows else None


def tuned_price(snapshot: Snapshot) -> str | None:
    """What the search's winner costs, and how it compares with the fastest here; None where none won."""
    tuned, leaders = snapshot.tuned, leading(snapshot.compared)
    if tuned is None or tuned.rows[0].incumbent or not leaders:
        return None
    winner, fastest = tuned.rows[0], leaders[0].experiment
    bound = agreement_bound(snapshot, winner)
    surely = "" if bound is None else f" (with 95% certainty at least {bound:.1%})"
    text = f"The winner gives {winner.agreement:.1%}{surely} of test photos full precision's label"
    serve = snapshot.params.configuration(fastest).model_dump()
    keys = tuned.metrics["winner"]
    raced = next(
        (row for row in tuned.rows[1:] if all(serve[key] == getattr(row, key) for key in keys)), None
    )
    if raced is None or not raced.ratio or not winner.ratio or fastest == CANDIDATE:
        return f"{text}."
    times = f"about {winner.ratio / raced.ratio:.2f}"
    if winner.ratio == 1:  # ratios and their intervals are over whichever was fastest in the search
        low, high = (None if end is None else 1 / end for end in (raced.ratio_high, raced.ratio_low))
        times = ratio_cell(1 / raced.ratio, low, high)
    return f"{text}, at {times} times the rate of `{fastest}` in the same search."
