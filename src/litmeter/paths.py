"""Paths of the files that stages and commands read and write, as in dvc.yaml."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ModelFolders:
    """Folders of one model: weights and card, by ``export``; compiled packages, by ``compile``."""

    exported: Path
    compiled: Path


MACHINE = Path("metrics/machine.json")
COMPILERS = Path("metrics/compilers.json")
WEIGHTS = Path("metrics/weights.json")
INPUTS = Path("metrics/inputs.json")
"""Digests of what figures rest on that dvc.yaml cannot name: stages depend on its keys."""
SECONDS = Path("samples/seconds.json")
"""How long each stage took when it last ran here; git ignores it."""
SELFTEST = Path("metrics/verify.json")

DVC_FILE = Path("dvc.yaml")
ON_DEMAND_DVC_FILE = Path("ondemand/dvc.yaml")
DVC_LOCK = Path("dvc.lock")

INDEX = Path("data/index.json")
DOWNLOAD_FOLDER = Path("data/download")
DOWNLOAD = Path("metrics/download.json")

CHECKPOINT = Path("models/checkpoint/best.ckpt")
TRAIN_METRICS = Path("metrics/train.json")
TRAINING_CURVES = Path("plots/training.csv")
CONFUSION = Path("plots/confusion.csv")

MODEL = ModelFolders(Path("models/exported"), Path("models/compiled"))
PACKAGES = Path("metrics/packages")
COMPILED_TABLE = Path("plots/compiled.csv")
PRECISIONS_TABLE = Path("plots/precisions.csv")

CEILINGS = Path("metrics/ceilings.json")
THEORETICAL = Path("plots/theoretical.csv")

TURNS = Path("plots/turns")
COMPARISON = Path("metrics/comparison.json")
COMPARISON_TABLE = Path("plots/comparison.csv")
COMPARISON_TURNS = TURNS / "comparison.csv"
COMPARISON_SAMPLES = Path("samples/comparison.csv")
BENCHMARKS = Path("metrics/benchmark")
OVER_BEFORE = Path("metrics/over_before.json")

TUNE_METRICS = Path("metrics/tune.json")
TUNE_TABLE = Path("plots/tune.csv")
TUNE_KNOBS = Path("plots/tune_knobs.csv")
TUNE_PICTURE = Path("assets/tune.png")
CAPACITY_PICTURE = Path("assets/capacity.png")

SUMMARY = Path("metrics/summary.json")
LEVELS = Path("plots/levels.csv")
BOUNDS = Path("plots/bounds.csv")
DIAGNOSIS = Path("plots/diagnosis.csv")
STAGES = Path("plots/stages.csv")
PICTURES_FOLDER = Path("assets/results")

RESULTS_PAGE = Path("docs/results.md")
README = Path("README.md")

RESULT_FOLDERS = tuple(map(Path, ("assets", "docs", "metrics", "models", "plots", "samples")))
"""Stages and commands write only below these folders, except INDEX and README."""


class BenchmarkPaths:
    """Results of the configuration ``name``.

    Attributes:
        metrics: its benchmark alone, one flat object.
        turns, samples: a row per turn, and per request, of the benchmark.
        outputs: the files that the stage ``benchmark`` writes.
    """

    def __init__(self, name: str) -> None:
        self.metrics = BENCHMARKS / f"{name}.json"
        self.turns = TURNS / f"{name}.csv"
        self.samples = Path(f"samples/{name}.csv")
        self.outputs = [self.metrics, self.turns, self.samples]


CAPACITY_FOLDERS = Path("metrics/capacity"), Path("plots/capacity")


class CapacityPaths:
    """The capacity of the configuration ``name``.

    Attributes:
        metrics: the capacity with its interval, one flat object.
        probes: a row per probe.
    """

    def __init__(self, name: str) -> None:
        metrics, plots = CAPACITY_FOLDERS
        self.metrics, self.probes = metrics / f"{name}.json", plots / f"{name}.csv"
        self.outputs = [self.metrics, self.probes]


def left_out(known: Collection[str]) -> str | None:
    """A line about results of configurations other than ``known``, if any, and how to remove them."""
    others = sorted({path.stem for path in BENCHMARKS.glob("[!.]*.json")} - set(known))
    if not others:
        return None
    paths = [*BenchmarkPaths("$name").outputs, *CapacityPaths("$name").outputs]
    return (
        f"results of {', '.join(others)}, which params.yaml has not, are left out of tables and pictures; "
        f"remove them: for name in {' '.join(others)}; do rm -f {' '.join(map(str, paths))}; done"
    )
