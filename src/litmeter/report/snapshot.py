"""All results of this tree, or of a revision, whose files are laid out from git while they are read."""

from __future__ import annotations

import io
import math
import os
import subprocess
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
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
from litmeter.report.diagnosis import (
    Bound,
    Diagnosis,
    Exceeded,
    bounds_of,
    diagnose,
    for_command,
    raised,
)
from litmeter.report.git import commit_of
from litmeter.report.results import Result, fastest_first
from litmeter.report.tables import comparison_table
from litmeter.say.progress import print_wrapped
from litmeter.say.tables import significant
from litmeter.settings import PARAMS_FILE
from litmeter.stats.rates import Z95
from litmeter.system.files import digest, read_json, read_rows
from litmeter.system.machine import recorded_machine
from litmeter.system.temporary import scratch
from litmeter.tune.rows import KnobRow, TuneMetrics, TuneRow

OUTDATED = "Measured with other libraries, cores or environment variables than metrics/machine.json has"
HOURS_APART = Z95 * math.sqrt(2) * 0.067
"""Half a 95% interval of ln(ratio) between two runs at other hours, beyond their own intervals: of twelve
runs on one machine the standard deviation was 0.067."""
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
        tuned: the last search, unless left out.
        capacities: by configuration, those for its settings that are not left out.
        left_out: why the search, or a capacity, is no answer here.
        by_command: whether `litmeter compare` measured servers, whose users have no params.yaml.
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
    left_out: Mapping[str, str]
    by_command: bool
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
        diagnoses = {one.name: diagnose(one, bounds[one.name], ceilings, results) for one in results}
        if by_command := not paths.BENCHMARKS.exists():
            diagnoses = {name: for_command(one) for name, one in diagnoses.items()}
        # A search is for the exported model, which git does not keep.
        capacities, left_out = read_capacities(params)
        tuned = None if label else _tuned_here(params, left_out)
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
            diagnoses=diagnoses,
            comparison=comparison,
            measured_with=_measured_with(),
            changes=changes,
            packages=packages,
            tuned=tuned,
            capacities=capacities,
            left_out=left_out,
            by_command=by_command,
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


def _tuned_here(params: Params, left_out: dict[str, str]) -> Tuned | None:
    """The last search; where it is no answer here, None, and the reason in ``left_out``."""
    try:
        tuned = read_tuned()
        rates = [
            (name, tuned.metrics.users, row.rate_rps)
            for name, one in params.configurations().items()
            for row in tuned.rows
            if all(str(getattr(one, key, None)) == value for key, value in row.knobs.items())
        ]
        why = why_not_here(tuned.metrics.machine, tuned.metrics.weights_sha256, params, rates)
    except (OSError, KeyError, ValueError):
        return None
    if why:
        left_out["the search"] = why
    return None if why else tuned


def why_not_here(
    machine: str | None, model: str | None, params: Params, rates: Iterable[tuple[str, int, float | None]]
) -> str:
    """Why a result is no answer here: of another machine, model (weights_sha256) or speed; empty if it is.

    ``rates`` of closed loops tell the speed: configuration, users, requests/s. That of as many users as in
    the comparison lies between those of the next fewer and the next more. The comparison's may differ by the
    range of its rounds, and by HOURS_APART.
    """
    last = read_comparison() if paths.COMPARISON.exists() else None
    served = params.served_digest() or (last and last.model)  # git does not keep the model
    if machine != read_json(paths.MACHINE)["id"] or served not in (None, model):
        return "of another machine or model"
    for row in last.rows if last else ():
        loops = sorted((users, rate) for name, users, rate in rates if name == row.experiment and rate)
        ends = [rate for users, rate in loops if users <= row.users][-1:]
        ends += [rate for users, rate in loops if users >= row.users][:1] or [math.inf]
        if len(ends) == 2 and row.rate_rps and row.lowest_rps and row.highest_rps:
            factor = math.exp(math.hypot(math.log(row.highest_rps / row.lowest_rps) / 2, HOURS_APART))
            if not min(ends) / factor <= row.rate_rps <= max(ends) * factor:
                then = f"`{row.experiment}` did {' to '.join(map(significant, sorted({*ends} - {math.inf})))}"
                return f"{then} requests/s then, {significant(row.rate_rps)} in the comparison"
    return ""


def outdated(*results: Path) -> list[Path]:
    """The files among ``results``, metrics of searches and capacities, that are OUTDATED."""
    now = recorded_machine()["environment"], digest(paths.MACHINE.read_bytes())
    return [path for path in results if read_json(path).get("environment") not in now]


def read_capacities(params: Params) -> tuple[dict[str, CapacityResult], dict[str, str]]:
    """Capacities of ``objective.configurations`` for ``params``; and why others are no answer here.

    A line is printed for a capacity that another version of litmeter wrote.
    """
    found, left_out = dict[str, CapacityResult](), dict[str, str]()
    for name in params.objective.configurations:
        settings = digest(params.configuration(name).model_dump_json().encode())
        try:
            measured, own = read_json(paths.CapacityPaths(name).metrics), read_capacity(name)
            rates = [(name, row.users or 0, row.rate_rps) for row in own.rows if row.offered_rps is None]
            found_for = measured.get("machine"), measured.get("weights_sha256")
            if why := why_not_here(*found_for, params, rates):
                left_out[f"the capacity of `{name}`"] = why
            elif measured.get("settings") == settings:
                found[name] = own
        except FileNotFoundError:
            continue
        except (ReportError, ValueError) as error:
            print_wrapped(str(error))
    return found, left_out


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
