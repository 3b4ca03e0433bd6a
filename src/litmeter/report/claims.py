"""What pages and terminal say of the results: each claim is worded here, once."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from litmeter.measure.rows import ComparisonRow
from litmeter.params import CANDIDATE, Params, ServeSettings
from litmeter.report.diagnosis import Loss, other_load
from litmeter.report.printed import errors_of_measuring
from litmeter.report.results import Result
from litmeter.report.snapshot import Snapshot, Tuned
from litmeter.system.machine import describe_machine
from litmeter.system.tables import number_cell, pluralise
from litmeter.tune.rows import ratio_cell

FEW_ROUNDS = 10
"""Fewer than this are pointed out: intervals of ten rounds are about as wide as the noise of one."""
MOST_KEYS = 2
"""Named in a sentence."""
CAUSES = (
    "Each by its own benchmark, at the number of users that was fastest there. The roofline is the rate that "
    "the measured peak of arithmetic and of memory allows. Hardware: the model reaches at least 70% of it. "
    "Kernels: it stays below. Preprocessing: decoding and preparing photos costs the rate. Batch window: "
    "requests wait for a batch that does not fill. Too many workers: they take the cores from each other. "
    "Other load: other processes or the hypervisor take more than 10% of the machine. Drift: the same work's "
    "rate changed meanwhile. Unexplained: no rule fits. A or B: it is not resolved which."
)


def answer(snapshot: Snapshot) -> list[str]:
    """Which configuration is fastest, and what limits it."""
    sentences = [fastest(snapshot.compared, snapshot.reference)]
    leaders = ranked(snapshot.compared)
    if leaders:
        sentences.append(f"What limits {finding(leaders[0].experiment, snapshot)}")
    return sentences


def ranked(rows: Sequence[ComparisonRow]) -> list[ComparisonRow]:
    """Those that have a rank, the fastest first."""
    return sorted((row for row in rows if row.rank), key=lambda row: (row.rank or 0, -(row.ratio or 0.0)))


def fastest(rows: Sequence[ComparisonRow], reference: str) -> str:
    """Who is fastest, how much faster than the reference, and how sure; of one load."""
    if not ranked(rows):
        return "No configuration could be compared: the reference answered nothing."
    first, *others = ranked(rows)
    tied = [row for row in others if row.rank == 1]
    rate = f"{first.rate_rps:,.1f} requests/s from {pluralise(first.users, 'user')}"
    if first.experiment != reference:
        rate += f", {ratio_text(first, reference)} times `{reference}`"
    if tied:
        more = f"`{tied[0].experiment}`" if len(tied) == 1 else f"{len(tied)} others"
        return f"`{first.experiment}` does {rate}; whether it or {more} is fastest is not resolved."
    certainty = ", with 95% certainty" if others else ""
    return f"Of {len(rows)} configurations `{first.experiment}` is fastest{certainty}: {rate}."


def ratio_text(row: ComparisonRow, reference: str) -> str:
    """The ratio to the reference with its interval or bound; a dash where it is unknown."""
    if row.experiment == reference and row.ratio:
        return "1"
    if row.ratio is None and row.ratio_high is not None:
        return f"below {row.ratio_high:.2f}"
    return ratio_cell(row.ratio, row.ratio_low, row.ratio_high)


def caveats(rows: Sequence[ComparisonRow]) -> list[str]:
    """What else must be known of a comparison: what was not ranked, failed, or is not of this run."""
    rounds = max(row.rounds for row in rows)
    sentences = []
    if rounds < FEW_ROUNDS:
        sentences.append(f"With only {rounds} rounds the intervals are wide: raise `comparison.seconds`.")
    silent = [row.experiment for row in rows if row.rate_rps is None]
    behind = [row.experiment for row in rows if not row.rank and row.rate_rps is not None]
    for what, names in (
        ("Not ranked, as they were far behind or answered in too few rounds", behind),
        ("Without an answer in one round or more", silent),
        ("Requests failed, and count in no rate", [f"{r.experiment} ({r.failed})" for r in rows if r.failed]),
        (
            "Kept from an earlier run, as nothing that they depend on has changed",
            [row.experiment for row in rows if row.earlier],
        ),
    ):
        sentences += [f"{what}: {', '.join(names)}."] if names else []
    return [*sentences, *errors_of_measuring(rows)]


def verdict(rows: Sequence[ComparisonRow], params: Params) -> list[str]:
    """Who is fastest, what else must be known, and who is fastest within the objective."""
    slo_ms = params.objective.slo_ms
    within = [
        row for row in ranked(rows) if row.p95_ms is not None and row.p95_ms <= slo_ms and not row.failed
    ]
    tied = [row for row in within if row.rank == within[0].rank]
    names = " or ".join(f"{row.experiment}, {row.p95_ms:.0f} ms" for row in tied)
    doubt = "; which of them is not resolved" if len(tied) > 1 else ""
    kept = f"Fastest with p95 below {slo_ms:g} ms: {names}{doubt}."
    if not within:
        kept = f"None is known to keep its p95 below {slo_ms:g} ms."
    return [fastest(rows, params.comparison.reference), *caveats(rows), kept]


def emulated(snapshot: Snapshot) -> list[str]:
    """A sentence if the CPU has no instructions for a format that configurations compute in."""
    names = [result.name for result in snapshot.results if result.run["dtype"] == "bfloat16"]
    if not names or any("bf16" in flag for flag in snapshot.machine["cpu_flags"]):
        return []
    return [
        f"This CPU has no instructions for bfloat16 and emulates it, many times slower and not compiled: "
        f"{', '.join(names)}."
    ]


def finding(name: str, snapshot: Snapshot) -> str:
    """What limits a configuration: its cause, the loss that it explains, and what makes that doubtful."""
    diagnosis = snapshot.explanation.diagnoses[name]
    best = next(one.best for one in snapshot.results if one.name == name)
    said = [f"`{name}`: {diagnosis.cause}"]
    losses = itertools.starmap(Loss, itertools.pairwise(snapshot.explanation.bounds[name]))
    explained = next((loss for loss in losses if loss.share == diagnosis.share), None)
    if explained is not None:
        upper, lower = explained.upper, explained.lower
        said.append(
            f"from {upper.name} to {lower.name} the rate falls to {lower.rate_rps:,.1f} of "
            f"{upper.rate_rps:,.1f} images/s ({explained.share:.0%})"
        )
    if best is not None and not best.valid:
        said.append("its best level is not valid")
    if best is not None and "other load" not in diagnosis.cause and (load := other_load(best)):
        said.append(f"{load} meanwhile")
    return f"{'; '.join(said)}."


def cause_cell(result: Result, snapshot: Snapshot) -> str:
    """What holds a configuration back, marked if its best level is not valid."""
    doubt = " (not valid)" if result.best and not result.best.valid else ""
    return snapshot.explanation.diagnoses[result.name].cause + doubt


def remarks(results: Sequence[Result]) -> list[str]:
    """A line for each level that is not valid or has warnings, and for mismatched answers."""
    return [
        f"{result.name} at {pluralise(level.users, 'user')}: {text}"
        for result in results
        for level in result.levels
        for text in (f"not valid: {level.invalid_reason}" if not level.valid else "", level.warnings)
        if text
    ] + [
        f"{result.name}: {result.accuracy['mismatched']} of {result.accuracy['answers']} answers belong to "
        "another request"
        for result in results
        if result.accuracy["mismatched"]
    ]


def terms(snapshot: Snapshot) -> str:
    """What the names stand for that every reader meets, and what the fastest one costs."""
    sentences = [
        f"Ratios are taken to `{snapshot.reference}`.",
        f"`{CANDIDATE}` is the section `serve:` of params.yaml, which `litmeter serve` starts.",
    ]
    if (lead := snapshot.lead) is not None:
        times = ratio_cell(lead.ratio.ratio, lead.ratio.low, lead.ratio.high)
        second = f"`{lead.fastest}` serves {times} times the rate of the second, `{lead.second}`."
        sentences.insert(0, second)
    leaders = ranked(snapshot.compared)
    if leaders and leaders[0].p95_ms is not None:
        metrics = next(one.metrics for one in snapshot.results if one.name == leaders[0].experiment)
        sentences.append(
            f"`{leaders[0].experiment}` is ready {metrics['ready_s']:.1f} s after its start, takes "
            f"{metrics['memory_mib']:,.0f} MiB, and answers 95% of the requests of "
            f"{pluralise(leaders[0].users, 'user')} within {leaders[0].p95_ms:.0f} ms."
        )
    return " ".join(sentences)


def setting(snapshot: Snapshot) -> str:
    """The model and the machine."""
    model = f"{snapshot.ceilings['architecture']} at {snapshot.params.model.image_size} px"
    return f"{model}, on {describe_machine(snapshot.machine)}"


def provenance(snapshot: Snapshot) -> str:
    """The machine, the model with its accuracy and cost, and the peaks."""
    params, ceilings, train = snapshot.params, snapshot.ceilings, snapshot.train
    form = "image files" if params.load.request_body == "image" else "base64 in JSON"
    threads = pluralise(snapshot.results[0].run["threads_per_worker"], "thread")
    return (
        f"Measured: {setting(snapshot)}. Task {params.data.task}: accuracy {train['test_accuracy']:.3f} on "
        f"{train['test_images']} test photos (95% interval {train['test_accuracy_low']:.3f} to "
        f"{train['test_accuracy_high']:.3f}). One image costs {ceilings['macs'] / 1e9:.3f} GMACs, "
        f"{ceilings['flops'] / 1e9:.3f} GFLOPs; the peak is {ceilings['peak_full_tflops']:.3f} TFLOP/s in "
        f"full and {ceilings['peak_half_tflops']:.3f} in half precision ({ceilings['peak_source']}), the "
        f"memory's bandwidth {ceilings['bandwidth_gbs']:.1f} GB/s (measured). A worker has {threads} unless "
        f"its settings say otherwise. Every user sends {form}."
    )


def next_step(snapshot: Snapshot) -> str | None:
    """What to try next: the search's winner where it is faster than the candidate, a search, or a key.

    None for a revision, of which it is not known whether anything was searched.
    """
    if snapshot.label:
        return None
    if snapshot.tuned is not None:
        return tuned_finding(snapshot.tuned, snapshot.params.serve)
    parameter = snapshot.explanation.diagnoses[CANDIDATE].parameter
    key = f", or `serve.{parameter}`" if parameter else ""
    return f"Try next: `make tune`, which searches for a faster `serve:` and is not tried yet{key}."


def tuned_finding(tuned: Tuned, serve: ServeSettings) -> str:
    """What the search has found, and whether ``serve`` has it already."""
    winner, keys = tuned.rows[0], tuned.metrics["winner"]
    if not (changed := _changed_keys(keys, serve)):
        return f"`serve:` is what the search found: `{winner.name}`."
    if winner.incumbent:
        return "The search found nothing faster than the candidate as it was."
    gain = ratio_cell(winner.over_serve, winner.over_serve_low, winner.over_serve_high)
    advice = f"Try next: `litmeter tune --apply`, which sets {changed}"
    if tuned.metrics["goal"] == "capacity":
        return f"{advice}: of those that the search measured it takes most requests within the objective."
    if winner.over_serve_low is None or winner.over_serve_low <= 1:
        return f"The search found `{winner.name}`, {gain} times the candidate: not resolved."
    return f"{advice}, for {gain} times the candidate's rate."


def _changed_keys(winner: Mapping[str, Any], serve: ServeSettings) -> str:
    """The keys of ``serve:`` that ``winner`` has other values for, or how many where they are many."""
    changed = [
        f"`{key}: {json.dumps(value).strip(chr(34))}`"
        for key, value in winner.items()
        if getattr(serve, key) != value
    ]
    return " and ".join(changed) if len(changed) <= MOST_KEYS else f"{len(changed)} keys of `serve:`"


def tuned_sentences(tuned: Tuned) -> list[str]:
    """Who won, how much it gains, what cannot be told from it, and how well rates were predicted."""
    metrics, rows = tuned.metrics, tuned.rows
    winner, incumbent = rows[0], next(row for row in rows if row.incumbent)
    found = [
        f"Of {metrics['combinations']:,} combinations {metrics['raced']} raced, for "
        f"{pluralise(metrics['rounds'], 'round')} at {pluralise(metrics['users'], 'user')}.",
        f"`{winner.name}` won with {number_cell(winner.rate_rps, 1)} req/s, "
        f"{ratio_cell(winner.over_serve, winner.over_serve_low, winner.over_serve_high)} times `serve:`, "
        f"which was `{incumbent.name}` then, and gives {winner.agreement:.1%} of the test photos full "
        "precision's label.",
    ]
    for status, text in (("equal", "As fast within 3%"), ("not resolved", "Not resolved from the fastest")):
        names = [f"`{row.name}`" for row in rows if row.status == status]
        found += [f"{text}: {', '.join(names)}."] if names else []
    return [*found, f"Predicted ratios were off by {metrics['model_error']:.0%} (standard deviation)."]
