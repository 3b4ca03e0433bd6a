"""The project's answer in three sentences, what to try next, and a finding per configuration."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from servebench.benchmark.capacity_rows import CapacityMetrics
from servebench.benchmark.rows import ComparisonRow
from servebench.params import CANDIDATE
from servebench.report.bounds import MODEL, PIPELINE, ROOFLINE, SERVED, TRANSPORT, Bound
from servebench.report.losses import Diagnosis, Loss
from servebench.report.snapshot import Snapshot
from servebench.report.tune import Tuned
from servebench.system.tables import pluralise
from servebench.tune.rows import ratio_cell

MOST_WORDS = 25
"""Of a sentence here."""
SUBJECTS = {
    ROOFLINE: "the roofline",
    MODEL: "the model alone",
    PIPELINE: "decode and model",
    TRANSPORT: "with its transport the pipeline",
    SERVED: "the server",
}
"""How sentences call the bounds."""


def answer(snapshot: Snapshot) -> list[str]:
    """Which configuration is fastest, what limits it, and what it can take or what the search found."""
    leaders = leading(snapshot.compared)
    if not leaders:
        return ["No configuration could be compared: the reference answered nothing."]
    return [
        fastest_sentence(leaders, snapshot.reference),
        limit_sentence(leaders[0].experiment, snapshot),
        traffic_sentence(leaders[0].experiment, snapshot),
    ]


def leading(rows: Sequence[ComparisonRow]) -> list[ComparisonRow]:
    """Those of rank 1, the highest ratio first."""
    return sorted((row for row in rows if row.rank == 1), key=lambda row: -(row.ratio or 0.0))


def fastest_sentence(leaders: Sequence[ComparisonRow], reference: str) -> str:
    """Who is fastest, how much faster than the reference, and how sure."""
    first, *tied = leaders
    rate = f"{first.rate_rps:,.1f} requests/s from {pluralise(first.users, 'user')}"
    ratio = ""
    if first.experiment != reference:
        times = ratio_cell(first.ratio, first.ratio_low, first.ratio_high)
        ratio = f", {times} times `{reference}`"
    if not tied:
        certainty = ", with 95% certainty" if ratio and first.ratio_low else ""
        return f"`{first.experiment}` is fastest: {rate}{ratio}{certainty}."
    others = pluralise(len(tied), "other")
    return f"`{first.experiment}` does {rate}{ratio}; whether it or {others} is fastest is not resolved."


def limit_sentence(name: str, snapshot: Snapshot) -> str:
    """What limits a configuration: its cause, and the loss that it explains."""
    diagnosis, bounds = snapshot.explanation.diagnoses[name], snapshot.explanation.bounds[name]
    loss = explained_loss(diagnosis, bounds)
    if loss is None:
        return f"What limits `{name}`: {diagnosis.cause}."
    return f"What limits `{name}`: {diagnosis.cause}; {_kept(loss)}."


def explained_loss(diagnosis: Diagnosis, bounds: Sequence[Bound]) -> Loss | None:
    """The loss that the first cause explains; None where none is resolved."""
    losses = itertools.starmap(Loss, itertools.pairwise(bounds))
    return next((loss for loss in losses if loss.share == diagnosis.share), None)


def _kept(loss: Loss) -> str:
    rates = f"{loss.lower.rate_rps:,.0f} of {loss.upper.rate_rps:,.0f} images/s"
    return f"{SUBJECTS[loss.lower.name]} reaches {rates} ({loss.upper.name})"


def traffic_sentence(name: str, snapshot: Snapshot) -> str:
    """What the fastest, or else the candidate, can take of requests at random times."""
    measured = snapshot.capacities
    known = next((one for one in (name, CANDIDATE) if one in measured), None)
    if known is None:
        tuned = snapshot.tuned
        if tuned is not None and tuned.metrics["capacity"]:
            return f"The search's winner {tuned.metrics['capacity']}."
        return "How much traffic it can take is not measured: `make capacity`."
    return capacity_finding(known, measured[known].metrics)


def capacity_finding(name: str, metrics: CapacityMetrics) -> str:
    """The capacity in a sentence."""
    objective = f"{100 * (1 - metrics.miss):.4g}% within {metrics.slo_ms:g} ms"
    if metrics.status == "slo_unreachable":
        return f"`{name}` cannot keep {objective} at any rate."
    if metrics.status == "above_range":
        return f"`{name}` takes at least {metrics.low_rps:,.0f} requests/s with {objective}."
    if metrics.capacity_rps is None:
        return f"The rate at which `{name}` keeps {objective} is not resolved."
    doubt = "" if metrics.status == "resolved" else ", not resolved further"
    return (
        f"At random times `{name}` takes {metrics.capacity_rps:,.0f} requests/s ({metrics.low_rps:,.0f} to "
        f"{metrics.high_rps:,.0f}) with {objective}{doubt}."
    )


def next_step(snapshot: Snapshot) -> str:
    """What to try next: the search's winner where it is faster than the candidate, a search, or a key."""
    tuned = snapshot.tuned
    if tuned is not None:
        return tuned_finding(tuned)
    diagnosis = snapshot.explanation.diagnoses[CANDIDATE]
    key = f", or `serve.{diagnosis.parameter}`" if diagnosis.parameter else ""
    return f"Try next: `make tune`, which searches a faster `serve:` and is not tried yet{key}."


def tuned_finding(tuned: Tuned) -> str:
    """What the search has found."""
    winner = tuned.rows[0]
    gain = ratio_cell(winner.over_serve, winner.over_serve_low, winner.over_serve_high)
    if winner.incumbent:
        return "The search found nothing faster than `serve:` as it is."
    if winner.over_serve_low is None or winner.over_serve_low <= 1:
        return f"The search found `{winner.name}`, {gain} times `serve:`: not resolved."
    return f"Try next: `servebench tune --apply`, which writes `{winner.name}`: {gain} times `serve:`."


def finding(name: str, snapshot: Snapshot) -> str:
    """What limits a configuration, for a list of all."""
    diagnosis, bounds = snapshot.explanation.diagnoses[name], snapshot.explanation.bounds[name]
    loss = explained_loss(diagnosis, bounds)
    best = next(one.best for one in snapshot.results if one.name == name)
    doubt = "" if best is None or best.valid else "; its best level is not valid"
    return f"`{name}`: {diagnosis.cause}" + ("" if loss is None else f"; {_kept(loss)}") + f"{doubt}."
