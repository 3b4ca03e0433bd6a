"""Paths of the files that stages and commands read and write, as dvc.yaml names them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from litmeter.errors import ReportError


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

TURNS = Path("plots/turns")
COMPARISON = Path("plots/comparison.csv")
COMPARISON_TURNS = TURNS / "comparison.csv"
COMPARISON_SAMPLES = Path("samples/comparison.csv")
COMPARISON_RUN = Path("metrics/comparison_run.json")
COMPARISON_METRICS = Path("metrics/comparison")
OVER_BEFORE = Path("metrics/over_before.json")

TUNE_METRICS = Path("metrics/tune.json")
TUNE_TABLE = Path("plots/tune.csv")
TUNE_KNOBS = Path("plots/tune_knobs.csv")
TUNE_PICTURE = Path("assets/tune.png")

SUMMARY = Path("metrics/summary.json")
LEVELS = Path("plots/levels.csv")
BOUNDS = Path("plots/bounds.csv")
DIAGNOSIS = Path("plots/diagnosis.csv")
STAGES = Path("plots/stages.csv")
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
        """What it does alone, one flat object."""
        return Path(f"metrics/benchmark/{self.name}.json")

    @property
    def turns(self) -> Path:
        """A row per turn of its benchmark."""
        return TURNS / f"{self.name}.csv"

    @property
    def samples(self) -> Path:
        """A row per request of its benchmark."""
        return Path(f"samples/{self.name}.csv")

    @property
    def comparison(self) -> Path:
        """What the comparison found, one flat object."""
        return COMPARISON_METRICS / f"{self.name}.json"

    @property
    def files(self) -> list[Path]:
        """Those that the stage ``benchmark`` writes."""
        return [self.metrics, self.turns, self.samples]

    @property
    def outputs(self) -> list[Path]:
        """The stage's outputs, as dvc.yaml names them."""
        return [*self.files, SECONDS / f"benchmark/{self.name}.json"]


def check_no_orphans(known: Collection[str]) -> None:
    """Raise ReportError, with the command to remove them, where there are results of unknown names."""
    found = {path.stem for path in Path("metrics/benchmark").glob("[!.]*.json")}
    if orphans := sorted(found - set(known)):
        paths = [str(path) for name in orphans for path in BenchmarkPaths(name).outputs if path.exists()]
        raise ReportError(
            f"there are results of {', '.join(orphans)}, but params.yaml has only {', '.join(known)}; "
            f"remove them: rm -r {' '.join(paths)}"
        )


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
