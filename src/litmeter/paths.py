"""Paths of the files that stages and commands read and write, as dvc.yaml names them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ModelFolders:
    """The folders of one model.

    Attributes:
        exported: weights and card, written by ``export``.
        compiled: packages compiled from it, with their manifest, written by ``compile``.
    """

    exported: Path
    compiled: Path


MACHINE = Path("metrics/machine.json")
WEIGHTS = Path("metrics/weights.json")
SECONDS = Path("metrics/seconds")
SELFTEST = Path("metrics/verify.json")

DVC_FILE = Path("dvc.yaml")
ON_DEMAND_DVC_FILE = Path("ondemand/dvc.yaml")
DVC_LOCK = Path("dvc.lock")

INDEX = Path("data/index.json")
DOWNLOAD_FOLDER = Path("data/download")

CHECKPOINT = Path("models/checkpoint/best.ckpt")
TRAIN_METRICS = Path("metrics/train.json")
TRAINING_CURVES = Path("plots/training.csv")
CONFUSION = Path("plots/confusion.csv")

MODEL = ModelFolders(Path("models/exported"), Path("models/compiled"))
COMPILED_TABLE = Path("plots/compiled.csv")
PRECISIONS_TABLE = Path("plots/precisions.csv")

CEILINGS = Path("metrics/ceilings.json")
THEORETICAL = Path("plots/theoretical.csv")

COMPARISON = Path("plots/comparison.csv")
COMPARISON_TURNS = Path("plots/comparison_turns.csv")
COMPARISON_RUN = Path("plots/comparison_run.json")
COMPARISON_METRICS = Path("metrics/comparison")

TUNE_METRICS = Path("metrics/tune.json")
TUNE_TABLE = Path("plots/tune.csv")
TUNE_KNOBS = Path("plots/tune_knobs.csv")
TUNE_PICTURE = Path("assets/tune.png")
TUNE_RECORD = Path("samples/tune.jsonl")

SUMMARY = Path("metrics/summary.json")
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
"""Stages and commands write below these folders only, except INDEX and README."""


@dataclass(frozen=True)
class BenchmarkPaths:
    """Paths of the results of the configuration ``name``."""

    name: str

    @property
    def metrics(self) -> Path:
        """Metrics of the best level, one flat object."""
        return Path(f"metrics/benchmark/{self.name}.json")

    @property
    def accuracy(self) -> Path:
        """Accuracy through the served path, one flat object."""
        return Path(f"metrics/accuracy/{self.name}.json")

    @property
    def folder(self) -> Path:
        """Folder of the four tables and run.json."""
        return Path(f"plots/benchmark/{self.name}")

    @property
    def levels(self) -> Path:
        """A row per concurrency level."""
        return self.folder / "levels.csv"

    @property
    def run(self) -> Path:
        """Settings, machine, versions, and the limits of null server and load generator."""
        return self.folder / "run.json"

    @property
    def rounds(self) -> Path:
        """In-process rates of each round."""
        return self.folder / "rounds.csv"

    @property
    def baseline(self) -> Path:
        """In-process rates, a row per batch size."""
        return self.folder / "baseline.csv"

    @property
    def stages(self) -> Path:
        """Mean time of a request, by level and stage of the server."""
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
    def comparison(self) -> Path:
        """Metrics of the comparison at the first of ``comparison.users``, one flat object."""
        return COMPARISON_METRICS / f"{self.name}.json"

    @property
    def outputs(self) -> list[Path]:
        """The stage's outputs, as dvc.yaml names them."""
        seconds = SECONDS / f"benchmark/{self.name}.json"
        return [self.metrics, self.accuracy, self.folder, self.samples, seconds]

    @property
    def files(self) -> list[Path]:
        """All files of the configuration."""
        return [
            *(self.metrics, self.accuracy, self.levels, self.run),
            *(self.baseline, self.rounds, self.stages, self.batches, self.samples),
        ]


@dataclass(frozen=True)
class CapacityPaths:
    """Paths of the capacity of the configuration ``name``."""

    name: str

    @property
    def metrics(self) -> Path:
        """The capacity with its interval, one flat object."""
        return Path(f"metrics/capacity/{self.name}.json")

    @property
    def probes(self) -> Path:
        """A row per probe."""
        return Path(f"plots/capacity/{self.name}.csv")

    @property
    def picture(self) -> Path:
        """Share of late requests and latencies over the rate."""
        return Path(f"assets/capacity/{self.name}.png")

    @property
    def outputs(self) -> list[Path]:
        """The stage's outputs, as dvc.yaml names them."""
        return [self.metrics, self.probes]
