"""The rate of a configuration, predicted from the costs of its parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from litmeter.params import ServeSettings


@dataclass(frozen=True)
class ModelPart:
    """What the model's cost depends on."""

    precision: str
    compiled: bool
    threads: int | None
    keep_freed_memory: bool

    def __str__(self) -> str:
        built = "compiled" if self.compiled else "timm's"
        threads = f"{self.threads or 'all'} threads"
        return (
            f"{self.precision}, {built}, {threads}, {'keeps' if self.keep_freed_memory else 'frees'} memory"
        )

    @staticmethod
    def of(settings: ServeSettings) -> ModelPart:
        """The part of a configuration."""
        return ModelPart(
            settings.precision, settings.compiled, settings.threads_per_worker, settings.keep_freed_memory
        )


@dataclass(frozen=True)
class Costs:
    """What the parts of a configuration take on this machine.

    Attributes:
        model_s: by part, then by batch size: seconds of a worker for an image, while as many workers as have
            a core each are busy.
        preprocess_s: by ``preprocess``: seconds of a core for an image.
        request_s: by ``transport``: seconds of a core for a request, the load generator's share included.
    """

    model_s: Mapping[ModelPart, Mapping[int, float]]
    preprocess_s: Mapping[str, float]
    request_s: Mapping[str, float]


def predicted_rps(settings: ServeSettings, costs: Costs, cores: int, users: int) -> float:
    """Requests per second in a closed loop of ``users``.

    It is bounded by the CPU time that all parts take together, and by how fast the workers are done with a
    batch, for which they may wait.
    """
    workers = settings.workers_per_device
    by_size = costs.model_s[ModelPart.of(settings)]
    size = formed_batch(settings, users)
    model_s = interpolated(by_size, size)
    preprocess_s, request_s = costs.preprocess_s[settings.preprocess], costs.request_s[settings.transport]
    threads = settings.threads_per_worker or cores
    cpu_s = model_s * threads + preprocess_s + request_s
    batch_s = size * (model_s + preprocess_s) + waiting_s(settings, users)
    return min(cores / cpu_s, workers * size / batch_s)


def formed_batch(settings: ServeSettings, users: int) -> float:
    """Mean number of requests in a batch; LitServe's queues give a batch of one without a timeout."""
    if settings.transport == "litserve" and settings.batch_timeout_s == 0:
        return 1.0
    return max(1.0, min(float(settings.max_batch_size), users / settings.workers_per_device))


def waiting_s(settings: ServeSettings, users: int) -> float:
    """How long a batch waits: the whole timeout if the users cannot fill it."""
    filled = settings.max_batch_size * settings.workers_per_device <= users
    return 0.0 if filled else settings.batch_timeout_s


def interpolated(by_size: Mapping[int, float], size: float) -> float:
    """The cost at ``size``, on a line between the nearest sizes that were measured."""
    sizes = sorted(by_size)
    below = max((one for one in sizes if one <= size), default=sizes[0])
    above = min((one for one in sizes if one >= size), default=sizes[-1])
    if below == above:
        return by_size[below]
    share = (size - below) / (above - below)
    return (1 - share) * by_size[below] + share * by_size[above]
