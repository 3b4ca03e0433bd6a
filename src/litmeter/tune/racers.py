"""Who races: the configurations that should be fastest by their parts' costs, and answer as they must."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from litmeter.inference.answers import answers_of
from litmeter.inference.reference import Reference
from litmeter.params import ServeSettings
from litmeter.paths import ModelFolders
from litmeter.tune.prediction import Costs, predicted_rps
from litmeter.tune.record import Record
from litmeter.tune.space import name_of


@dataclass
class Racer:
    """A configuration in the race.

    Attributes:
        agreement: share of the photos with the label of full precision.
        memory_mib: of the server's processes, after a turn; None before.
        p95_by_round: latencies, ms.
        failed: requests that were refused, failed or timed out.
        broken: the constraint that it does not keep to, empty where it keeps to all.
    """

    name: str
    settings: ServeSettings
    predicted_rps: float
    agreement: float
    memory_mib: float | None = None
    p95_by_round: list[float] = field(default_factory=list)
    failed: int = 0
    broken: str = ""

    @classmethod
    def of(cls, settings: ServeSettings, predicted_rps: float, agreement: float) -> Racer:
        """A racer under the name that says its settings."""
        return cls(name_of(settings), settings, predicted_rps, agreement)

    @property
    def p95_ms(self) -> float | None:
        """Median over its turns, None where it has not answered."""
        return median(self.p95_by_round) if self.p95_by_round else None


@dataclass
class Agreements:
    """Agreement with full precision, by what the answers depend on; measured when it is asked for.

    Photos that the model was fitted to are left out: with them it agrees too well.
    """

    record: Record
    folders: ModelFolders
    device: str
    photos: Sequence[Path]
    reference: Reference

    def of(self, settings: ServeSettings) -> float:
        """Share of the photos with the label of the reference.

        Raises:
            LitmeterError: the model cannot be run.
        """
        key = f"{settings.precision}, {settings.preprocess}, {'compiled' if settings.compiled else 'eager'}"
        kept = self.record.costs("agreement")
        if key not in kept:
            numbers = [number for number, split in enumerate(self.reference.splits) if split != "train"]
            chosen = [self.photos[number] for number in numbers]
            [answers] = answers_of(self.folders, self.device, [settings], chosen)
            expected = self.reference.probabilities[numbers].argmax(axis=1)
            kept[key] = float((answers.argmax(axis=1) == expected).mean())
            self.record.keep_cost("agreement", key, kept[key])
        return float(kept[key])


def ranking(
    configurations: Sequence[ServeSettings], costs: Costs, cores: int, users: int
) -> list[tuple[ServeSettings, float]]:
    """The configurations with their predicted rates, fastest first; of equals, the simpler first."""
    predicted = [(one, predicted_rps(one, costs, cores, users)) for one in configurations]
    return sorted(predicted, key=lambda pair: (-pair[1], simplicity(pair[0])))


def simplicity(settings: ServeSettings) -> tuple[float, ...]:
    """What is cheaper and simpler sorts first: fewer workers, smaller batches, no waiting, stock parts."""
    return (
        settings.workers_per_device,
        settings.max_batch_size,
        settings.batch_timeout_s,
        settings.transport != "litserve",
        settings.compiled,
        settings.preprocess != "timm",
        settings.keep_freed_memory,
    )


def eligible(
    ranked: Sequence[tuple[ServeSettings, float]],
    agreements: Agreements,
    min_agreement: float,
    left_out: Counter[str],
) -> Iterator[Racer]:
    """The configurations that may race, in the order of ``ranked``.

    Of those with the very same prediction the simplest alone races: nothing that was measured tells them
    apart. Those that agree too little with full precision are counted in ``left_out``.
    """
    last = None
    for settings, predicted in ranked:
        if predicted == last:
            left_out["predicted as fast as a simpler one"] += 1
            continue
        agreement = agreements.of(settings)
        if agreement < min_agreement:
            left_out[too_little(agreement, min_agreement)] += 1
            continue
        last = predicted
        yield Racer.of(settings, predicted, agreement)


def too_little(agreement: float, min_agreement: float) -> str:
    """Why a configuration does not race or win whose answers differ from those of full precision."""
    return f"{agreement:.1%} of the labels as in full precision, less than {min_agreement:.4g}"
