"""Which file holds what: the paths that dvc.yaml names, in one place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ModelFolders:
    """Where a model lies.

    Attributes:
        exported: weights and card, by ``export``.
        compiled: the packages that ``compile`` made of it, with their manifest.
    """

    exported: Path
    compiled: Path


MACHINE = Path("metrics/machine.json")
SELFTEST = Path("metrics/verify.json")
SELFTEST_PAGE = Path("docs/self-test.md")

INDEX = Path("data/index.json")
DOWNLOAD_FOLDER = Path("data/download")

CHECKPOINT = Path("models/checkpoint/best.ckpt")
TRAIN_METRICS = Path("metrics/train.json")
TRAINING_CURVES = Path("plots/training.csv")
CONFUSION = Path("plots/confusion.csv")

MODEL = ModelFolders(Path("models/exported"), Path("models/compiled"))
COMPILED_TABLE = Path("plots/compiled.csv")

CEILINGS = Path("metrics/ceilings.json")
THEORETICAL = Path("plots/theoretical.csv")

SUMMARY = Path("metrics/summary.json")
BEST = Path("metrics/best.json")
LEVELS = Path("plots/levels.csv")
EFFICIENCY = Path("plots/efficiency.csv")
BOUNDS = Path("plots/bounds.csv")
DIAGNOSIS = Path("plots/diagnosis.csv")
STAGES = Path("plots/stages.csv")
BATCHES = Path("plots/batches.csv")
PICTURES_FOLDER = Path("assets/results")

RESULTS_PAGE = Path("docs/results.md")
README = Path("README.md")

RESULT_FOLDERS = tuple(map(Path, ("assets", "docs", "metrics", "models", "plots", "samples")))
"""All that stages and commands write is in one of these, but INDEX and README."""


@dataclass(frozen=True)
class BenchmarkPaths:
    """Where the results of the configuration ``name`` go."""

    name: str

    @property
    def metrics(self) -> Path:
        """One flat object: the best level."""
        return Path(f"metrics/benchmark/{self.name}.json")

    @property
    def accuracy(self) -> Path:
        """Accuracy through the served path, one flat object."""
        return Path(f"metrics/accuracy/{self.name}.json")

    @property
    def folder(self) -> Path:
        """The four tables below and what ran."""
        return Path(f"plots/benchmark/{self.name}")

    @property
    def levels(self) -> Path:
        """A row per concurrency level."""
        return self.folder / "levels.csv"

    @property
    def run(self) -> Path:
        """What ran: settings, machine, versions, and what bounds the rate besides the model."""
        return self.folder / "run.json"

    @property
    def baseline(self) -> Path:
        """In-process rates, a row per batch size."""
        return self.folder / "baseline.csv"

    @property
    def stages(self) -> Path:
        """Where a request's time went, by level and stage."""
        return self.folder / "stages.csv"

    @property
    def batches(self) -> Path:
        """Histogram of batch sizes, by level."""
        return self.folder / "batches.csv"

    @property
    def samples(self) -> Path:
        """A row per request."""
        return Path(f"samples/{self.name}.csv")

    @property
    def outputs(self) -> list[Path]:
        """The stage's outputs, as dvc.yaml names them."""
        return [self.metrics, self.accuracy, self.folder, self.samples]

    @property
    def files(self) -> list[Path]:
        """Every one of them."""
        return [
            *(self.metrics, self.accuracy, self.levels, self.run),
            *(self.baseline, self.stages, self.batches, self.samples),
        ]
