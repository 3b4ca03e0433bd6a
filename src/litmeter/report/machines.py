"""Number and price of machines for a rate of requests, by measured capacities."""

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
"""Planned load as a share of a capacity's low end: docs/capacity.md says how often that is too much."""
EXAMPLE_RPS = 1000.0
"""Default rate for which machines are counted."""
MILLION, HOUR_S = 1e6, 3600.0


@dataclass(frozen=True)
class Offer:
    """A configuration on a machine: its capacity and the machine's price.

    Attributes:
        label: name of the revision, folder or node; empty for this tree.
        name: of the configuration.
        machine: metrics/machine.json.
        measured_at: when the capacity was measured; empty where that is unknown.
        price: of an hour of the machine.
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
        """Label and name for a sentence."""
        return " ".join(f"`{name}`" for name in (self.label, self.name) if name)

    @property
    def million(self) -> tuple[float, float] | None:
        """Lowest and highest price of a million requests, by PLANNED_SHARE of both ends of the capacity.

        The lowest price is 0 where the capacity has no high end. None without a low end.
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
    """Machines for ``rate_rps``, each with PLANNED_SHARE of the capacity's low end; None without one."""
    return math.ceil(rate_rps / (PLANNED_SHARE * metrics.low_rps)) if metrics.low_rps else None


def capacity_sentence(name: str, metrics: CapacityMetrics, rate_rps: float = EXAMPLE_RPS) -> str:
    """The capacity of a configuration and the machines for ``rate_rps``, without a full stop."""
    text = f"{name} {capacity_text(metrics)}"
    if count := machines_for(rate_rps, metrics):
        text += f"; for {rate_rps:,g} a second plan {pluralise(count, 'machine')}, {count + 1} with one spare"
    return text


def plan_cells(rate_rps: float, metrics: CapacityMetrics) -> list[str]:
    """Cells below PLAN: the capacity's interval, machines for ``rate_rps``, and these with a spare."""
    low, high = (end and significant(end) for end in (metrics.low_rps, metrics.high_rps))
    capacity = f"{low} to {high}" if high else f"at least {low}" if low else "-"
    count = machines_for(rate_rps, metrics)
    wide = " (wide)" if high and metrics.status != "resolved" else ""
    return [capacity + wide, *(["-", "-"] if count is None else [f"{count:,}", f"{count + 1:,}"])]


PLAN = ("requests/s", "machines", "with a spare")


def read_offers(label: str, price: float, configuration: str | None = None) -> list[Offer]:
    """Offers of all configurations below the current folder, or of ``configuration``.

    Raise ReportError where no capacity is known.
    """
    with reading(MACHINE, "dvc repro", ReportError):
        machine = read_json(MACHINE)
        params, _ = params_on(machine)
    known, left_out = read_capacities(params)
    found = {name: one for name, one in known.items() if configuration in (None, name)}
    if not found:
        what = configuration or ", ".join(params.objective.configurations)
        why = "; ".join(f"{one}: {reason}" for one, reason in left_out.items())
        raise ReportError(
            f"no capacity of {what} for this machine and these settings{why and f' ({why})'}; "
            "`make capacity` makes it"
        )
    late = {name: bool(outdated(CapacityPaths(name).metrics)) for name in found}
    return [
        Offer(label, name, machine, one.metrics, one.measured_at, price, late[name])
        for name, one in found.items()
    ]


def ranked(offers: Sequence[Offer]) -> list[tuple[int | None, Offer]]:
    """Offers with their ranks, the cheapest first; the rank is None without a price.

    An offer's rank is 1 more than the number of offers that are certainly cheaper, by intervals of prices.
    Raise ReportError where objectives differ.
    """
    objectives = {f"{100 * (1 - one.metrics.miss):.4g}% {one.metrics.limits.text}" for one in offers}
    if len(objectives) > 1:
        raise ReportError(f"prices compare under one objective, not {' and '.join(sorted(objectives))}")
    prices = [one.million for one in offers if one.million]
    found = [
        (None if (price := one.million) is None else 1 + sum(high < price[0] for _, high in prices), one)
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
    """Lowest and highest price of a million requests."""
    if offer.million is None:
        return "-"
    low, high = map(significant, offer.million)
    return f"{low} to {high}" if offer.million[0] else f"at most {high}"


def offers_text(offers: Sequence[Offer], rate_rps: float) -> list[str]:
    """Sentences about this tree's offers, the cheapest ones and those without a price; and caveats."""
    places, said = ranked(offers), []
    for one in (one for rank, one in places if rank in (1, None) or not one.label):
        text = capacity_sentence(one.title, one.metrics, rate_rps)
        if one.million:
            text += f"; a million cost at most {significant(one.million[1])} at {one.price:g} an hour"
        said.append(f"{text}.")
    cheapest = [one.title for rank, one in places if rank == 1]
    if len(cheapest) > 1:
        tied = ", ".join(cheapest)
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
