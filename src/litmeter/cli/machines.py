"""``litmeter machines``: how many machines a rate of requests needs, and at what price."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from litmeter.errors import UsageError
from litmeter.report.charts import prices as chart
from litmeter.report.charts import save_png
from litmeter.report.machines import Offer, offers_table, offers_text, read_offers
from litmeter.report.pages import write_machines
from litmeter.report.snapshot import entered
from litmeter.say.progress import print_wrapped
from litmeter.say.tables import text_table
from litmeter.settings import Positive
from litmeter.system.files import check_outputs


def machines(
    *revisions: Annotated[str, Parameter(name="REV")],
    rate: Positive,
    price: list[str],
    configuration: str | None = None,
    picture: Path | None = None,
    out: Path | None = None,
) -> None:
    """How many machines a rate of requests needs, and what a million of them cost, by `make capacity`.

    Args:
        revisions: commits, branches, experiments or folders of this project with results of other machines
            (default: those of this folder)
        rate: requests a second, of all machines together
        price: of a machine, an hour: one for all, or for each REV=PRICE; repeatable
        configuration: only this one (default: all of objective.configurations)
        picture: a PNG file for a picture of the prices
        out: an HTML file for a page with all of it
    """
    check_outputs(picture=picture, out=out)
    offers: list[Offer] = []
    for name, own_price in prices_of(price, revisions).items():
        with entered(name) if name else nullcontext():
            offers += read_offers(name, own_price, configuration)
    head, rows = offers_table(offers, rate)
    print(text_table(head, [[cell.replace("`", "") for cell in row] for row in rows]))
    for sentence in offers_text(offers, rate):
        print_wrapped(sentence.replace("`", ""))
    if picture is not None:
        save_png(picture, [chart(offers, rate)])
    if out is not None:
        write_machines(out, offers, rate)


def prices_of(given: Sequence[str], names: Sequence[str]) -> dict[str, float]:
    """The price of each name in their order, of "" where there are no names.

    Raise UsageError for anything but numbers above 0, and where a name has no price, or another name has one.
    """
    found: dict[str, float] = {}
    for text in given:
        name, _, number = text.rpartition("=")
        try:
            found[name] = float(number)
        except ValueError:
            found[name] = math.nan
        if not 0 < found[name] < math.inf:
            raise UsageError(f"--price: expected a number above 0, or REV=NUMBER, got {text!r}")
    if found.keys() == {""}:
        return dict.fromkeys(names or [""], found[""])
    if not names or found.keys() != set(names):
        each = f", or REV=NUMBER for each of {', '.join(names)}" if names else ""
        got = ", ".join(name or "a number" for name in found)
        raise UsageError(f"--price: expected one number{each}, got {got}")
    return {name: found[name] for name in names}
