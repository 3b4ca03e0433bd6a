"""Sentences about the results, for pages and terminal: each is worded here, once."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from litmeter.classifier.model.card import TrainMetrics
from litmeter.classifier.model.rows import Ceilings
from litmeter.kinds.configuration import Configuration
from litmeter.measure.comparison_rows import ONE_STREAMS, OverBefore, counted, rate_in, verdict
from litmeter.measure.figures import STALLED
from litmeter.measure.rows import OTHER_LOAD_PERCENT, ComparisonRow, TurnRow, named_others
from litmeter.params import ObjectiveSettings, changed_settings
from litmeter.report.diagnosis import MODEL, NOT_AVAILABLE, PIPELINE, ROOFLINE, SERVED, share_cell
from litmeter.report.losses import server_share
from litmeter.report.machines import capacity_sentence, describe_machine
from litmeter.report.results import Result, fastest_first
from litmeter.report.snapshot import OUTDATED, Snapshot, Tuned
from litmeter.report.tables import at_users, changes_text, ratio_text, value_text
from litmeter.say.tables import p95_name, pluralise, rate_cell, ratio_cell, significant
from litmeter.settings import CANDIDATE
from litmeter.stats.rates import objective_percent, samples_needed, wilson_interval
from litmeter.stats.ratios import Ratio
from litmeter.stats.records import Limits
from litmeter.system.device import BLOCKING

FEW_ROUNDS, WIDE = 10, 1.2
"""Rounds below which wide intervals are pointed out: with ten they are about as wide as a round's noise; a
wide interval's ratio of ends."""
DISTURBED = 0.05
"""Share of disturbed turns above which the disturbance is pointed out."""
OTHER_TOKENS = 0.03
"""Share by which the tokens of an answer may differ from those of its costs."""
MOST_KEYS = 2
"""Keys that a sentence names; more are counted."""


@dataclass(frozen=True)
class Claim:
    """A sentence about the results.

    Attributes:
        kind: "failures": of requests; "change": the effect of changed settings of serve:; "fastest"; "form":
            of what users send; "limit": what holds the fastest back; "first": what the first piece of a
            streamed answer waits for; "next": what to try; "objective": which configuration keeps to it;
            "capacity": traffic that a configuration takes; "doubt": a caveat.
        sentence: with names between backticks.
    """

    kind: Literal[
        "failures", "change", "fastest", "form", "limit", "first", "next", "objective", "capacity", "doubt"
    ]
    sentence: str

    @property
    def plain(self) -> str:
        """The sentence for a terminal."""
        return self.sentence.replace("`", "")


ANSWER = ("failures", "change", "fastest", "limit", "first", "next", "capacity")
"""Kinds of claims that a reader came for."""


def claims(snapshot: Snapshot) -> list[Claim]:
    """All claims, the most important first."""
    found = [
        failures(snapshot.compared),
        change(snapshot.comparison.over_before),
        fastest(snapshot.compared, snapshot.reference),
        carried(snapshot),
        limit(snapshot),
        next_step(snapshot),
        *first_pieces(snapshot.results),
        *short_answers(snapshot.results),
        *capacities(snapshot),
        None if snapshot.by_command else objective(snapshot.compared, snapshot.params.objective),
    ]
    return [*filter(None, found), *doubts(snapshot)]


def failures(rows: Sequence[ComparisonRow]) -> Claim | None:
    """Servers that fail requests, which have no rank and no p95; None without any."""
    names = ", ".join(
        f"`{row.experiment}` ({row.failed} failed, {row.answers} answered)"
        for row in rows
        if row.fails and not row.earlier
    )
    return Claim("failures", f"Requests fail: {names}: no rank, no p95.") if names else None


def change(found: OverBefore, how: str = "") -> Claim | None:
    """The effect of changed settings of serve:, and ``how`` it was found; None where it was not measured."""
    if found.ratio is None or not found.changes:
        return None
    ratio = Ratio(found.ratio, found.low, found.high)
    sentence = f"{changes_text(found.changes)}{how}: {times_text(ratio)} times as fast, {verdict(ratio)}"
    if found.p95_ms and all(found.p95_ms):
        sentence += "; {} {:.0f} -> {:.0f} ms".format(p95_name(found.streams), *found.p95_ms)
    return Claim("change", f"{sentence}.")


def times_text(ratio: Ratio) -> str:
    """A ratio with its interval."""
    return ratio_cell(ratio.ratio, ratio.low, ratio.high)


def ranked(rows: Sequence[ComparisonRow]) -> list[ComparisonRow]:
    """Rows with a rank, the fastest first."""
    return [row for row in fastest_first(rows) if row.rank]


def fastest(rows: Sequence[ComparisonRow], reference: str) -> Claim:
    """The fastest configuration, its ratios to the reference and to the second.

    It is certainly the fastest where it alone has rank 1.
    """
    new = [row for row in rows if not row.earlier]
    if counted(new) is None:
        return Claim("fastest", f"{ONE_STREAMS.capitalize()}.")
    if not ranked(rows):
        why = "all fail requests" if all(row.fails for row in new) else "the reference answered nothing"
        return Claim("fastest", f"No configuration could be compared: {why}.")
    first, *others = ranked(rows)
    tied = [row for row in others if row.rank == first.rank]
    name = f"`{first.experiment}`"
    rate = f"{rate_cell(first.rate_rps)} requests/s from {pluralise(first.users, 'user')}"
    if (unit := counted(new)) not in (None, "requests"):
        rate = f"{significant(rate_in(unit, first) or 0.0)} {unit}/s, {rate}"
    if reference not in [row.experiment for row in (first, *tied)]:
        rate += f", {ratio_text(first, reference)} times `{reference}`"
    if tied:
        names = ", ".join(f"`{row.experiment}`" for row in tied)
        return Claim("fastest", f"{name} does {rate}; whether it or {names} is fastest is not resolved.")
    if not others:
        return Claim("fastest", f"{name} does {rate}; nothing else was ranked.")
    sentence = f"Of {1 + len(others)} configurations {name} is fastest (95% certain): {rate}"
    if (lead := _lead(others[0])) is not None and others[0].experiment != reference:
        sentence += f", and {times_text(lead)} times the second, `{others[0].experiment}`"
    return Claim("fastest", f"{sentence}.")


def _lead(row: ComparisonRow) -> Ratio | None:
    """The rate of the fastest over that of ``row``; None where it is unknown."""
    if not (row.share_of_fastest and row.share_low and row.share_high):
        return None
    return Ratio(1 / row.share_of_fastest, 1 / row.share_high, 1 / row.share_low)


def carried(snapshot: Snapshot) -> Claim | None:
    """Configurations that get images as base64, and what that costs; None where all get the same form.

    LitServe's transport passes an image on as JSON; the direct transport passes it on as it is.
    """
    if snapshot.params.load.request_body != "image" or snapshot.params.load.bodies is not None:
        return None
    of_images = {one.name: one for one in snapshot.results if one.serve.recodes is not None}
    encoded = [one for one in of_images.values() if one.serve.recodes]
    whole = [row.experiment for row in fastest_first(snapshot.compared) if row.experiment in of_images]
    whole = [name for name in whole if not of_images[name].serve.recodes]
    if not encoded or not whole:
        return None
    encoded.sort(key=lambda one: one.name != snapshot.reference)
    names = f"`{encoded[0].name}`" + (f" and {pluralise(len(encoded) - 1, 'other')}" if encoded[1:] else "")
    shares = [share for one in encoded if (share := server_share(one)) is not None]
    taken = "an unknown share"
    if shares:
        low, high = (share_cell(end(shares, key=lambda share: share.ratio)) for end in (min, max))
        taken = low if low == high else f"{low} to {high}"
    return Claim(
        "form",
        f"`{whole[0]}` reads the image files that users send; for {names} LitServe's HTTP process makes "
        f"base64 of them first. Ratios contain that: HTTP process and manager take {taken} of the cores' "
        "time for such a request.",
    )


WAITS = 0.1
"""Share of the time to the first piece above which waiting is pointed out."""


def first_pieces(results: Sequence[Result]) -> Iterator[Claim]:
    """Of what the median time to the first piece consists, where answers stream and ran in-process, too.

    What the pipeline does not take in-process is waiting and transport. LitServe's loops finish the answers
    that they have begun before they begin others.
    """
    for result in results:
        own_ms = [row.stream["first_p50_ms"] for row in result.in_process("pipeline") if row.stream]
        served_ms = result.compared.stream.get("first_p50_ms")
        if not own_ms or served_ms is None:
            continue
        model_ms = min(served_ms, median(own_ms))
        waited_ms = served_ms - model_ms
        users = pluralise(result.compared.users, "user")
        sentence = (
            f"`{result.name}`: of {significant(served_ms)} ms to the first piece (median, {users}) "
            f"{significant(model_ms)} ms are the pipeline's, in-process"
        )
        if waited_ms < WAITS * served_ms:
            yield Claim("first", f"{sentence}.")
            continue
        sentence += f"; the other {significant(waited_ms)} ms ({waited_ms / served_ms:.0%}) are "
        batches, places = result.serve.largest_batch > 1, result.serve.workers * result.serve.largest_batch
        window_ms = 1000 * result.serve.batch_window_s if batches and result.compared.users < places else 0.0
        if window_ms:
            key = result.serve.lever("batch window")
            sentence += f"the wait for a batch to fill, up to {significant(window_ms)} ms (`{key}`), and "
        sentence += "transport"
        if result.compared.users > places:
            workers, size = (result.serve.lever(what) for what in ("workers", "batch size"))
            moved = [f"`{workers}` moves that"] if workers else []
            moved += [f"`{size}` does if `predict` takes batches"] if size and not batches else []
            work = "a batch" if batches else "an answer"
            sentence += f" and mostly waiting: a worker finishes {work} before it begins the next"
            sentence += f" ({', '.join(moved)})" if moved else ""
        yield Claim("first", f"{sentence}.")


def short_answers(results: Sequence[Result]) -> Iterator[Claim]:
    """Answers that end early, where equal requests are to have equal answers."""
    for result in results:
        short = result.compared.stream.get("short", 0.0)
        if short and getattr(result.serve, "check_answers", False):
            yield Claim(
                "doubt",
                f"Ended early: {short:.0f} of {result.compared.answers} answers of `{result.name}`, with "
                "fewer pieces than the reference's to the same request. LitServe ends an answer so where its "
                "generator raises: the log tells. Where a model samples: check_answers=false.",
            )


def partly_streamed(rows: Sequence[ComparisonRow]) -> Iterator[Claim]:
    """Servers of whose answers only a part streams, and what their figures then are."""
    found = [(row.experiment, row.stream["share"]) for row in rows if "share" in row.stream]
    if found:
        names = ", ".join(f"`{name}` ({100 * share:.3g}%)" for name, share in found)
        unit = counted(rows) or "nothing"
        sentence = f"Only a part of the answers streams: {names}. Times of pieces are those of that part"
        yield Claim("doubt", f"{sentence}, rates are compared in {unit}.")


def unexpected_streams(contents: Sequence[bytes], rows: Sequence[TurnRow]) -> Iterator[Claim]:
    """Answers that stream although all requests say no, and the other way round (``"stream"`` in JSON)."""
    asked = {_asks_for_stream(content) for content in contents}
    wanted = True in asked
    if len(asked) == 1 and None not in asked:
        served = [row for row in rows if row.work == "served" and row.answers]
        for name in sorted({row.subject for row in served if bool(row.stream) != wanted}):
            do = "do not stream, although all requests ask for a stream" if wanted else "stream unasked"
            yield Claim("doubt", f"The answers of `{name}` {do}.")


def _asks_for_stream(content: bytes) -> bool | None:
    if b'"stream"' not in content:
        return None
    try:
        found = json.loads(content)["stream"]
    except (ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, bool) else None


LOST = {
    ROOFLINE: "the hardware's peak allows {lower} of the datasheet's {upper} {unit} ({share})",
    MODEL: "the model alone does {lower} of the {upper} {unit} that the hardware's peak allows ({share})",
    PIPELINE: "the model alone does {upper} {unit}, the whole pipeline {lower} ({share})",
    SERVED: "it serves {lower} of the {upper} {unit} that its pipeline does without a server ({share})",
}
"""Losses down to each bound, in words."""


def limit(snapshot: Snapshot) -> Claim | None:
    """What holds the fastest back, and the loss that it explains; None where no cause is known."""
    name = next((row.experiment for row in ranked(snapshot.compared)), None)
    if name is None or (diagnosis := snapshot.diagnoses[name]).cause in ("", NOT_AVAILABLE):
        return None
    sentence = f"What holds `{name}` back: {diagnosis.cause}"
    if (loss := diagnosis.loss) is not None:
        rates = {"lower": significant(loss.rate), "upper": significant(loss.upper_rate)}
        rates["unit"] = next(one.unit for one in snapshot.results if one.name == name)
        sentence += "; " + LOST[loss.name].format(share=share_cell(loss.share), **rates)
    return Claim("limit", f"{sentence}.")


def next_step(snapshot: Snapshot) -> Claim | None:
    """What to try: the search's winner, the fastest one's settings, a search, or a key.

    Without a candidate, what moves the cause of the fastest; of each server where a command compared them.
    None for a revision, of which it is not known whether anything was searched.
    """
    serve = snapshot.params.configurations().get(CANDIDATE)
    if snapshot.label or (serve is None and not ranked(snapshot.compared)):
        return None
    if serve is None:
        names = [row.experiment for row in ranked(snapshot.compared)]
        known = {name: snapshot.diagnoses[name] for name in (names if snapshot.by_command else names[:1])}
        steps = [
            f"with `{name}`" + (f", held back by {one.cause}" if one.cause else "") + f": {one.advice}"
            for name, one in known.items()
            if one.advice
        ]
        return Claim("next", f"Try next {'; '.join(steps)}.") if steps else None
    if snapshot.tuned is not None:
        sentence = _tuned_finding(snapshot.tuned, serve).removesuffix(".")
        return Claim("next", sentence + on_day("; searched", snapshot.tuned.metrics.measured_at))
    tune = "make" if snapshot.params.stages else "litmeter"
    search = f"`{tune} tune`, which searches for a faster `serve:`" if serve.knobs else ""
    candidate = next(row for row in snapshot.compared if row.experiment == CANDIDATE)
    if candidate.rank in (None, 1) or (gain := _lead(candidate)) is None or not gain.resolved:
        advice = "; or ".join(filter(None, [search, snapshot.diagnoses[CANDIDATE].advice]))
        return Claim("next", f"Try next: {advice}.") if advice else None
    leader = ranked(snapshot.compared)[0].experiment
    found = changed_settings(serve, snapshot.params.configuration(leader))
    changes = [f"-S serve.{key}={value_text(new)}" for key, (_, new) in found.items()]
    advice = f"`dvc exp run {' '.join(changes)}`, as `{leader}` has it"
    if len(changes) > MOST_KEYS or any(" " in change.partition("=")[2] for change in changes):
        advice = f"`serve:` with the settings of `{leader}`"
    text = f"Try next: {advice}, {times_text(gain)} times as fast"
    metrics = next(one.metrics for one in snapshot.results if one.name == leader)
    if metrics.agreement is not None:
        text += f"; {metrics.agreement:.1%} of {metrics.photos} test photos keep the checkpoint's label"
    return Claim("next", f"{text}." + (f" Or {search}." if search else ""))


def _tuned_finding(tuned: Tuned, serve: Configuration) -> str:
    """The result of the search, and whether ``serve`` has it already."""
    winner = tuned.rows[0]
    found = changed_settings(serve, serve.model_copy(update=tuned.metrics.winner))
    if not found:
        return f"`serve:` is what the search found: `{winner.name}`."
    if winner.incumbent:
        return "The search found nothing faster than the candidate as it was."
    changed = " and ".join(f"`{key}: {value_text(value)}`" for key, (_, value) in found.items())
    keys = changed if len(found) <= MOST_KEYS else f"{len(found)} keys of `serve:`"
    advice = f"Try next: `litmeter tune --apply`, which sets {keys}"
    if tuned.metrics.goal == "capacity":
        return f"{advice}: of what the search measured, this takes most requests within the objective."
    gain = ratio_cell(winner.over_serve, winner.over_serve_low, winner.over_serve_high)
    if winner.over_serve_low is None or winner.over_serve_low <= 1:
        return f"The search found `{winner.name}`, {gain} times the candidate: not resolved."
    users = pluralise(tuned.metrics.users, "user")
    return f"{advice}: {gain} times the rate of the `serve:` that the search started from, at {users}."


def objective(rows: Sequence[ComparisonRow], objective: ObjectiveSettings) -> Claim | None:
    """The fastest configuration among those that keep to the objective; None if it limits pieces of streams.

    Whether those are kept together is known of a capacity alone.
    """
    percent, slo_ms = objective_percent(objective.miss), objective.slo_ms
    if slo_ms is None or objective.limits != Limits(slo_ms):
        return None
    known = {row.experiment: ms for row in ranked(rows) if (ms := row.objective_ms) is not None}
    within = [row for row in ranked(rows) if known.get(row.experiment, math.inf) <= slo_ms and not row.failed]
    if not within:
        few = "" if known else f", which takes {samples_needed(percent):,} answers"
        sentence = f"No configuration is known to keep its p{percent:g} below {slo_ms:g} ms{few}."
        return Claim("objective", sentence)
    first, *others = within
    tied = [first, *(row for row in others if row.rank == first.rank)]
    names = " or ".join(f"`{row.experiment}`, {known[row.experiment]:.0f} ms" for row in tied)
    doubt = "; which of them is not resolved" if len(tied) > 1 else ""
    return Claim("objective", f"Fastest with p{percent:g} below {slo_ms:g} ms: {names}{doubt}.")


def capacities(snapshot: Snapshot) -> Iterator[Claim]:
    """The capacities of the fastest and the candidate, and the machines for more."""
    names = [*(row.experiment for row in ranked(snapshot.compared)[:1]), CANDIDATE]
    for name in dict.fromkeys(names):
        if name in snapshot.capacities:
            found = snapshot.capacities[name]
            text = capacity_sentence(f"`{name}`", found.metrics)
            yield Claim("capacity", text + on_day(", measured", found.measured_at))


def on_day(done: str, time: str) -> str:
    """The end of a sentence about a run of its own: what was done, and the day."""
    return f"{done} {time.split()[0]}." if time else "."


def doubts(snapshot: Snapshot) -> Iterator[Claim]:
    """Caveats: few rounds, disturbances, rows without figures of this run, errors."""
    rows = snapshot.compared
    rounds = max(row.rounds for row in rows)
    ends = [(row.ratio_low, row.ratio_high) for row in ranked(rows)]
    if rounds < FEW_ROUNDS and any(not low or not high or high > WIDE * low for low, high in ends):
        key = "--seconds" if snapshot.by_command else "comparison.seconds"
        yield Claim("doubt", f"With only {rounds} rounds the intervals are wide: raise `{key}`.")
    yield from partly_streamed([row for row in rows if not row.earlier])
    if snapshot.left_out:
        make = "make" if snapshot.params.stages else "litmeter stage"
        what = ", ".join(f"{one} ({why})" for one, why in snapshot.left_out.items())
        yield Claim(
            "doubt", f"Left out: {what}. Measure beside the comparison: `{make} capacity`, `{make} tune`."
        )
    yield from disturbances([row for result in snapshot.results for row in result.turns])
    if snapshot.results[0].device == "cuda" and not BLOCKING:
        yield Claim(
            "doubt",
            "Workers spin while they wait for the GPU, which counts as CPU time: CPU %, and the causes "
            "preprocessing and contention, are too high.",
        )
    for name, ceiling, bound, unit in snapshot.exceeded:
        of = "" if ceiling == name else f" in {ceiling} precision"
        yield Claim(
            "doubt",
            f"The measured roofline{of} is too low: `{name}` ({bound.name}) does "
            f"{significant(bound.rate)} {unit}, {times_text(bound.share)} times as much. That rate "
            "takes its place.",
        )
    void = {}
    for result in snapshot.results:
        if reasons := Counter(row.void for row in result.turns if row.void):
            usual = reasons.most_common(1)[0][0]
            void[result.name] = f"({reasons.total()} of {len(result.turns)} turns: {usual})"
    for what, names in {
        "This CPU has no instructions for bfloat16 and emulates it, many times slower": {
            result.name: "" for result in snapshot.results if result.emulated
        },
        "Without an answer in one round or more": {
            row.experiment: "" for row in rows if row.rate_rps is None
        },
        "Requests failed, and count in no rate": {
            row.experiment: f"({row.failed})" for row in rows if row.failed and not row.fails
        },
        OUTDATED: dict.fromkeys(map(str, snapshot.outdated), ""),
        "Kept from an earlier run, as nothing that they depend on has changed": {
            row.experiment: f"({row.earlier})" for row in rows if row.earlier
        },
        "Errors of measuring": {
            name: f"({bound.name} is {times_text(bound.share)} times {bound.upper}, its upper bound)"
            for name, bounds in snapshot.bounds.items()
            for bound in bounds
            if bound.is_error
        },
        "Answers that fail or cannot be relied on": void,
        "Answers have another number of tokens than their costs say": {
            result.name: f"({tokens:.3g}, not {result.tokens})"
            for result in snapshot.results
            if (tokens := _tokens(result)) and abs(tokens - (result.tokens or tokens)) > OTHER_TOKENS * tokens
        },
    }.items():
        if names:
            listed = ", ".join(f"`{name}` {more}".strip() for name, more in names.items())
            yield Claim("doubt", f"{what}: {listed}.")


def _tokens(result: Result) -> float | None:
    """Tokens of the mean answer; None where the server does not say them."""
    known = [(row.stream.get("tokens_rps"), row.rate_rps) for row in result.served]
    rates = [tokens / rate for tokens, rate in known if tokens and rate]
    return sum(rates) / len(rates) if rates else None


def disturbances(turns: Sequence[TurnRow]) -> Iterator[Claim]:
    """Others' use of the cores, and other warnings, each if more than DISTURBED of the turns have it."""
    others = [
        row for row in turns if max(row.other_percent or 0.0, row.steal_percent or 0.0) > OTHER_LOAD_PERCENT
    ]
    if len(others) > DISTURBED * len(turns):
        most = max((row.other_percent or 0.0) + (row.steal_percent or 0.0) for row in others)
        cores: dict[str, float] = defaultdict(float)
        for name, used in (pair for row in others for pair in row.others.items()):
            cores[name] += used
        yield Claim(
            "doubt",
            f"In {len(others)} of {len(turns)} turns others used the cores ({named_others(cores)}), up to "
            f"{most:.0f}% of them: where intervals are wide, measure again.",
        )
    if stalled := dict.fromkeys(row.subject for row in turns if STALLED in row.warnings):
        yield Claim("doubt", f"{', '.join(stalled)}: {STALLED}.")
    left = [row.warnings.replace(STALLED, "").strip("; ") for row in turns if row not in others]
    left = [warnings for warnings in left if warnings]
    if len(left) > DISTURBED * len(turns):
        usual = Counter(left).most_common(1)[0][0]
        yield Claim(
            "doubt", f"In {len(left)} of {len(turns)} turns something else may have changed rates: {usual}."
        )


def subject(snapshot: Snapshot) -> str:
    """The served model, or each server of one's own."""
    if isinstance(snapshot.ceilings, Ceilings):
        return snapshot.ceilings.architecture
    served = (
        result.serve.spec if result.serve.knobs else result.serve.describe("") for result in snapshot.results
    )
    return ", ".join(dict.fromkeys(served))


def setting(snapshot: Snapshot) -> str:
    """The machine, after the model of the pipeline."""
    machine = describe_machine(snapshot.machine)
    if not isinstance(snapshot.ceilings, Ceilings):
        return machine
    return f"{subject(snapshot)} at {snapshot.params.model.side} px, on {machine}"


def reading(snapshot: Snapshot) -> str:
    """How to read the table of results."""
    users = pluralise(snapshot.params.comparison.users, "user")
    candidate = ""
    if CANDIDATE in snapshot.params.configurations():
        candidate = f" `{CANDIDATE}` is the section `serve:` of params.yaml."
    model = ", then in the model, if that is as much"
    return (
        f"All configurations were served at once and loaded in turn by {users}, each sending its "
        f"next request when the last one is answered.{candidate} "
        "Ratios are taken within rounds, with simultaneous 95% intervals. The fastest, and all that cannot "
        "be told from it, have rank 1. p95: 95% of the requests took no longer. Held back by: the main cause "
        f"of what is lost in serving{model if snapshot.ceilings else ''}."
    )


def provenance(snapshot: Snapshot) -> str:
    """The machine, the model with its accuracy and cost, and the peaks."""
    params, ceilings, train = snapshot.params, snapshot.ceilings, snapshot.train
    if train is None or not isinstance(ceilings, Ceilings):
        return f"Measured: {setting(snapshot)}. Users send what is in `{params.load.bodies}`."
    form = "image files" if params.load.request_body == "image" else "base64 in JSON"
    peaks = " and ".join(
        f"{own.peak_tflops:.3f} TFLOP/s in {precision}"
        for precision, own in ceilings.precisions.items()
        if precision != "int8"
    )
    low, high = accuracy_interval(train)
    cost = "not available"
    if ceilings.macs and ceilings.flops:
        cost = f"{ceilings.macs / 1e9:.3f} GMACs, {ceilings.flops / 1e9:.3f} GFLOPs"
    return (
        f"Measured: {setting(snapshot)}. Task {params.data.task}: accuracy {train.test_accuracy:.3f} on "
        f"{train.test_images} test photos (95% interval {low:.3f} to {high:.3f}). One image costs: "
        f"{cost}; the peak is {peaks} precision ({ceilings.peak_source}), the memory's bandwidth "
        f"{ceilings.bandwidth_gbs:.1f} GB/s (measured). Every user sends {form}."
    )


def accuracy_interval(train: TrainMetrics) -> tuple[float, float]:
    """95% interval of the test accuracy."""
    return wilson_interval(round(train.test_accuracy * train.test_images), train.test_images)


def tuned_text(tuned: Tuned) -> str:
    """The winner, its gain, and configurations that cannot be told from it."""
    metrics, rows = tuned.metrics, tuned.rows
    winner, incumbent = rows[0], next(row for row in rows if row.incumbent)
    text = (
        f"Of {metrics.combinations:,} combinations {metrics.raced} raced, for "
        f"{pluralise(metrics.rounds, 'round')} at {pluralise(metrics.users, 'user')}. "
        f"`{winner.name}` won with {rate_cell(winner.rate_rps)} req/s, "
        f"{ratio_cell(winner.over_serve, winner.over_serve_low, winner.over_serve_high)} times `serve:`, "
        f"which was `{incumbent.name}` then"
    )
    if winner.agreement is not None:
        text += f", and gives {winner.agreement:.1%} of the photos not trained on full precision's label"
    text += f". {at_users(metrics.users).capitalize()}."
    for status, said in (("equal", "As fast within 3%"), ("not resolved", "Not resolved from the fastest")):
        if names := [f"`{row.name}`" for row in rows if row.status == status]:
            text += f" {said}: {', '.join(names)}."
    return text
