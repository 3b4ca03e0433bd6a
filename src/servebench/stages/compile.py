"""Stage ``compile``: compile the exported model for this machine, in each precision and batch size."""

from __future__ import annotations

from dataclasses import dataclass

from servebench.inference.compiled.build import compile_model, describe
from servebench.inference.device import resolve_device
from servebench.params import load_params
from servebench.paths import COMPILED_TABLE, MACHINE, MODEL
from servebench.system.files import read_json
from servebench.system.machine_lock import exclusive_machine
from servebench.system.progress import print_wrapped
from servebench.system.rows import write_rows


@dataclass(frozen=True)
class PackageRow:
    """One row of plots/compiled.csv: a precision and batch size, as timm builds it and compiled.

    Attributes:
        eager_ms, compiled_ms: median time of a run on a batch.
        parts_ms: the same by smaller packages that make up the batch, None where there are none.
        skipped_reason: why the package is not used, None where it is.
    """

    precision: str
    batch_size: int
    eager_ms: float | None
    compiled_ms: float | None
    parts_ms: float | None
    compile_s: float
    skipped_reason: str | None


def main() -> None:
    """Compile the exported model for the batch sizes of params.yaml.

    Raises:
        ServebenchError: a package cannot be run.
    """
    params = load_params()
    device = resolve_device(params.device, read_json(MACHINE)["gpu"] is not None)
    with exclusive_machine():
        manifest = compile_model(MODEL, device, params.compile.batch_sizes)
    rows = [PackageRow(**package.model_dump(exclude={"file", "sha256"})) for package in manifest.packages]
    write_rows(COMPILED_TABLE, PackageRow, rows)
    print_wrapped("\n".join(describe(manifest)))
