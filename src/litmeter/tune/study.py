"""What a search has measured, kept by Optuna: in a file, or in any database that SQLAlchemy reaches.

Costs and rounds are attributes of the study, written as soon as they are measured, below a signature of all
that they depend on: a search that was stopped goes on with them, and one study holds those of many machines
and models. When a search is done, each configuration that raced becomes a trial.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.exc import SQLAlchemyError

from litmeter.errors import StorageError
from litmeter.params import KNOBS, ServeSettings

NAME = "litmeter"
DISTRIBUTIONS: Mapping[str, BaseDistribution] = {
    "precision": CategoricalDistribution(("full", "half", "int8")),
    "compiled": CategoricalDistribution((False, True)),
    "preprocess": CategoricalDistribution(("timm", "torchvision", "scaled")),
    "transport": CategoricalDistribution(("litserve", "direct")),
    "workers_per_device": IntDistribution(1, 1024),
    "threads_per_worker": IntDistribution(0, 1024),
    "max_batch_size": IntDistribution(1, 65536),
    "batch_timeout_s": FloatDistribution(0.0, 60.0),
    "keep_freed_memory": CategoricalDistribution((False, True)),
}
"""Of all values that a knob may have, as Optuna wants them to be the same in all trials of a study."""
TRIES, RETRY_S = 3, 0.5
"""Of two searches that begin at once in an empty database, one fails to create the tables, and retries."""

Found = TypeVar("Found")


@dataclass(frozen=True)
class Round:
    """One round of a race; all mappings are by configuration.

    Attributes:
        rates: requests per second; 0 where it did not answer.
        p95_ms: of those that answered.
        memory_mib: of the server's processes after its turn.
        failed: requests that were refused, failed or timed out.
        seconds: that the round took.
    """

    rates: Mapping[str, float]
    p95_ms: Mapping[str, float]
    memory_mib: Mapping[str, float]
    failed: Mapping[str, int]
    seconds: float


class Study:
    """The measurements of one signature.

    Args:
        url: of the storage, as SQLAlchemy reads it.
        signature: hash of all that the measurements depend on, this machine among it.

    Raises:
        StorageError: the storage cannot be reached, now or in any method.
    """

    def __init__(self, url: str, signature: str) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._signature = signature
        self._run = f"{time.time_ns()}-{uuid.uuid4().hex[:8]}"  # runs sort by when they began
        self._rounds_kept = 0
        self._url = url.split("@")[-1]  # without user and password
        self._study = self._created(url, TRIES)

    def _created(self, url: str, tries: int) -> optuna.Study:
        """The study, new or as it is."""
        try:
            return optuna.create_study(
                storage=url, study_name=NAME, direction="maximize", load_if_exists=True
            )
        except (SQLAlchemyError, StorageInternalError) as error:
            if tries == 1:
                raise self._failure(error) from error
        except (ImportError, ValueError, RuntimeError) as error:
            raise self._failure(error) from error
        time.sleep(RETRY_S)
        return self._created(url, tries - 1)

    def costs(self, kind: str) -> dict[str, Any]:
        """What was kept of one kind, by key."""
        prefix = f"{self._signature}/cost/{kind}/"
        attributes = self._reached(lambda: self._study.user_attrs)
        return {
            key.removeprefix(prefix): value for key, value in attributes.items() if key.startswith(prefix)
        }

    def keep_cost(self, kind: str, key: str, value: Any) -> None:
        """Keep a cost; ``value`` as JSON has it."""
        self._keep(f"{self._signature}/cost/{kind}/{key}", value)

    def rounds(self) -> list[Round]:
        """All rounds, of this run and of earlier ones, each run's in its order."""
        prefix = f"{self._signature}/round/"
        attributes = self._reached(lambda: self._study.user_attrs)
        return [Round(**attributes[key]) for key in sorted(attributes) if key.startswith(prefix)]

    def keep_round(self, one: Round) -> None:
        """Keep a round."""
        self._keep(f"{self._signature}/round/{self._run}/{self._rounds_kept:05}", asdict(one))
        self._rounds_kept += 1

    def keep_trial(
        self, name: str, settings: ServeSettings, ratio: float | None, **attributes: float | int | str | None
    ) -> None:
        """Keep a configuration that raced, with the ratio to the reference; None where it did not answer."""
        values = {knob: getattr(settings, knob) for knob in KNOBS}
        values["threads_per_worker"] = values["threads_per_worker"] or 0
        own = {"signature": self._signature, "run": self._run, "name": name}
        trial = create_trial(
            state=TrialState.FAIL if ratio is None else TrialState.COMPLETE,
            value=ratio,
            params=values,
            distributions=dict(DISTRIBUTIONS),
            user_attrs=own | attributes,
        )
        self._reached(lambda: self._study.add_trial(trial))

    def trials(self) -> list[FrozenTrial]:
        """The trials of this signature."""
        trials = self._reached(lambda: self._study.trials)
        return [one for one in trials if one.user_attrs.get("signature") == self._signature]

    def _keep(self, key: str, value: Any) -> None:
        self._reached(lambda: self._study.set_user_attr(key, value))

    def _reached(self, call: Callable[[], Found]) -> Found:
        """What ``call`` returns; StorageError where the storage fails."""
        try:
            return call()
        except (SQLAlchemyError, StorageInternalError) as error:
            raise self._failure(error) from error

    def _failure(self, error: Exception) -> StorageError:
        return StorageError(f"{self._url}: {' '.join(str(error).split())[:300]}")


def name_of(settings: ServeSettings) -> str:
    """A short name that says the values of all knobs."""
    return " ".join(
        [
            settings.precision,
            "compiled" if settings.compiled else "timm's",
            settings.preprocess,
            settings.transport,
            f"{settings.workers_per_device}x{settings.threads_per_worker or 'all'}",
            f"b{settings.max_batch_size}",
            f"{1000 * settings.batch_timeout_s:g}ms",
            *(["keep"] if settings.keep_freed_memory else []),
        ]
    )
