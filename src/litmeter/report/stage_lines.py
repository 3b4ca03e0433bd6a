"""What is said of a stage as it begins, and of its result when it is done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from litmeter.data.index import SPLITS, Index
from litmeter.measure.capacity import CapacityMetrics
from litmeter.measure.rows import ComparisonRow, TurnRow
from litmeter.model.card import WEIGHTS_NAME, ModelCard
from litmeter.model.compiled.manifest import Manifest
from litmeter.model.device import PRECISIONS, params_on
from litmeter.model.precision_rows import ChangeRow, PackageRow
from litmeter.paths import COMPILED_TABLE, MACHINE, MODEL, TUNE_METRICS
from litmeter.report.claims import change
from litmeter.report.machines import capacity_sentence, describe_machine
from litmeter.report.precisions import HEAD, precision_cells
from litmeter.report.searched import at_users, tune_table
from litmeter.report.tables import comparison_table, describe
from litmeter.say.progress import print_wrapped
from litmeter.say.tables import number_cell, pluralise, text_table
from litmeter.system.files import read_json, read_rows
from litmeter.tune.search import Outcome


def begin(stage: str, *arguments: str) -> None:
    """Print which settings ``stage`` measures, where its result alone would not say that."""
    if stage not in ("benchmark", "capacity"):
        return
    params, device = params_on(read_json(MACHINE))
    settings = {name: params.configuration(name) for name in arguments or params.objective.configurations}
    for name, serve in settings.items():
        first = next(other for other, own in settings.items() if own == serve)
        print_wrapped(f"{name}: {describe(serve, device) if name == first else f'same as {first}'}")


def done(stage: str, result: Any, *arguments: str) -> None:
    """Print what ``stage``, run with ``arguments``, has found: the ``result`` of its main."""
    if stage in DONE:
        DONE[stage](result, *arguments)


def _machine(found: tuple[Mapping[str, Any], Sequence[str]]) -> None:
    machine, ahead = found
    print_wrapped("\n".join([describe_machine(machine), *ahead]))


def _data(index: Index) -> None:
    for name in SPLITS:
        counts = Counter(index.classes[photo.label] for photo in index.split(name))
        sizes = ", ".join(f"{counts[c]} {c}" for c in index.classes[:4])
        more = f", … ({len(index.classes)} classes)" if len(index.classes) > 4 else ""
        print(f"{name:5} {sum(counts.values()):5} photos: {sizes}{more}")


def _train(metrics: Mapping[str, Any]) -> None:
    low, high = metrics["test_accuracy_low"], metrics["test_accuracy_high"]
    tested = f"{metrics['test_accuracy']:.3f} on {metrics['test_images']} photos"
    print_wrapped(f"test accuracy {tested} (95% interval {low:.3f} to {high:.3f})")


def _export(card: ModelCard) -> None:
    size_mb = (MODEL.exported / WEIGHTS_NAME).stat().st_size / 1e6
    print_wrapped(f"{MODEL.exported}: {card.architecture}, {len(card.classes)} classes, {size_mb:.1f} MB")


def _compile(manifest: Manifest) -> None:
    print_wrapped("\n".join(package_lines(manifest)))


def package_lines(manifest: Manifest) -> Iterator[str]:
    """A line for each package: how long it took to compile, its speed, and why it is not used."""
    if manifest.skipped_reason:
        yield f"not compiled: {manifest.skipped_reason}; models run in torch"
    for package in manifest.packages:
        text = f"{package.precision}, batch {package.batch_size}"
        if package.file is not None:
            text += f", compiled in {package.compile_s:.0f} s"
        if package.compiled_ms is not None:
            text += f": {package.compiled_ms:.1f} ms"
        if package.eager_ms is not None:
            text += f", {package.eager_ms:.1f} ms in torch"
        if package.parts_ms is not None:
            text += f", {package.parts_ms:.1f} ms by smaller packages"
        if package.skipped_reason:
            text += f"; not used: {package.skipped_reason}"
        if package.remark:
            text += f"; used, {package.remark}"
        yield text


def _precisions(rows: Sequence[ChangeRow]) -> None:
    print(text_table(HEAD, precision_cells(rows, read_rows(COMPILED_TABLE, PackageRow))))


def _ceilings(metrics: Mapping[str, Any]) -> None:
    architecture = metrics["architecture"]
    if metrics["flops"] is None:
        print_wrapped(f"{architecture}: its FLOPs, and what follows from them, are not available")
        return
    print_wrapped(
        f"{architecture}: {metrics['parameters'] / 1e6:.2f} M parameters, {metrics['macs'] / 1e9:.3f} GMACs, "
        f"{metrics['flops'] / 1e9:.3f} GFLOPs an image (by {metrics['counted_by']})"
    )
    for precision in PRECISIONS:
        if (peak := metrics.get(f"peak_{precision}_tflops")) is None:
            continue
        unit = "TOP/s" if precision == "int8" else "TFLOP/s"
        source = metrics["peak_source"]
        if most := metrics[f"instructions_{precision}_tflops"]:
            source += f"; instructions allow {most} at the reported {metrics['reported_ghz']} GHz"
        print_wrapped(
            f"{precision}: {peak} {unit} ({source}) allow "
            f"{metrics[f'theoretical_{precision}_rps']:,.0f} images/s; roofline "
            f"{metrics[f'roofline_{precision}_rps']:,.0f}, bound by {metrics[f'roofline_{precision}_bound']}"
        )
    limit = f"{metrics['client_limit_rps']:,.0f} req/s"
    print_wrapped(f"load generator: {limit} against a server that answers at once")


def _benchmark(found: tuple[Sequence[TurnRow], Mapping[str, Any]], name: str) -> None:
    rows, metrics = found
    for row in rows:
        p50, p95 = (number_cell(ms, 0) for ms in (row.p50_ms, row.p95_ms))
        said = [f"p50 {p50} ms, p95 {p95} ms", row.void and f"void: {row.void}", row.warnings]
        rate = f"{row.subject}, {pluralise(row.users or 0, 'user')}: {number_cell(row.rate_rps, 1)} req/s"
        print_wrapped(f"{rate}, {'; '.join(filter(None, said))}")
    said = [f"{name}: ready after {metrics['ready_s']} s, {metrics['memory_mib']} MiB"]
    if "accuracy" in metrics:
        said += [
            f"of {metrics['photos']} test photos {metrics['agreement']} have full precision's label and "
            f"{metrics['accuracy']} the right one",
            f"{metrics['mismatched']} answers belong to another request",
        ]
    print_wrapped("; ".join(said))


def _comparison(found: tuple[Sequence[ComparisonRow], Mapping[str, Any]]) -> None:
    rows, over_before = found
    params, _ = params_on(read_json(MACHINE))
    print(comparison_table(rows, params.comparison.reference, params.configurations()))
    if claim := change(over_before):
        print_wrapped(claim.sentence)


def _capacity(found: Mapping[str, CapacityMetrics]) -> None:
    for name, metrics in found.items():
        print_wrapped(capacity_sentence(name, metrics))


def _tune(outcome: Outcome) -> None:
    print(text_table(*tune_table(outcome.rows)))
    print_wrapped("`litmeter tune --apply` writes the winner into params.yaml")
    print_wrapped(f"{at_users(read_json(TUNE_METRICS)['users'])} (tune.users)")


DONE: Mapping[str, Callable[..., None]] = {
    "machine": _machine,
    "data": _data,
    "train": _train,
    "export": _export,
    "compile": _compile,
    "precisions": _precisions,
    "ceilings": _ceilings,
    "benchmark": _benchmark,
    "comparison": _comparison,
    "capacity": _capacity,
    "tune": _tune,
}
