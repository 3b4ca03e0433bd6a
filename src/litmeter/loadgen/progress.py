"""Progress bar of a load."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from litmeter.loadgen.generator import LoadPlan, OnProgress
from litmeter.system.progress import bar
from litmeter.system.tables import pluralise


@contextmanager
def load_bar(plans: Sequence[LoadPlan], description: str) -> Iterator[OnProgress]:
    """Show a bar of the answers that ``plans`` measure; yield the callback for ``generate`` that moves it."""
    before = {plan.users: sum(p.requests for p in plans[:index]) for index, plan in enumerate(plans)}
    requests = {plan.users: plan.requests for plan in plans}
    with bar(sum(requests.values()), description, "answer") as progress:

        def update(users: int, answers: int, seconds: float) -> None:
            progress.set_postfix_str(pluralise(users, "user"))
            progress.update(before[users] + min(answers, requests[users]) - progress.n)

        yield update
