"""Lines about a stage: its settings as it begins, its result when it is done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from litmeter.classifier.data.index import SPLITS, Index
from litmeter.classifier.model.card import WEIGHTS_NAME
from litmeter.classifier.model.compiled.manifest import Manifest
from litmeter.classifier.model.rows import Ceilings, PackageRow
from litmeter.measure.rows import BenchmarkMetrics, TurnRow
from litmeter.params import params_on
from litmeter.paths import COMPILED_TABLE, MACHINE, MODEL
from litmeter.report.claims import accuracy_interval, change, disturbances
from litmeter.report.machines import capacity_sentence, describe_machine
from litmeter.report.tables import at_users, comparison_table, precision_table, tune_table
from litmeter.say.progress import print_wrapped
from litmeter.say.tables import number_cell, pluralise, text_table
from litmeter.system.files import read_json, read_rows


def begin(stage: str, *arguments: str) -> None:
    """Print the settings that a benchmark or a search of capacities measures."""
    if stage not in ("benchmark", "capacity"):
        return
    params, device = params_on(read_json(MACHINE))
    settings = {name: params.configuration(name) for name in arguments or params.objective.configurations}
    for name, serve in settings.items():
        first = next(other for other, same in settings.items() if same == serve)
        print_wrapped(f"{name}: {serve.describe(device) if name == first else f'same as {first}'}")


def done(stage: str, result: Any, *arguments: str) -> None:
    """Print the result of ``stage``, which was run with ``arguments``: what its main returned."""
    match stage:
        case "machine":
            machine, ahead = result
            print_wrapped("\n".join([describe_machine(machine), *ahead]))
        case "data":
            print("\n".join(split_lines(result)))
        case "train":
            low, high = accuracy_interval(result)
            tested = f"{result.test_accuracy:.3f} on {result.test_images} photos"
            print_wrapped(f"test accuracy {tested} (95% interval {low:.3f} to {high:.3f})")
        case "export":
            model = f"{MODEL.exported}: {result.architecture}, {len(result.classes)} classes"
            print_wrapped(f"{model}, {(MODEL.exported / WEIGHTS_NAME).stat().st_size / 1e6:.1f} MB")
        case "compile":
            print_wrapped("\n".join(package_lines(result)))
        case "precisions":
            print(text_table(*precision_table(result, read_rows(COMPILED_TABLE, PackageRow))))
        case "ceilings":
            print_wrapped("\n".join(ceiling_lines(result)))
        case "benchmark":
            print_wrapped("\n".join(benchmark_lines(arguments[0], *result)))
        case "comparison":
            _, found = result
            params, _ = params_on(read_json(MACHINE))
            print(comparison_table(found.rows, params.comparison.reference, params.configurations()))
            if claim := change(found.over_before):
                print_wrapped(claim.sentence)
        case "capacity":
            print_wrapped("\n".join(capacity_sentence(*capacity) for capacity in result.items()))
        case "tune":
            outcome, turns = result
            print(text_table(*tune_table(outcome.rows)))
            print_wrapped("`litmeter tune --apply` writes the winner into params.yaml")
            print_wrapped(f"{at_users(params_on(read_json(MACHINE))[0].tune.users)} (tune.users)")
            print_wrapped("\n".join(claim.plain for claim in disturbances(turns)))


def split_lines(index: Index) -> Iterator[str]:
    """A line for each split: its photos, by class."""
    for name in SPLITS:
        counts = Counter(index.classes[photo.label] for photo in index.split(name))
        sizes = ", ".join(f"{counts[label]} {label}" for label in index.classes[:4])
        more = f", … ({len(index.classes)} classes)" if len(index.classes) > 4 else ""
        yield f"{name:5} {sum(counts.values()):5} photos: {sizes}{more}"


def package_lines(manifest: Manifest) -> Iterator[str]:
    """A line for each package: how long it took to compile, its speed, and why it is not used."""
    if manifest.skipped_reason:
        yield f"not compiled: {manifest.skipped_reason}; models run in torch"
    for package in manifest.packages:
        values = {
            ", compiled in {:.0f} s": package.compile_s if package.file is not None else None,
            ": {:.1f} ms": package.compiled_ms,
            ", {:.1f} ms in torch": package.eager_ms,
            ", {:.1f} ms by smaller packages": package.parts_ms,
            "; not used: {}": package.skipped_reason,
            "; used, {}": package.remark,
        }
        texts = (text.format(value) for text, value in values.items() if value is not None)
        yield "".join([f"{package.precision}, batch {package.batch_size}", *texts])


def ceiling_lines(found: Ceilings) -> Iterator[str]:
    """The model's cost, the bounds in each precision, and the load generator's limit."""
    if found.parameters is None or found.macs is None or found.flops is None:
        yield f"{found.architecture}: its FLOPs, and the bounds that follow from them, are not available"
        return
    yield (
        f"{found.architecture}: {found.parameters / 1e6:.2f} M parameters, {found.macs / 1e9:.3f} GMACs, "
        f"{found.flops / 1e9:.3f} GFLOPs an image (by {found.counted_by})"
    )
    for precision, own in found.precisions.items():
        unit = "TOP/s" if precision == "int8" else "TFLOP/s"
        source = found.peak_source
        if own.instructions_tflops:
            clock = f"at the reported {found.reported_ghz} GHz"
            source += f"; instructions allow {own.instructions_tflops} {clock}"
        yield (
            f"{precision}: {own.peak_tflops} {unit} ({source}) allow {own.theoretical_rps:,.0f} images/s; "
            f"roofline {own.roofline_rps:,.0f}, bound by {own.roofline_bound}"
        )
    yield f"load generator: {found.client_limit_rps:,.0f} req/s against a server that answers at once"


def benchmark_lines(name: str, rows: Sequence[TurnRow], metrics: BenchmarkMetrics) -> Iterator[str]:
    """A line for each turn, and a line for the whole benchmark."""
    for row in rows:
        p50, p95 = (number_cell(ms, 0) for ms in (row.p50_ms, row.p95_ms))
        said = [f"p50 {p50} ms, p95 {p95} ms", row.void and f"void: {row.void}", row.warnings]
        rate = f"{row.subject}, {pluralise(row.users or 0, 'user')}: {number_cell(row.rate_rps, 1)} req/s"
        yield f"{rate}, {'; '.join(filter(None, said))}"
    said = [f"{name}: ready after {metrics.ready_s} s, {metrics.memory_mib} MiB"]
    if metrics.accuracy is not None:
        said += [
            f"{metrics.agreement:.1%} of {metrics.photos} test photos have full precision's label and "
            f"{metrics.accuracy:.1%} the right one",
            f"{metrics.mismatched} answers belong to another request",
        ]
    yield "; ".join(said)
