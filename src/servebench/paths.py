"""Which file holds what: the paths that dvc.yaml names, in one place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

MACHINE = Path("metrics/machine.json")
VERIFY = Path("metrics/verify.json")

INDEX = Path("data/index.json")
DOWNLOAD_FOLDER = Path("data/download")

CHECKPOINT = Path("models/checkpoint/best.ckpt")
TRAIN_METRICS = Path("metrics/train.json")
TRAINING_CURVES = Path("plots/training.csv")
CONFUSION = Path("plots/confusion.csv")

EXPORT_FOLDER = Path("models/exported")
COMPILED_FOLDER = Path("models/compiled")
COMPILED_TABLE = Path("plots/compiled.csv")

CEILINGS = Path("metrics/ceilings.json")
THEORETICAL = Path("plots/theoretical.csv")

SUMMARY = Path("metrics/summary.json")
LEVELS = Path("plots/levels.csv")
EFFICIENCY = Path("plots/efficiency.csv")
LADDER = Path("plots/ladder.csv")
LIMITS = Path("plots/limits.csv")
STAGES = Path("plots/stages.csv")
BATCHES = Path("plots/batches.csv")
LADDERS_FOLDER = Path("plots/ceilings")
PICTURES_FOLDER = Path("assets/results")

RESULT_FOLDERS = tuple(map(Path, ("assets", "metrics", "models", "plots", "samples")))
"""All that stages write is in one of these, but INDEX."""


@dataclass(frozen=True)
class BenchmarkPaths:
    """Where the results of the configuration ``name`` go."""

    name: str

    @property
    def metrics(self) -> Path:
        """One flat object: the best level."""
        return Path(f"metrics/benchmark/{self.name}.json")

    @property
    def levels(self) -> Path:
        """A row per concurrency level."""
        return Path(f"plots/benchmark/{self.name}.csv")

    @property
    def meta(self) -> Path:
        """What ran."""
        return Path(f"plots/benchmark/{self.name}.meta.json")

    @property
    def baseline(self) -> Path:
        """A row per batch size."""
        return Path(f"plots/baseline/{self.name}.csv")

    @property
    def stages(self) -> Path:
        """Where a request's time went, by level and stage."""
        return Path(f"plots/stages/{self.name}.csv")

    @property
    def batches(self) -> Path:
        """Histogram of batch sizes, by level."""
        return Path(f"plots/batches/{self.name}.csv")

    @property
    def answers(self) -> Path:
        """Accuracy through the served path."""
        return Path(f"metrics/answers/{self.name}.json")

    @property
    def samples(self) -> Path:
        """A row per request."""
        return Path(f"samples/{self.name}.csv")

    @property
    def all(self) -> list[Path]:
        """Every one of them."""
        return [
            *(self.metrics, self.answers, self.levels, self.meta),
            *(self.baseline, self.stages, self.batches, self.samples),
        ]


def existing_results() -> list[Path]:
    """Every committed benchmark result there is, of any configuration."""
    folders = (
        "metrics/benchmark",
        "metrics/answers",
        "plots/benchmark",
        "plots/baseline",
        "plots/stages",
        "plots/batches",
    )
    found = [path for folder in folders for path in Path(folder).glob("*.*")]
    return sorted(path for path in found if not path.name.startswith("."))
