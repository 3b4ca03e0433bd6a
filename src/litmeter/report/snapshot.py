"""All results of this tree, or of a revision, whose files are laid out from git while they are read."""

from __future__ import annotations

import io
import os
import subprocess
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import yaml

from litmeter import paths
from litmeter.classifier.model.card import TrainMetrics
from litmeter.classifier.model.rows import Ceilings, PackageRow, PrecisionRow
from litmeter.errors import LitmeterError, ReportError, UsageError
from litmeter.kinds.configuration import Configuration
from litmeter.kinds.costs import CostCeilings
from litmeter.measure.capacity import CapacityMetrics, CapacityResult, curve_of
from litmeter.measure.comparison_rows import ComparisonResult, read_comparison
from litmeter.measure.rows import BenchmarkMetrics, ComparisonRow, TurnRow
from litmeter.params import Params, params_on
from litmeter.report.diagnosis import Bound, Diagnosis, Exceeded, bounds_of, diagnose, raised
from litmeter.report.git import commit_of
from litmeter.report.results import Result, fastest_first
from litmeter.report.tables import comparison_table
from litmeter.say.progress import print_wrapped
from litmeter.settings import PARAMS_FILE
from litmeter.system.files import digest, read_json, read_rows
from litmeter.system.machine import recorded_machine
from litmeter.system.temporary import scratch
from litmeter.tune.rows import KnobRow, TuneMetrics, TuneRow

OUTDATED = "Measured with other libraries, cores or environment variables than metrics/machine.json has"
OF_A_REVISION = ("params.yaml", "dvc.lock", "metrics", "plots")
"""Files and folders of a revision that reading its results needs."""


@dataclass(frozen=True)
class Tuned:
    """The result of a search; the first row is the winner."""

    metrics: TuneMetrics
    rows: Sequence[TuneRow]
    knobs: Sequence[KnobRow]


@dataclass(frozen=True)
class Snapshot:
    """Params and results.

    Attributes:
        label: the revision; empty for this tree.
        ceilings: ceilings with raised rooflines, see ``exceeded``: the classifier's by precision, else those
            of known costs by configuration; None without any.
        exceeded: measured rooflines that a model exceeds.
        train: result of training; None without that stage.
        results, bounds, diagnoses: of each configuration, in the order of params.yaml.
        comparison: metrics/comparison.json, with rows of configurations that params.yaml no longer has.
        measured_with: dependencies and params of the comparison in dvc.lock; None where it is not there.
        changes, packages: effects of each precision on the answers, and times of compiled models.
        tuned: the last search, if it was for this machine and model.
        capacities: by configuration, those for this machine, model and settings.
        outdated: files of searches and capacities that are OUTDATED.
    """

    label: str
    params: Params
    machine: Mapping[str, Any]
    ceilings: Ceilings | CostCeilings | None
    exceeded: Sequence[Exceeded]
    train: TrainMetrics | None
    results: Sequence[Result]
    bounds: Mapping[str, Sequence[Bound]]
    diagnoses: Mapping[str, Diagnosis]
    comparison: ComparisonResult
    measured_with: Any
    changes: Sequence[PrecisionRow]
    packages: Sequence[PackageRow]
    tuned: Tuned | None
    capacities: Mapping[str, CapacityResult]
    outdated: Sequence[Path]

    @property
    def reference(self) -> str:
        """The configuration to which all ratios are taken."""
        return self.params.comparison.reference

    @property
    def compared(self) -> list[ComparisonRow]:
        """The rows of the comparison, of configurations that params.yaml has."""
        return [result.compared for result in self.results]

    def table(self, *, terminal: bool = False) -> str:
        """The table of results."""
        causes = {name: diagnosis.held_back_by for name, diagnosis in self.diagnoses.items()}
        device = None if terminal else self.results[0].device
        settings = {result.name: result.serve for result in self.results}
        ran = {name: one.text for name, one in self.comparison.ran.items()}
        return comparison_table(self.compared, self.reference, settings, causes, device, ran)


def read_snapshot(label: str = "") -> Snapshot:
    """Read the results below the current folder of all configurations in params.yaml.

    Raise ReportError where a result is missing or malformed.
    """
    try:
        machine = read_json(paths.MACHINE)
        params, device = params_on(machine)
        machine = machine if device == "cuda" else machine | {"gpu": None}
        # `litmeter quick` and projects without a model have no such table.
        changes = read_rows(paths.PRECISIONS_TABLE, PrecisionRow) if paths.PRECISIONS_TABLE.exists() else []
        packages = read_rows(paths.COMPILED_TABLE, PackageRow) if "compile" in params.stages else []
        comparison = read_comparison()
        ran = {name: one.keys for name, one in comparison.ran.items()}
        settings = {
            name: serve.as_run(packages).as_ran(ran.get(name, {}))
            for name, serve in params.configurations().items()
        }
        results = [
            replace(result, faster=[*result.serve.faster_models(packages, changes)])
            for result in _read_results(params, settings, machine, device, comparison)
        ]
        ceilings: Ceilings | CostCeilings | None = None
        if "ceilings" in params.stages:
            ceilings = Ceilings.model_validate(read_json(paths.CEILINGS))
        elif comparison.ceilings:
            ceilings = CostCeilings(configurations=comparison.ceilings)
        ceilings, exceeded = raised(results, ceilings)
        bounds = {result.name: bounds_of(result, ceilings) for result in results}
        # A search is for the exported model, which git does not keep.
        tuned, capacities = None if label else _tuned_here(params), read_capacities(params)
        shown = [paths.CapacityPaths(name).metrics for name in capacities]
        shown += [paths.TUNE_METRICS] if tuned else []
        return Snapshot(
            label=label,
            params=params,
            machine=machine,
            ceilings=ceilings,
            exceeded=exceeded,
            train=TrainMetrics.model_validate(read_json(paths.TRAIN_METRICS))
            if "train" in params.stages
            else None,
            results=results,
            bounds=bounds,
            diagnoses={one.name: diagnose(one, bounds[one.name], ceilings, results) for one in results},
            comparison=comparison,
            measured_with=_measured_with(),
            changes=changes,
            packages=packages,
            tuned=tuned,
            capacities=capacities,
            outdated=outdated(*shown),
        )
    except OSError as error:
        raise ReportError(f"{error.filename}: {error.strerror}; `dvc repro` makes it") from error
    except (KeyError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ReportError(f"results are malformed ({reason}); `dvc repro` makes them") from error


def _read_results(
    params: Params,
    configurations: Mapping[str, Configuration],
    machine: Mapping[str, Any],
    device: str,
    comparison: ComparisonResult,
) -> Iterator[Result]:
    """The results of every configuration, in their order."""
    turns, rows = read_rows(paths.COMPARISON_TURNS, TurnRow), comparison.rows
    compared = {row.experiment: row for row in only(configurations, rows)}
    if missing := [name for name in configurations if name not in compared]:
        what = f"no row of {', '.join(missing)}"
        raise ReportError(f"{paths.COMPARISON} has {what}; `dvc repro comparison` makes it")
    if others := [row.experiment for row in rows if row.experiment not in configurations]:
        print_wrapped(
            f"{paths.COMPARISON}: rows of {', '.join(others)}, which params.yaml has not, are left out; "
            "`dvc repro` compares the others anew"
        )
    benchmarked = paths.BENCHMARKS.exists()  # `litmeter compare` of servers has the comparison alone
    for name, serve in configurations.items():
        own = [row for row in turns if row.subject == name]
        if benchmarked:
            metrics = BenchmarkMetrics.model_validate(read_json(paths.BenchmarkPaths(name).metrics))
        else:
            memory_mib = max((row.memory_mib for row in own if row.memory_mib), default=None)
            metrics = BenchmarkMetrics(ready_s=comparison.ready_s.get(name), memory_mib=memory_mib)
        yield Result(
            name=name,
            serve=serve,
            device=device,
            machine=machine,
            metrics=metrics,
            compared=compared[name],
            turns=own,
            alone=read_rows(paths.BenchmarkPaths(name).turns, TurnRow) if benchmarked else [],
            unavailable=comparison.unavailable.get(name, ""),
            batch_ms=comparison.batch_ms.get(name, {}),
            tokens=comparison.ceilings[name].costs.tokens if name in comparison.ceilings else None,
        )


def only(names: Collection[str], rows: Sequence[ComparisonRow]) -> list[ComparisonRow]:
    """The rows of ``names``, with ranks and shares among themselves.

    A share of the rate of another configuration than before has no interval.
    """
    own = [row for row in rows if row.experiment in names]
    ranks = [row.rank for row in own if row.rank]
    if len(own) == len(rows) or not ranks:
        return own
    moved = [replace(row, rank=row.rank and 1 + sum(rank < row.rank for rank in ranks)) for row in own]
    if (whole := fastest_first(own)[0].share_of_fastest) in (None, 1.0):
        return moved
    return [
        replace(
            row,
            share_of_fastest=row.share_of_fastest and whole and row.share_of_fastest / whole,
            share_low=None,
            share_high=None,
        )
        for row in moved
    ]


def _measured_with() -> Any:
    """Dependencies (code, machine, model, photos) and params of the comparison in dvc.lock."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    lock = yaml.load(paths.DVC_LOCK.read_bytes(), loader) if paths.DVC_LOCK.exists() else {"stages": {}}  # noqa: S506
    stage = lock["stages"].get("comparison")
    return stage and {key: stage.get(key) for key in ("deps", "params")}


def read_tuned() -> Tuned:
    """The last search; raise OSError, KeyError or ValueError where it is missing or malformed."""
    metrics = TuneMetrics.model_validate(read_json(paths.TUNE_METRICS))
    rows, knobs = read_rows(paths.TUNE_TABLE, TuneRow), read_rows(paths.TUNE_KNOBS, KnobRow)
    return Tuned(metrics, rows, knobs)


def _tuned_here(params: Params) -> Tuned | None:
    """The last search, if it was for this model on this machine."""
    try:
        tuned = read_tuned()
        return tuned if is_of_this_tree(tuned.metrics.machine, tuned.metrics.weights_sha256, params) else None
    except (OSError, KeyError, ValueError):
        return None


def is_of_this_tree(machine: str | None, model: str | None, params: Params) -> bool:
    """Whether a result of ``machine`` and ``model`` is of this machine, and of the served or compared model.

    A model is its weights_sha256.
    """
    served = params.served_digest()
    if served is None and paths.COMPARISON.exists():  # git does not keep the model
        served = read_comparison().model
    return machine == read_json(paths.MACHINE)["id"] and served in (None, model)


def outdated(*results: Path) -> list[Path]:
    """The files among ``results``, metrics of searches and capacities, that are OUTDATED."""
    now = recorded_machine()["environment"]
    return [path for path in results if read_json(path).get("environment") != now]


def read_capacities(params: Params) -> dict[str, CapacityResult]:
    """Capacities of ``objective.configurations`` for this machine, model and ``params``.

    A line is printed for a capacity that another version of litmeter wrote.
    """
    found = {}
    for name in params.objective.configurations:
        settings = digest(params.configuration(name).model_dump_json().encode())
        try:
            measured = read_json(paths.CapacityPaths(name).metrics)
            found_for = measured.get("machine"), measured.get("weights_sha256")
            if is_of_this_tree(*found_for, params) and measured.get("settings") == settings:
                found[name] = read_capacity(name)
        except FileNotFoundError:
            continue
        except (ReportError, ValueError) as error:
            print_wrapped(str(error))
    return found


def read_capacity(name: str) -> CapacityResult:
    """The last capacity of a configuration, of any machine; raise ReportError without one."""
    own = paths.CapacityPaths(name)
    try:
        content = read_json(own.metrics)
        metrics = CapacityMetrics(
            **{field.name: content[field.name] for field in fields(CapacityMetrics) if field.name in content}
        )
        rows = read_rows(own.probes, TurnRow)
    except OSError as error:
        raise ReportError(f"{error.filename}: {error.strerror}; `make capacity` makes it") from error
    except (KeyError, TypeError, ValueError) as error:
        raise ReportError(f"{own.metrics}: not of this code; `make capacity` makes it anew") from error
    curve = curve_of(rows, metrics.miss)
    return CapacityResult(metrics, rows, curve, content.get("measured_at", ""))


def read_revision(name: str) -> Snapshot:
    """All results of a revision or folder; raise ReportError where they are not complete."""
    with entered(name):
        return read_snapshot(name)


@contextmanager
def entered(name: str) -> Iterator[None]:
    """Make the files of a commit, experiment (`dvc exp run`) or project's folder the current folder.

    Raise UsageError where there is no such revision. Errors of the block begin with ``name``.
    """
    before = Path.cwd()
    with scratch() as folder:
        is_folder = (Path(name) / PARAMS_FILE).is_file()
        if not is_folder:
            ZipFile(io.BytesIO(_archived(name))).extractall(folder)
        os.chdir(name if is_folder else folder)  # all paths of the project are relative to the current folder
        try:
            yield
        except LitmeterError as error:
            raise type(error)(f"{name}: {error}") from error
        finally:
            os.chdir(before)


def _archived(name: str) -> bytes:
    """OF_A_REVISION as a zip file."""
    try:
        command = ["git", "archive", "--format=zip", commit_of(name), *OF_A_REVISION]
    except UsageError as error:
        raise UsageError(f"{error}, nor a project's folder") from error
    archived = subprocess.run(command, capture_output=True)
    if archived.returncode:
        raise ReportError(f"{name}: {archived.stderr.decode(errors='replace').strip()}")
    return archived.stdout
