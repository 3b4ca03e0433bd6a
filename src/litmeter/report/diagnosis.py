"""What limits a configuration: bounds of its rate, and causes of the losses from one bound to the next.

Bounds are in images/s = requests/s, or tokens/s, from the hardware's peak down to the served rate. Each bound
limits the next; a bound's share of the one before it is what is left of the rate. A LitAPI has bounds above
its model (its ``predict``) where the costs of an item are known. A server that cannot be run in-process has
neither model nor pipeline. A share above 1 by more than its interval is a bug of the bound above, and then no
cause is named; but a measured roofline gives way to the rate of a model that exceeds it.

docs/bounds-and-diagnosis.md has all causes. The causes of the loss in serving (from the model in-process down
to the served rate, see losses.py) come first; the cause of a loss above the model follows if that loss is as
large. Advice is read from what the run has timed: other configurations, packages of other precisions,
pipelines in-process. Whatever the cause, the key is named that brings most of what was timed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from litmeter.classifier.model.rows import Ceilings, PrecisionCeiling
from litmeter.kinds.costs import CostCeilings
from litmeter.measure.rows import OTHER_LOAD_PERCENT
from litmeter.params import changed_settings
from litmeter.report.losses import NO_KEY, USERS_KEY, WORTH, Why, losses_of, moves
from litmeter.report.results import Result, mean
from litmeter.say.tables import pluralise, ratio_cell, significant
from litmeter.stats.ratios import FAMILY_ERROR, Ratio, ratio, simultaneous

BOUND_NAMES = ("datasheet", "roofline", "model", "pipeline", "served")
DATASHEET, ROOFLINE, MODEL, PIPELINE, SERVED = BOUND_NAMES
AnyCeilings = Ceilings | CostCeilings | None
Rates = list[float | None]
"""Rates by round, None where a rate is unknown."""
UNKNOWN = Ratio(1.0, None, None)
SHARES = 24
"""Usual number of shares in a report: with individual intervals one of them would exceed 1 by chance."""
CPU_FULL_PERCENT = 80.0
"""CPU use of a full machine: even a saturated server leaves cores idle between one batch and the next."""
CLOSE_TO_ROOFLINE = 0.7
"""Share of the roofline from which the hardware is the cause: the roofline counts convolutions and matrix
products only, so no model reaches 1."""
ROUNDS = 3
"""Fewest rounds for the interval of a rate."""
MOST_KEYS = 2
"""Most keys by which two configurations may differ to show what one key brings: a batch size, its timeout."""
EMULATED, PREPROCESSING = "half precision is emulated", "preprocessing"
TOO_FEW_USERS = "too few users"
NOT_AVAILABLE = "not available"
"""The cause where the server cannot be run in-process."""


@dataclass(frozen=True)
class Bound:
    """A bound of the rate.

    Attributes:
        upper, upper_rps: name and rate of the bound before; empty and 0 for the first.
        share: of the bound before, with a 95% interval where one is known; 1 for the first.
        is_error: whether the rate exceeds the bound before, by an interval that holds for all shares.
        tokens: of an item that is a generation.
    """

    name: str
    rate_rps: float
    upper: str = ""
    upper_rps: float = 0.0
    share: Ratio = UNKNOWN
    is_error: bool = False
    tokens: int | None = None

    @property
    def rate(self) -> float:
        """The rate in images/s, requests/s or tokens/s."""
        return self.rate_rps * (self.tokens or 1)

    @property
    def upper_rate(self) -> float:
        """That of the bound before."""
        return self.upper_rps * (self.tokens or 1)

    @property
    def is_loss(self) -> bool:
        """Whether the rate lies below the bound before by more than the share's interval."""
        return self.share.resolved and self.share.ratio < 1


class Exceeded(NamedTuple):
    """A measured roofline that a model exceeds: the configuration, the roofline's name, and the bound."""

    name: str
    ceiling: str
    bound: Bound
    unit: str


def bounds_of(result: Result, ceilings: AnyCeilings) -> list[Bound]:
    """The bounds of one configuration, from the highest; bounds of unknown rate are left out.

    1. datasheet: the datasheet's peak over FLOPs per image, where the device is in the table;
    2. roofline: measured peak and memory bandwidth, at the best batch size (by costs: the configured one);
    3. model in-process; 4. pipeline in-process: decode, preprocess and model, at the same batch size;
    5. served.

    The last three were measured by the comparison, and their ratios are taken within its rounds.
    """
    row = result.compared
    served = result.rates("served")
    own = ceilings.of(result.ceiling) if ceilings else PrecisionCeiling()
    constants = {DATASHEET: own.datasheet_rps, ROOFLINE: own.roofline_rps}
    known: dict[str, tuple[float | None, Rates]] = {
        **{name: (rate_rps, [rate_rps] * len(served)) for name, rate_rps in constants.items()},
        MODEL: (row.model_rps, result.rates("model")),
        PIPELINE: (row.pipeline_rps, result.rates("pipeline")),
        SERVED: (row.rate_rps, served),
    }
    bounds: list[Bound] = []
    for name, (rate_rps, rates) in known.items():
        if not rate_rps:
            continue
        bound = Bound(name, rate_rps, tokens=result.tokens)
        if bounds:
            upper = bounds[-1]
            above = known[upper.name][1]
            share = _share(rates, above) or Ratio(rate_rps / upper.rate_rps, None, None)
            surely = _share(rates, above, simultaneous(SHARES)) or share
            is_error = surely.resolved and surely.ratio > 1
            bound = replace(bound, upper=upper.name, upper_rps=upper.rate_rps, share=share, is_error=is_error)
        bounds.append(bound)
    return bounds


def raised(results: Sequence[Result], ceilings: AnyCeilings) -> tuple[AnyCeilings, list[Exceeded]]:
    """Ceilings with rooflines raised to the models that exceed them, and the largest excesses.

    A measured peak is the highest rate that was tried; a model that is faster by more than the interval shows
    that the peak is higher.
    """
    found: dict[str, Exceeded] = {}
    for result in results:
        ceiling = result.ceiling
        for bound in bounds_of(result, ceilings):
            most = found[ceiling].bound.rate_rps if ceiling in found else 0.0
            if bound.upper == ROOFLINE and bound.is_error and bound.rate_rps > most:
                found[ceiling] = Exceeded(result.name, ceiling, bound, result.unit)
    rooflines = {ceiling: excess.bound.rate_rps for ceiling, excess in found.items()}
    return ceilings and ceilings.with_rooflines(rooflines), [*found.values()]


def _share(rates: Rates, above: Rates, error: float = FAMILY_ERROR) -> Ratio | None:
    """The ratio of two series; None where they have no common round."""
    if not any(a and b for a, b in zip(rates, above, strict=True)):
        return None
    return ratio({"rates": rates, "above": above}, "rates", "above", reference="above", error=error)


@dataclass(frozen=True)
class Diagnosis:
    """What limits a configuration, or explains one of its losses.

    Attributes:
        cause: the name of a cause, "A and B" of two, ", then C" for a cause above the model; empty where
            nothing is lost, or a bound is wrong.
        parameter: the key of params.yaml that would change the rate, None without one.
        text: sentences with the figures that are evidence of the cause.
        loss: the lower bound of the first loss.
        advice: what to do with ``parameter``, in a few words.
        without: why no cause is named, in a few words.
    """

    cause: str
    parameter: str | None
    text: str
    loss: Bound | None = None
    without: str = ""
    advice: str = ""

    @property
    def held_back_by(self) -> str:
        """The cause, or why none is named, for a table."""
        return f"{self.cause}: {self.without}" if self.cause and self.without else self.cause or self.without


def diagnose(
    result: Result, bounds: Sequence[Bound], ceilings: AnyCeilings, timed: Sequence[Result] = ()
) -> Diagnosis:
    """Diagnose one configuration by its bounds, its ceilings, and all results of the run."""
    found = _explained(result, bounds, ceilings, timed)
    served = [*_measured(result, timed)]
    known = {(one.key, one.value) for one in served}
    others = [one for one in _in_process(result, timed) if (one.key, one.value) not in known]
    options = [option for option in (*served, *others) if option.key]
    best = max(options, key=lambda option: option.gain, default=None)
    if best is None or best.gain < WORTH or not result.served or any(bound.is_error for bound in bounds):
        return found
    text = found.text.replace(f"; {NO_KEY}", "")
    if best.text not in text:
        text += f" Of what was timed, `{best.key}` brings most: {best.text}."
    advice = f"`{best.key}`: {best.text}"
    return replace(found, parameter=best.key, text=text, advice=advice)


def for_command(found: Diagnosis) -> Diagnosis:
    """A diagnosis for users of `litmeter compare`, who have options in place of params.yaml."""
    words = {USERS_KEY: "--users", "comparison.seconds": "--seconds", NO_KEY: "none of its settings moves it"}

    def said(text: str) -> str:
        for key, option in words.items():
            text = text.replace(key, option)
        return text

    parameter = found.parameter and said(found.parameter)
    return replace(found, parameter=parameter, text=said(found.text), advice=said(found.advice))


def _explained(
    result: Result, bounds: Sequence[Bound], ceilings: AnyCeilings, timed: Sequence[Result]
) -> Diagnosis:
    if result.emulated:
        return _emulated(result)
    if result.unavailable:
        what = "Causes" if len(bounds) > 1 else "Bounds and causes"
        text = f"{what} are not available: {result.unavailable}.{_below(result, bounds)}"
        return Diagnosis(NOT_AVAILABLE, None, text, without=result.unavailable)
    if not result.served:
        text = "This run has no turns that explain its rate."
        return Diagnosis("", None, text, without="not known: not of this run")
    if not any(bound.name in (MODEL, PIPELINE) for bound in bounds):
        text = (
            "It was not run in-process, so nothing explains its rate; a longer `comparison.seconds` may do."
            + _below(result, bounds)
        )
        return Diagnosis("", None, text, without="not known: not run in-process")
    if wrong := [bound for bound in bounds if bound.is_error]:
        rates = ", ".join(
            f"{bound.name} {_rates(bound, f'the {bound.upper} of', result.unit)}" for bound in wrong
        )
        text = f"No cause is named, as a rate exceeds its upper bound: {rates}."
        return Diagnosis("", None, text, without="not known: an error of measuring")
    above = [bound for bound in bounds if bound.name in (ROOFLINE, MODEL) and bound.upper]
    above = sorted(above, key=lambda bound: (not bound.is_loss, bound.share.ratio))[:1]
    served = next(bound for bound in bounds if bound.name == SERVED)
    whole = _share(result.rates("served"), result.undisturbed_model) or served.share
    is_little = whole.low is not None and whole.low >= 1 / WORTH
    found = []
    if result.crowded or (whole.resolved and whole.ratio < 1 and not is_little):
        found.append(_serving(result, bounds, whole, timed))
    if result.filled >= WORTH:
        brings_most = result.filled * min(1.0, whole.ratio) >= 1  # more than all that is lost in serving
        found.insert(0 if brings_most else len(found), _too_few_users(result))
    named = [each.cause for each in found[:1]]
    for loss in above:
        found.append(_model(result, loss, ceilings))
        larger = loss.share.ratio < whole.ratio or loss.share.overlaps(whole)
        if not named or (loss.is_loss and larger):
            named.append(found[-1].cause)
    if not named:
        text = f"{_users_get(result, bounds, whole)}."
        if is_little:
            return Diagnosis("", None, text, without="nothing lost")
        most = f": at most {1 - whole.low:.0%} is lost" if whole.low is not None else ": too few rounds"
        return Diagnosis("", None, text, without=f"not resolved{most}")
    moved = next((each for each in found if each.parameter), found[0])
    text = " ".join(each.text for each in found)
    return replace(moved, cause=", then ".join(named), text=text, loss=found[0].loss)


def _below(result: Result, bounds: Sequence[Bound]) -> str:
    """A sentence about the share of the roofline that is served; empty without a roofline."""
    served = bounds[-1]
    return f" It serves {_rates(served, f'the {served.upper} of', result.unit)}." if served.upper else ""


def share_cell(share: Ratio) -> str:
    """A share in percent: below a tenth with a decimal, above the whole with its interval."""
    text = f"{share.ratio:.0%}" if share.ratio >= 0.1 else f"{share.ratio:.1%}"
    if share.ratio < 1.005:
        return text
    known = share.low is not None and share.high is not None
    return f"{text} ({share.low:.0%} to {share.high:.0%})" if known else f"{text} (interval unknown)"


def _rates(loss: Bound, owner: str, unit: str) -> str:
    """Rate and share, as "50.0 images/s, 50% of the model's 100.0" for the owner "the model's"."""
    rates = f"{significant(loss.rate)} {unit}, {share_cell(loss.share)} of {owner}"
    return f"{rates} {significant(loss.upper_rate)}"


def _emulated(result: Result) -> Diagnosis:
    [key] = changed_settings(result.serve, result.serve.native(half_is_native=False))
    advice = f"`{key}` (full, or auto) moves it"
    text = f"{EMULATED.capitalize()}: this CPU has no instructions for bfloat16; {advice}."
    return Diagnosis(EMULATED, key, text, advice=advice)


def _too_few_users(result: Result) -> Diagnosis:
    """Workers and batches that take more requests at once than there are users."""
    serve, users = result.serve, pluralise(result.compared.users, "user")
    [size] = {round(row.batch_size or 1) for row in result.turns if row.work == "filled"}
    advice = f"more users (`{USERS_KEY}`) fill them"
    text = (
        f"{pluralise(serve.workers, 'worker')} take{'s' * (serve.workers == 1)} "
        f"{serve.workers * serve.largest_batch} {result.item}s at once, in batches of {serve.largest_batch}, "
        f"and there are {users}: in batches of {size} the pipeline in-process does {result.filled:.2f} times "
        f"as many {result.item}s/s; {advice}"
    )
    return Diagnosis(TOO_FEW_USERS, USERS_KEY, f"{TOO_FEW_USERS.capitalize()}: {text}.", advice=advice)


def _model(result: Result, loss: Bound, ceilings: AnyCeilings) -> Diagnosis:
    """The loss from the datasheet to the roofline, or from the roofline to the model in-process."""
    binding = ceilings.of(result.ceiling).roofline_bound if ceilings else None
    reached = loss.name == ROOFLINE or (loss.share.low or 0.0) >= CLOSE_TO_ROOFLINE
    doubtful = not reached and (loss.share.high or 1.0) >= CLOSE_TO_ROOFLINE
    cause = "hardware" if reached else "hardware or kernels" if doubtful else "kernels"
    options = [*_models(result)]
    higher = result.serve.higher_ceilings(ceilings, result.half_is_native, result.device)
    parameter, advice = _advice(options or [Option(*option) for option in higher])
    what = "the roofline measured here is" if loss.name == ROOFLINE else "the model in-process does"
    rate = _rates(loss, f"the {loss.upper}'s", result.unit)
    doubt = f"whether that is at least {CLOSE_TO_ROOFLINE:.0%} is not resolved; " if doubtful else ""
    if isinstance(ceilings, CostCeilings) and not reached:
        bound, evidence = _binds(result, loss.share.ratio, ceilings.of(result.ceiling).operators)
        cause = f"{cause}, {bound}" if doubtful else bound
        doubt += evidence if parameter is None else f"{evidence}; "
        advice = "" if parameter is None else advice
    text = f"{cause[:1].upper()}{cause[1:]}: {what} {rate} ({binding}-bound); {doubt}{advice}."
    return Diagnosis(cause, parameter, text, loss, advice=advice if parameter else "")


def _binds(result: Result, share: float, operators: Mapping[str, float]) -> tuple[str, str]:
    """What binds a model that has only a ``share`` of its roofline, and the measurement that shows it.

    Torch's profiler tells it of a model in torch, else the CPU time of the model's turns. At the roofline
    matrix products would take the ``share`` of the time, and nothing else any.
    """
    if operators:
        names = {"products": "kernels", "others": "other operators", "between": "Python between operators"}
        lost = {what: operators[what] - (share if what == "products" else 0.0) for what in names}
        taken = {what: f"{operators[what]:.0%}" for what in names}
        return names[max(lost, key=lost.__getitem__)], (
            f"of the time of predict matrix products take {taken['products']} ({share:.0%} at the roofline), "
            f"other operators {taken['others']}, and {taken['between']} pass between operators (by torch's "
            "profiler)"
        )
    rows = result.in_process("model")
    used = [row.rate_rps * row.workers_cpu_ms / 1000 for row in rows if row.rate_rps and row.workers_cpu_ms]
    if not used:
        return "kernels", "where the time goes was not measured"
    cores = sum(used) / len(used)
    busy = f"its threads use {cores:.1f} of {pluralise(result.cores, 'core')}"
    if cores < result.cores * CPU_FULL_PERCENT / 100:
        return "idle cores", f"{busy}: they wait between operators"
    return "kernels", f"{busy}, so work that its costs leave out binds: unpacking weights, other operators"


class Option(NamedTuple):
    """Another value of a key, and the factor by which it raises the rate, served or in-process."""

    key: str | None
    gain: float
    text: str
    value: str = ""  # for a gain in-process to give way to that of a server with the same value


def _advice(options: Sequence[Option]) -> tuple[str | None, str]:
    """The key that brings most, and the text about it."""
    best = max(options, key=lambda option: option.gain, default=None)
    if best is None:
        return None, NO_KEY
    if best.gain < WORTH:
        return None, "nothing that was timed moves it"
    return best.key, f"`{best.key}` moves it: {best.text}"


def _measured(result: Result, timed: Sequence[Result]) -> Iterator[Option]:
    """Configurations that differ by MOST_KEYS at most, and certainly served more in the rounds of both."""
    knobs, near = set(result.serve.knobs), []
    for other in timed:
        before, after = (each.serve.model_dump(mode="json") for each in (result, other))
        changed = {key: value for key, value in after.items() if value != before.get(key)}
        if changed and changed.keys() <= knobs and len(changed) <= MOST_KEYS and other.compared.rate_rps:
            near.append((other, changed))
    for other, changed in near:
        rates, before_rates = other.rates("served"), result.rates("served")
        common = min(len(rates), len(before_rates))  # a row of an earlier run has none
        over = _share(rates[:common], before_rates[:common], simultaneous(len(near)))
        if over is None or over.low is None or over.low <= 1:
            continue
        values = {key: json.dumps(value).strip('"') for key, value in changed.items()}
        key, *others = values
        beside = "".join(f", with `{other_key}: {values[other_key]}`," for other_key in others)
        times = ratio_cell(over.ratio, over.low, over.high)
        text = f"{values[key]}{beside} does {times} times the requests/s (as in `{other.name}`)"
        yield Option(key, over.ratio, text, values[key])


def _in_process(result: Result, timed: Sequence[Result]) -> Iterator[Option]:
    """What was timed without a server: models, preprocessing, batches, workers, threads."""
    yield from _models(result)
    yield from _decoders(result, timed)
    formed, larger = min(result.batch_ms, default=0), max(result.batch_ms, default=0)
    if formed < larger and larger * result.serve.workers <= result.compared.users:
        gain = result.batch_ms[formed] / result.batch_ms[larger]
        text = f"{larger} does {gain:.2f} times as many requests/s in-process"
        yield Option(result.serve.lever("batch size"), gain, text, str(larger))
    times = f"times as many {result.item}s/s in-process"
    fitting_rps = result.compared.pipeline_rps
    for row in result.in_process("more"):
        if row.rate_rps and fitting_rps and (row.low_rps or 0.0) > fitting_rps:
            gain, twice = row.rate_rps / fitting_rps, str(2 * result.serve.workers)
            yield Option(result.serve.lever("workers"), gain, f"{twice} do {gain:.2f} {times}", twice)
    if result.spread is not None:
        threads = int(result.cores) // result.compared.users
        yield Option(
            result.serve.lever("threads"), result.spread, f"{threads} do {result.spread:.2f} {times}"
        )
    if (crowded_rps := mean(result.crowded, "rate_rps")) is None:
        return
    if fitting_rps:
        gain = fitting_rps / crowded_rps
        yield Option(result.serve.lever("workers"), gain, f"fewer do {gain:.2f} {times}")
    if one_thread_rps := mean(result.one_thread, "rate_rps"):
        gain = one_thread_rps / crowded_rps
        yield Option(result.serve.lever("threads"), gain, f"1 does {gain:.2f} {times}")


def _models(result: Result) -> Iterator[Option]:
    """Keys that make the model faster, by the times of its packages, and with it the pipeline."""
    model_rps, pipeline_rps = result.compared.model_rps, result.compared.pipeline_rps
    if not model_rps or not pipeline_rps:
        return
    for key, faster, what in result.faster:
        gain = 1 / (1 - pipeline_rps / model_rps * (1 - 1 / faster))
        text = f"{what}, and the pipeline would do {gain:.2f} times as many images/s in-process"
        if result.device == "cpu" and result.threads > 1:  # packages are timed on one
            gain = min(gain, WORTH)  # whatever was timed as it would run comes first
            text = f"{what}: on one thread {faster:.2f} times, not timed on {result.threads}"
        yield Option(key, gain, text)


def _preprocessing(result: Result, timed: Sequence[Result]) -> Why:
    idle = (mean(result.in_process("pipeline"), "cpu_percent") or 100.0) < CPU_FULL_PERCENT
    parameter: str | None
    if idle and result.serve.workers < result.cores:
        parameter = result.serve.lever("workers")
        advice = moves(f"more `{parameter}`", parameter)
    else:
        parameter, advice = _advice([*_decoders(result, timed)])
    what = "to decode and preprocess an image" if result.item == "image" else "all of a request but `predict`"
    text = f"{what} takes {_preprocess_ms(result) or 0.0:.1f} ms of CPU"
    return Why(PREPROCESSING, parameter, text, advice)


def _decoders(result: Result, timed: Sequence[Result]) -> Iterator[Option]:
    """Other ways to preprocess, by the CPU time of other configurations' pipelines beyond the model."""
    preprocess_ms, whole_ms = _preprocess_ms(result), mean(result.in_process("pipeline"), "workers_cpu_ms")
    if (key := result.serve.lever("preprocessing")) is None:
        return
    for other in timed:
        if type(other.serve) is not type(result.serve) or other.emulated:  # lost in an emulated model's noise
            continue
        value, ms = getattr(other.serve, key), _preprocess_ms(other)
        if value != getattr(result.serve, key) and preprocess_ms and whole_ms and ms:
            gain = whole_ms / max(whole_ms - preprocess_ms + ms, 1e-3)
            text = f"{value} takes {ms:.1f} ms of CPU (in `{other.name}`), not {preprocess_ms:.1f}"
            yield Option(key, gain, text)


def _preprocess_ms(result: Result) -> float | None:
    """CPU time to decode and preprocess an image in-process; None where it was not measured."""
    whole, model = (mean(result.in_process(work), "workers_cpu_ms") for work in ("pipeline", "model"))
    return None if whole is None or model is None else max(0.0, whole - model)


def _users_get(result: Result, bounds: Sequence[Bound], whole: Ratio) -> str:
    """The served rate, and its share of the undisturbed one, or the measured one where others took much."""
    users, by_name = result.compared.users, {bound.name: bound for bound in bounds}
    served = by_name[SERVED]
    upper = by_name.get(MODEL) or by_name[served.upper]
    percent, unit = result.disturbed_percent(upper.name), f"{result.unit} that the {upper.name}"
    got = f"{pluralise(users, 'user')} get{'s' if users == 1 else ''} {significant(served.rate)}"
    got += f" {result.unit if result.tokens else 'req/s'}, "
    if not result.in_process(upper.name) or (percent is not None and percent <= OTHER_LOAD_PERCENT):
        rate_rps, rates = served.rate / whole.ratio, result.undisturbed_model
        own = _share(rates, [1.0] * len(rates)) if len([rate for rate in rates if rate]) >= ROUNDS else None
        ends = [significant(rate_rps * end / own.ratio) for end in (own.low, own.high) if end] if own else []
        interval = f" ({' to '.join(ends)})" * bool(ends)
        rate = f"{significant(rate_rps)}{interval} {unit} allows on an undisturbed machine"
        return f"{got}{share_cell(whole)} of the {rate}"
    share = share_cell(Ratio(served.rate_rps / upper.rate_rps, None, None))
    measured = f"{got}{share} of the {significant(upper.rate)} {unit} does in-process"
    if percent is None:
        return f"{measured}, beside others or not: a quota does not say"
    return f"{measured} while others take {percent:.0f}% of the cores (undisturbed: not known beside others)"


def _serving(result: Result, bounds: Sequence[Bound], whole: Ratio, timed: Sequence[Result]) -> Diagnosis:
    """The loss from the undisturbed model in-process down to the served rate, by its largest causes."""
    rate, losses = _users_get(result, bounds, whole), {bound.name: bound for bound in bounds}
    served = losses[SERVED]
    found = losses_of(result, _preprocessing(result, timed))
    if not found:
        return Diagnosis("unexplained", None, f"Unexplained: {rate}.", served)
    if found[0].why.cause == PREPROCESSING and sum(loss.core_ms for loss in found[1:]) > found[0].core_ms:
        found[:2] = reversed(found[:2])  # served and pipeline lie farther apart than pipeline and model
    overlapping = [loss for loss in found if loss.share.overlaps(found[0].share)]
    named = [loss for loss in overlapping if loss.core_ms >= found[0].core_ms / 2]
    cause = " and ".join(dict.fromkeys(loss.why.cause for loss in named))
    evidence = " ".join(f"{share_cell(loss.share)} of the loss: {loss.why.text}." for loss in named)
    text = f"{cause[:1].upper()}{cause[1:]}: {rate}. {evidence}"
    why = named[0].why
    first = losses.get(PIPELINE, served) if why.cause == PREPROCESSING else served
    return Diagnosis(cause, why.key, text, first, advice=why.advice if why.key else "")
