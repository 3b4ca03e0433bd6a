"""What pages and terminal say of the results: each claim is worded here, once."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from litmeter.kinds.configuration import Configuration
from litmeter.measure.comparison_rows import verdict
from litmeter.measure.rows import OTHER_LOAD_PERCENT, ComparisonRow, TurnRow, named_others
from litmeter.params import ObjectiveSettings, changed_settings
from litmeter.report.diagnosis import MODEL, NOT_AVAILABLE, PIPELINE, ROOFLINE, SERVED, share_cell
from litmeter.report.losses import server_share
from litmeter.report.machines import capacity_sentence, describe_machine
from litmeter.report.results import fastest_first
from litmeter.report.snapshot import OUTDATED, Snapshot, Tuned
from litmeter.report.tables import at_users, changes_text, ratio_text, value_text
from litmeter.say.tables import pluralise, rate_cell, ratio_cell, significant
from litmeter.settings import CANDIDATE
from litmeter.stats.rates import objective_percent, samples_needed, wilson_interval
from litmeter.stats.ratios import Ratio
from litmeter.system.device import BLOCKING

FEW_ROUNDS = 10
"""Rounds below which the claims point it out: with ten an interval is about as wide as one round's noise."""
DISTURBED = 0.05
"""Share of the turns above which it is said that others used the machine."""
MOST_KEYS = 2
"""Keys that a sentence names; more are counted."""


@dataclass(frozen=True)
class Claim:
    """Something that the results say.

    Attributes:
        kind: "change": what other settings of serve: did; "fastest"; "form": what else than settings of
            the model its ratio contains; "limit": what holds the fastest back;
            "next": what to try; "objective": who keeps to it; "capacity": how much traffic one takes;
            "doubt": what else one must know.
        sentence: names in it stand between backticks.
    """

    kind: Literal["change", "fastest", "form", "limit", "next", "objective", "capacity", "doubt"]
    sentence: str

    @property
    def plain(self) -> str:
        """The sentence for a terminal."""
        return self.sentence.replace("`", "")


ANSWER = ("change", "fastest", "limit", "next", "capacity")
"""Kinds of claims that a reader came for."""


def claims(snapshot: Snapshot) -> list[Claim]:
    """All claims, the most important first."""
    found = [
        change(snapshot.over_before),
        fastest(snapshot.compared, snapshot.reference),
        carried(snapshot),
        limit(snapshot),
        next_step(snapshot),
        *capacities(snapshot),
        objective(snapshot.compared, snapshot.params.objective),
    ]
    return [*filter(None, found), *doubts(snapshot)]


def change(found: Mapping[str, Any], how: str = "") -> Claim | None:
    """What other settings of serve: do, by metrics/over_before.json, and ``how`` that was found.

    None where that has no ratio, or is of earlier code, which had no values of "changes".
    """
    if not found.get("ratio") or not isinstance(found.get("changes"), dict):
        return None
    ratio = Ratio(found["ratio"], found["low"], found["high"])
    sentence = f"{changes_text(found['changes'])}{how}: {times_text(ratio)} times as fast, {verdict(ratio)}"
    if all(found["p95_ms"]):
        sentence += "; p95 {:.0f} -> {:.0f} ms".format(*found["p95_ms"])
    return Claim("change", f"{sentence}.")


def times_text(ratio: Ratio) -> str:
    """A ratio with its interval."""
    return ratio_cell(ratio.ratio, ratio.low, ratio.high)


def ranked(rows: Sequence[ComparisonRow]) -> list[ComparisonRow]:
    """Those that have a rank, the fastest first."""
    return [row for row in fastest_first(rows) if row.rank]


def fastest(rows: Sequence[ComparisonRow], reference: str) -> Claim:
    """Who is fastest, how much faster than the reference and the second, and how sure.

    Sure where it alone has rank 1, and no interval of what it leads by holds 1.
    """
    if not ranked(rows):
        return Claim("fastest", "No configuration could be compared: the reference answered nothing.")
    first, *others = ranked(rows)
    tied = _tied(first, others)
    name = f"`{first.experiment}`"
    rate = f"{rate_cell(first.rate_rps)} requests/s from {pluralise(first.users, 'user')}"
    if first.experiment != reference and not any(row.experiment == reference for row in tied):
        rate += f", {ratio_text(first, reference)} times `{reference}`"
    if tied:
        names = ", ".join(f"`{row.experiment}`" for row in tied)
        sentence = f"{name} does {rate}; whether it or {names} is fastest is not resolved."
    elif others:
        sentence = f"Of {1 + len(others)} configurations {name} is fastest (95% certain): {rate}"
        second = others[0]
        if (lead := _lead(second)) is not None and second.experiment != reference:
            sentence += f", and {times_text(lead)} times the second, `{second.experiment}`"
        sentence += "."
    else:
        sentence = f"{name} does {rate}; nothing else was ranked."
    return Claim("fastest", sentence)


def _tied(first: ComparisonRow, others: Sequence[ComparisonRow]) -> list[ComparisonRow]:
    """Those of ``others`` that may be faster: of the rank of ``first``, or near it by their interval.

    The intervals are of all over the fastest: of another ``first`` ranks alone tell.
    """
    is_fastest = first.share_of_fastest == 1

    def may_be_faster(row: ComparisonRow) -> bool:
        lead = _lead(row)
        return row.rank == first.rank or (is_fastest and (lead is None or not lead.resolved))

    return [row for row in others if may_be_faster(row)]


def _lead(row: ComparisonRow) -> Ratio | None:
    """How many times its rate the fastest does; None where it is unknown."""
    if not (row.share_of_fastest and row.share_low and row.share_high):
        return None
    return Ratio(1 / row.share_of_fastest, 1 / row.share_high, 1 / row.share_low)


def carried(snapshot: Snapshot) -> Claim | None:
    """Who gets images as base64, and what its server takes of a request, where ratios contain it.

    None where all get them alike. LitServe's transport passes an image on as JSON; the direct one as it is.
    """
    if snapshot.params.load.request_body != "image" or snapshot.params.load.bodies is not None:
        return None
    own = {one.name: one for one in snapshot.results if one.serve.recodes is not None}
    encoded = [one for one in own.values() if one.serve.recodes]
    whole = [row.experiment for row in fastest_first(snapshot.compared) if row.experiment in own]
    whole = [name for name in whole if not own[name].serve.recodes]
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
        f"Images reach {names} as base64 through LitServe's HTTP process, and `{whole[0]}` as the files that "
        "they are. Ratios between them contain that: HTTP process and LitServe's manager take "
        f"{taken} of the cores' time for a request to the former.",
    )


LOST = {
    ROOFLINE: "the hardware's measured peak allows {lower} of the datasheet's {upper} images/s ({share})",
    MODEL: "the model alone does {lower} of the {upper} images/s that the hardware's peak allows ({share})",
    PIPELINE: "the model alone does {upper} {item}s/s, with all that is around it {lower} ({share})",
    SERVED: "it serves {lower} of the {upper} {item}s/s that it does without a server ({share})",
}
"""Losses down to each bound, in words."""


def limit(snapshot: Snapshot) -> Claim | None:
    """What holds the fastest back, and the loss that it explains; None where no cause is known."""
    name = next((row.experiment for row in ranked(snapshot.compared)), None)
    if name is None or (diagnosis := snapshot.diagnoses[name]).cause in ("", NOT_AVAILABLE):
        return None
    sentence = f"What holds `{name}` back: {diagnosis.cause}"
    if (loss := diagnosis.loss) is not None:
        rates = {"lower": significant(loss.rate_rps), "upper": significant(loss.upper_rps)}
        rates["item"] = next(one.item for one in snapshot.results if one.name == name)
        sentence += "; " + LOST[loss.name].format(share=share_cell(loss.share), **rates)
    return Claim("limit", f"{sentence}.")


def next_step(snapshot: Snapshot) -> Claim | None:
    """What to try: the fastest one's settings, the search's winner, a search, or a key.

    None for a revision, of which it is not known whether anything was searched, and without a candidate.
    """
    serve = snapshot.params.configurations().get(CANDIDATE)
    if snapshot.label or serve is None:
        return None
    tune = "make" if snapshot.params.stages else "litmeter"
    search = f"`{tune} tune`, which searches for a faster `serve:`" if serve.knobs else ""
    if snapshot.tuned is not None:
        sentence = _tuned_finding(snapshot.tuned, serve).removesuffix(".")
        return Claim("next", sentence + on_day("; searched", snapshot.tuned.metrics.get("measured_at", "")))
    own = next(row for row in snapshot.compared if row.experiment == CANDIDATE)
    if own.rank in (None, 1) or (gain := _lead(own)) is None or not gain.resolved:
        diagnosis = snapshot.diagnoses[CANDIDATE]
        parameter, brings = diagnosis.parameter, f": {diagnosis.brings}" if diagnosis.brings else ""
        section = "" if parameter and "." in parameter else "serve."
        key = f"`{section}{parameter}`{brings}" if parameter else ""
        advice = "; or ".join(filter(None, [search, key]))
        return Claim("next", f"Try next: {advice}.") if advice else None
    leader, second, *_ = (row.experiment for row in ranked(snapshot.compared))
    best = next(one for one in snapshot.results if one.name == leader)
    found = changed_settings(serve, snapshot.params.configuration(leader))
    changes = [f"-S serve.{key}={value_text(new)}" for key, (_, new) in found.items()]
    advice = f"`dvc exp run {' '.join(changes)}`, as `{leader}` has it"
    if len(changes) > MOST_KEYS or any(" " in change.partition("=")[2] for change in changes):
        advice = f"`serve:` with the settings of `{leader}`"
    # Where it is the second, the first claim has its ratio.
    said = [] if second == CANDIDATE else [f"{times_text(gain)} times as fast"]
    if (same := best.metrics["agreement"]) is not None:
        said.append(f"{same:.1%} of {best.metrics['photos']} test photos keep the checkpoint's label")
    text = f"Try next: {': '.join(filter(None, [advice, '; '.join(said)]))}."
    return Claim("next", text + (f" Or {search}." if search else ""))


def _tuned_finding(tuned: Tuned, serve: Configuration) -> str:
    """What the search has found, and whether ``serve`` has it already."""
    winner = tuned.rows[0]
    found = changed_settings(serve, serve.model_copy(update=tuned.metrics["winner"]))
    changed = [f"`{key}: {value_text(value)}`" for key, (_, value) in found.items()]
    keys = " and ".join(changed) if len(changed) <= MOST_KEYS else f"{len(changed)} keys of `serve:`"
    advice = f"Try next: `litmeter tune --apply`, which sets {keys}"
    gain = ratio_cell(winner.over_serve, winner.over_serve_low, winner.over_serve_high)
    if not changed:
        return f"`serve:` is what the search found: `{winner.name}`."
    if winner.incumbent:
        return "The search found nothing faster than the candidate as it was."
    if tuned.metrics["goal"] == "capacity":
        return f"{advice}: of those that the search measured it takes most requests within the objective."
    if winner.over_serve_low is None or winner.over_serve_low <= 1:
        return f"The search found `{winner.name}`, {gain} times the candidate: not resolved."
    incumbents = [row.knobs for row in tuned.rows if row.incumbent]
    now = {knob: "" if (value := getattr(serve, knob)) is None else str(value) for knob in serve.knobs}
    same = all(now.items() <= own.items() for own in incumbents)
    than = "the candidate" if same else "what `serve:` was then"
    return f"{advice}, for {gain} times {than} at {pluralise(tuned.metrics['users'], 'user')}."


def objective(rows: Sequence[ComparisonRow], objective: ObjectiveSettings) -> Claim:
    """Who is fastest among those that keep to the objective."""
    percent, slo_ms = objective_percent(objective.miss), objective.slo_ms
    known = {row.experiment: ms for row in ranked(rows) if (ms := _percentile_ms(row, percent)) is not None}
    within = [row for row in ranked(rows) if known.get(row.experiment, math.inf) <= slo_ms and not row.failed]
    if not within:
        few = "" if known else f", which takes {samples_needed(percent):,} answers"
        return Claim("objective", f"None is known to keep its p{percent:g} below {slo_ms:g} ms{few}.")
    first, *others = within
    tied = [first, *_tied(first, others)]
    names = " or ".join(f"`{row.experiment}`, {known[row.experiment]:.0f} ms" for row in tied)
    doubt = "; which of them is not resolved" if len(tied) > 1 else ""
    return Claim("objective", f"Fastest with p{percent:g} below {slo_ms:g} ms: {names}{doubt}.")


def _percentile_ms(row: ComparisonRow, percent: float) -> float | None:
    """Of ``objective_ms``, or of the column that a row of earlier code has; None where it is not known."""
    return row.objective_ms or {50.0: row.p50_ms, 95.0: row.p95_ms}.get(percent)


def capacities(snapshot: Snapshot) -> Iterator[Claim]:
    """How much traffic the fastest and the candidate take, and on how many machines they would take more."""
    names = [*(row.experiment for row in ranked(snapshot.compared)[:1]), CANDIDATE]
    for name in dict.fromkeys(names):
        if name in snapshot.capacities:
            found = snapshot.capacities[name]
            text = capacity_sentence(f"`{name}`", found.metrics)
            yield Claim("capacity", text + on_day(", measured", found.measured_at))


def on_day(done: str, time: str) -> str:
    """The end of a sentence of what was done in a run of its own, maybe an earlier one, with its day."""
    return f"{done} {time.split()[0]}." if time else "."


def doubts(snapshot: Snapshot) -> Iterator[Claim]:
    """What else must be known: of the machine, of rows without figures of this run, of errors."""
    rows = snapshot.compared
    rounds = max(row.rounds for row in rows)
    if rounds < FEW_ROUNDS:
        yield Claim("doubt", f"With only {rounds} rounds the intervals are wide: raise `comparison.seconds`.")
    errors = {
        name: f"({bound.name} is {times_text(bound.share)} times {bound.upper}, its upper bound)"
        for name, bounds in snapshot.bounds.items()
        for bound in bounds
        if bound.is_error
    }
    void = {}
    for result in snapshot.results:
        if reasons := Counter(row.void for row in result.turns if row.void):
            usual = reasons.most_common(1)[0][0]
            void[result.name] = f"({reasons.total()} of {len(result.turns)} turns: {usual})"
    yield from disturbances([row for result in snapshot.results for row in result.turns])
    if snapshot.results[0].device == "cuda" and not BLOCKING:
        yield Claim(
            "doubt",
            "Workers spin while they wait for the GPU, which counts as CPU time: CPU %, and the causes "
            "preprocessing and contention, are too high.",
        )
    for name, precision, bound in snapshot.exceeded:
        yield Claim(
            "doubt",
            f"The measured roofline in {precision} precision is too low: `{name}` ({bound.name}) does "
            f"{significant(bound.rate_rps)} images/s, {times_text(bound.share)} times as much. That rate "
            "takes its place.",
        )
    emulated = {result.name: "" for result in snapshot.results if result.emulated}
    silent = {row.experiment: "" for row in rows if row.rate_rps is None}
    failed = {row.experiment: f"({row.failed})" for row in rows if row.failed}
    earlier = {row.experiment: f"({row.earlier})" for row in rows if row.earlier}
    for what, names in {
        "This CPU has no instructions for bfloat16 and emulates it, many times slower": emulated,
        "Without an answer in one round or more": silent,
        "Requests failed, and count in no rate": failed,
        OUTDATED: dict.fromkeys(map(str, snapshot.outdated), ""),
        "Kept from an earlier run, as nothing that they depend on has changed": earlier,
        "Errors of measuring": errors,
        "Answers that fail or cannot be relied on": void,
    }.items():
        if names:
            listed = ", ".join(f"`{name}` {more}".strip() for name, more in names.items())
            yield Claim("doubt", f"{what}: {listed}.")


def disturbances(turns: Sequence[TurnRow]) -> Iterator[Claim]:
    """Who else used the cores, and what else may have changed rates, where that was so in many turns."""
    taken = [max(row.other_percent or 0.0, row.steal_percent or 0.0) for row in turns]
    others = [row for row, percent in zip(turns, taken, strict=True) if percent > OTHER_LOAD_PERCENT]
    if len(others) > DISTURBED * len(turns):
        most = max((row.other_percent or 0.0) + (row.steal_percent or 0.0) for row in others)
        cores: dict[str, float] = defaultdict(float)
        for name, used in (pair for row in others for pair in json.loads(row.others).items()):
            cores[name] += used
        yield Claim(
            "doubt",
            f"In {len(others)} of {len(turns)} turns others used the cores ({named_others(cores)}), up to "
            f"{most:.0f}% of them: where intervals are wide, measure again.",
        )
    left = [row.warnings for row in turns if row.warnings and row not in others]
    if len(left) > DISTURBED * len(turns):
        usual = Counter(left).most_common(1)[0][0]
        yield Claim(
            "doubt", f"In {len(left)} of {len(turns)} turns something else may have changed rates: {usual}."
        )


def subject(snapshot: Snapshot) -> str:
    """What is served: the model that stages make, or each server of one's own."""
    if snapshot.ceilings:
        return str(snapshot.ceilings["architecture"])
    served = (
        result.serve.spec if result.serve.knobs else result.serve.describe("") for result in snapshot.results
    )
    return ", ".join(dict.fromkeys(served))


def setting(snapshot: Snapshot) -> str:
    """The model that stages make, and the machine."""
    if not snapshot.ceilings:
        return describe_machine(snapshot.machine)
    model = f"{subject(snapshot)} at {snapshot.params.model.side} px"
    return f"{model}, on {describe_machine(snapshot.machine)}"


def reading(snapshot: Snapshot) -> str:
    """How the table of results is read."""
    params = snapshot.params
    users = pluralise(params.comparison.users, "user")
    candidate = ""
    if CANDIDATE in params.configurations():
        candidate = f" `{CANDIDATE}` is the section `serve:` of params.yaml."
    model = ", then of what the model loses to the hardware's peak, if that is as much"
    return (
        f"All configurations were served at once and loaded in turn by {users}, each of which sends its "
        f"next request when the last one is answered.{candidate} "
        "Ratios are taken within rounds, with 95% intervals for all together; the fastest, and all that "
        "cannot be told from it, have rank 1. p95: 95% of the requests took no longer; it needs 130 answers. "
        "Slow ones have fewer turns, and a ratio of these rounds alone. Held back by: the main cause of what "
        f"is lost in serving{model if snapshot.ceilings else ''}."
    )


def provenance(snapshot: Snapshot) -> str:
    """The machine, the model with its accuracy and cost, and the peaks."""
    params, ceilings, train = snapshot.params, snapshot.ceilings, snapshot.train
    if not snapshot.train:
        return f"Measured: {setting(snapshot)}. Users send what is in `{params.load.bodies}`."
    form = "image files" if params.load.request_body == "image" else "base64 in JSON"
    peaks = " and ".join(
        f"{ceilings[key]:.3f} TFLOP/s in {precision}"
        for precision in ("full", "half")
        if (key := f"peak_{precision}_tflops") in ceilings
    )
    low, high = accuracy_interval(train)
    cost = "not available"
    if ceilings["macs"]:
        cost = f"{ceilings['macs'] / 1e9:.3f} GMACs, {ceilings['flops'] / 1e9:.3f} GFLOPs"
    return (
        f"Measured: {setting(snapshot)}. Task {params.data.task}: accuracy {train['test_accuracy']:.3f} on "
        f"{train['test_images']} test photos (95% interval {low:.3f} to {high:.3f}). One image costs: "
        f"{cost}; the peak is {peaks} precision ({ceilings['peak_source']}), the memory's bandwidth "
        f"{ceilings['bandwidth_gbs']:.1f} GB/s (measured). Every user sends {form}."
    )


def accuracy_interval(train: Mapping[str, Any]) -> tuple[float, float]:
    """95% interval of the test accuracy, by metrics/train.json."""
    tested = train["test_images"]
    return wilson_interval(round(train["test_accuracy"] * tested), tested)


def tuned_text(tuned: Tuned) -> str:
    """Which configuration won, how much it gains, and which are not slower."""
    metrics, rows = tuned.metrics, tuned.rows
    winner, incumbent = rows[0], next(row for row in rows if row.incumbent)
    text = (
        f"Of {metrics['combinations']:,} combinations {metrics['raced']} raced, for "
        f"{pluralise(metrics['rounds'], 'round')} at {pluralise(metrics['users'], 'user')}. "
        f"`{winner.name}` won with {rate_cell(winner.rate_rps)} req/s, "
        f"{ratio_cell(winner.over_serve, winner.over_serve_low, winner.over_serve_high)} times `serve:`, "
        f"which was `{incumbent.name}` then"
    )
    if winner.agreement is not None:
        text += f", and gives {winner.agreement:.1%} of the photos not trained on full precision's label"
    text += f". {at_users(metrics['users']).capitalize()}."
    for status, said in (("equal", "As fast within 3%"), ("not resolved", "Not resolved from the fastest")):
        if names := [f"`{row.name}`" for row in rows if row.status == status]:
            text += f" {said}: {', '.join(names)}."
    return text
