"""How many machines a rate of requests needs, and at what price, by measured capacities."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from litmeter.errors import ReportError
from litmeter.measure.capacity import CapacityMetrics
from litmeter.params import params_on
from litmeter.paths import MACHINE, CapacityPaths
from litmeter.report.snapshot import OUTDATED, outdated, read_capacities
from litmeter.report.tables import capacity_text
from litmeter.say.tables import pluralise, significant
from litmeter.system.files import read_json, reading

PLANNED_SHARE = 0.9
"""Of the low end of a capacity, by which one plans: docs/capacity.md says how often that is too much."""
EXAMPLE_RPS = 1000.0
"""For which machines are counted where nobody named a rate."""
MILLION, HOUR_S = 1e6, 3600.0


@dataclass(frozen=True)
class Offer:
    """A configuration on a machine: its capacity, and what the machine costs.

    Attributes:
        label: name of the revision, folder or node; empty for this tree.
        name: of the configuration.
        machine: metrics/machine.json.
        measured_at: the capacity's time; empty where it is unknown.
        price: of the machine, an hour.
        outdated: whether the capacity is OUTDATED.
    """

    label: str
    name: str
    machine: Mapping[str, Any]
    metrics: CapacityMetrics
    measured_at: str
    price: float
    outdated: bool = False

    @property
    def title(self) -> str:
        """Its names in a sentence."""
        return " ".join(f"`{name}`" for name in (self.label, self.name) if name)

    @property
    def million(self) -> tuple[float, float] | None:
        """Lowest and highest price of a million requests, at PLANNED_SHARE of the ends of the capacity.

        One plans with the highest. The lowest is 0 where there is no high end. None without a low end.
        """
        low, high = (
            end and self.price * MILLION / (HOUR_S * PLANNED_SHARE * end)
            for end in (self.metrics.high_rps, self.metrics.low_rps)
        )
        return (low or 0.0, high) if high else None


def describe_machine(machine: Mapping[str, Any]) -> str:
    """The machine in one line."""
    gpu = f", {machine['gpu']}" if machine["gpu"] else ", no GPU"
    libraries = "".join(f", {name} {machine[name]}" for name in ("torch", "litserve") if name in machine)
    return (
        f"{machine['cpu']}, {pluralise(machine['cores'], 'core')} ({' '.join(machine['cpu_flags'])}), "
        f"{machine['memory_gib']} GiB{gpu}{libraries}"
    )


def machines_for(rate_rps: float, metrics: CapacityMetrics) -> int | None:
    """Machines that take ``rate_rps``, each PLANNED_SHARE of its capacity's low end; None without one."""
    return math.ceil(rate_rps / (PLANNED_SHARE * metrics.low_rps)) if metrics.low_rps else None


def capacity_sentence(name: str, metrics: CapacityMetrics, rate_rps: float = EXAMPLE_RPS) -> str:
    """What a configuration takes, and how many machines ``rate_rps`` needs; without a full stop."""
    text = f"{name} {capacity_text(metrics)}"
    if count := machines_for(rate_rps, metrics):
        text += f"; for {rate_rps:,g} a second plan {pluralise(count, 'machine')}, {count + 1} with one spare"
    return text


def plan_cells(rate_rps: float, metrics: CapacityMetrics) -> list[str]:
    """Under PLAN: the capacity's interval, and machines for ``rate_rps``, without a spare and with one."""
    low, high = (end and significant(end) for end in (metrics.low_rps, metrics.high_rps))
    capacity = f"{low} to {high}" if high else f"at least {low}" if low else "-"
    count = machines_for(rate_rps, metrics)
    wide = " (wide)" if high and metrics.status != "resolved" else ""
    return [capacity + wide, *(["-", "-"] if count is None else [f"{count:,}", f"{count + 1:,}"])]


PLAN = ("requests/s", "machines", "with a spare")


def read_offers(label: str, price: float, configuration: str | None = None) -> list[Offer]:
    """Those of all configurations below the current folder, or of one.

    Raise ReportError where no capacity is known.
    """
    with reading(MACHINE, "dvc repro", ReportError):
        machine = read_json(MACHINE)
        params, _ = params_on(machine)
    known = read_capacities(params)
    names = [name for name in known if configuration in (None, name)]
    if not names:
        what = configuration or ", ".join(params.objective.configurations)
        raise ReportError(
            f"no capacity of {what} for this machine and these settings; `make capacity` makes it"
        )
    offers = []
    for one in names:
        found, late = known[one], bool(outdated(CapacityPaths(one).metrics))
        offers.append(Offer(label, one, machine, found.metrics, found.measured_at, price, late))
    return offers


def ranked(offers: Sequence[Offer]) -> list[tuple[int | None, Offer]]:
    """The cheapest first, with ranks: those whose intervals overlap with the cheapest one's have rank 1.

    Ranks of the others likewise; None without a price. Raise ReportError where objectives differ.
    """
    objectives = {f"{100 * (1 - one.metrics.miss):.4g}% within {one.metrics.slo_ms:g} ms" for one in offers}
    if len(objectives) > 1:
        raise ReportError(f"prices compare under one objective, not {' and '.join(sorted(objectives))}")
    prices = [one.million for one in offers if one.million]
    found = [
        (None if (own := one.million) is None else 1 + sum(high < own[0] for _, high in prices), one)
        for one in offers
    ]
    return sorted(found, key=lambda pair: pair[1].million[1] if pair[1].million else math.inf)


def offers_table(offers: Sequence[Offer], rate_rps: float) -> tuple[list[str], list[list[str]]]:
    """Head and rows, the cheapest first; names between backticks."""
    several = any(one.label for one in offers)
    head = [*(["machine", "hardware"] if several else []), "configuration", *PLAN, "per million", "rank"]
    rows = []
    for rank, one in ranked(offers):
        gpu = f", {one.machine['gpu']}" if one.machine["gpu"] else ""
        hardware = f"{one.machine['cpu']}, {pluralise(one.machine['cores'], 'core')}{gpu}"
        rows.append(
            [
                *([f"`{one.label}`", hardware] if several else []),
                f"`{one.name}`",
                *plan_cells(rate_rps, one.metrics),
                million_cell(one),
                f"{rank or '-'}",
            ]
        )
    return head, rows


def million_cell(offer: Offer) -> str:
    """Lowest and highest price of a million requests; one plans with the highest."""
    if offer.million is None:
        return "-"
    low, high = map(significant, offer.million)
    return f"{low} to {high}" if offer.million[0] else f"at most {high}"


def offers_text(offers: Sequence[Offer], rate_rps: float) -> list[str]:
    """Sentences of this tree's configurations, or of the cheapest and those without a price; and caveats."""
    places, said = ranked(offers), []
    leaders = [one for rank, one in places if rank == 1]
    for one in (one for rank, one in places if rank in (1, None) or not one.label):
        text = capacity_sentence(one.title, one.metrics, rate_rps)
        if one.million:
            text += f"; a million cost at most {significant(one.million[1])} at {one.price:g} an hour"
        said.append(f"{text}.")
    if len(leaders) > 1:
        tied = ", ".join(one.title for one in leaders)
        said.append(f"Which of {tied} is cheapest is not resolved: their intervals overlap.")
    if late := [one.title for one in offers if one.outdated]:
        said.append(f"{OUTDATED}: {', '.join(late)}.")
    machines = {one.label: one for one in offers}
    for kind in dict.fromkeys(one.machine["id"] for one in machines.values()):
        same = [f"`{label}`" for label, one in machines.items() if one.machine["id"] == kind]
        if len(same) > 1:
            said.append(f"{' and '.join(same)} have the same hardware.")
    if len(machines) > 1:
        dates = {label: one.measured_at or "at an unknown time" for label, one in machines.items()}
        times = ", ".join(f"`{label}` {date}" for label, date in dates.items())
        said.append(
            "Machines cannot be measured in turn, as configurations are, and speeds change from hour to "
            f"hour. Measured: {times}."
        )
    return said
