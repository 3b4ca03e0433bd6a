"""What int8 brings and costs: four models, the tuned server in half precision and in int8 in turn.

Only the pipeline's own model is trained: of the others, with random weights, the changes of the answers say
little, and their rates all the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from litmeter.benchmark.comparison import compare
from litmeter.data.index import read_index
from litmeter.inference.answers import answers_of
from litmeter.params import ServeSettings, load_params
from litmeter.paths import ModelFolders
from litmeter.stages.compile import calibration_photos
from litmeter.stats.change import change
from litmeter.stats.comparison import ratios
from litmeter.system.machine import exclusive_machine
from litmeter.system.tables import markdown_table
from litmeter.tune.rows import ratio_cell
from studies import DEVICE
from studies.harness import all_bodies, photo_paths, read_result, write_result
from studies.models import DEFAULT, MAX_BATCH_SIZES, with_packages

RESULT = "int8"
MODELS = (DEFAULT, "mobilenetv3_small_100", "resnet50", "convnext_tiny")
SECONDS = 100.0
REFERENCE = "full"


def main() -> None:
    """Compare the precisions of each model; keep all."""
    params = load_params()
    found: dict[str, Any] = {}
    for name in MODELS:
        size = MAX_BATCH_SIZES.get(name, params.configuration("e7_tuned").max_batch_size)
        photos = calibration_photos(read_index(), params.compile.int8_photos)
        folders = with_packages(name, size, photos)
        settings = {
            precision: params.configuration("e7_tuned").model_copy(
                update={"precision": precision, "max_batch_size": size}
            )
            for precision in (REFERENCE, "half", "int8")
        }
        found[name] = {"rates": served(folders, settings), "answers": changed(folders, settings)}
        print(name, found[name], flush=True)
        write_result(RESULT, {"models": found, "users": params.comparison.users[0], "seconds": SECONDS})


def served(folders: ModelFolders, settings: Mapping[str, ServeSettings]) -> dict[str, Any]:
    """The ratio of each precision's rate to that of full precision."""
    params = load_params()
    comparison = params.comparison.model_copy(update={"reference": REFERENCE, "seconds": SECONDS})
    with exclusive_machine():
        bodies = all_bodies(params.load.request_body)
        result = compare(settings, folders, DEVICE, bodies, params.load, comparison, SECONDS)
    rates = result.rates(comparison.users[0])
    means = {name: [rate for rate in own if rate] for name, own in rates.items()}
    return {
        name: {
            "rate_rps": round(sum(means[name]) / len(means[name]), 1),
            "ratio": round(own.ratio, 3),
            "low": own.low and round(own.low, 3),
            "high": own.high and round(own.high, 3),
        }
        for name, own in ratios(rates, REFERENCE).items()
    }


def changed(folders: ModelFolders, settings: Mapping[str, ServeSettings]) -> dict[str, Any]:
    """What changes from full precision's answers with the same pixels, on the test photos and the others."""
    photos = read_index().photos
    answers = answers_of(folders, DEVICE, list(settings.values()), photo_paths())
    by_precision = dict(zip(settings, answers, strict=True))
    found: dict[str, Any] = {}
    for tested in (True, False):
        numbers = [number for number, photo in enumerate(photos) if (photo.split == "test") is tested]
        labels = [photos[number].label for number in numbers]
        found["test" if tested else "other"] = {
            name: {
                key: round(value, 5)
                for key, value in asdict(
                    change(by_precision[REFERENCE][numbers], own[numbers], labels)
                ).items()
            }
            for name, own in by_precision.items()
            if name != REFERENCE
        }
    return found


def table() -> str:
    """Rates and changes of the answers to the test photos by model, as Markdown."""
    head = ["model", "half / full", "int8 / full", "int8 / half", "same label", "at least"]
    head += ["mean change", "largest change", "divergence"]
    rows = []
    for name, found in read_result(RESULT)["models"].items():
        half, int8 = (found["rates"][precision] for precision in ("half", "int8"))
        own = found["answers"]["test"]["int8"]
        rows.append(
            [
                name,
                *(ratio_cell(rate["ratio"], rate["low"], rate["high"]) for rate in (half, int8)),
                f"{int8['ratio'] / half['ratio']:.2f}",
                f"{own['agreement']:.1%}",
                f"{own['agreement_low']:.1%}",
                f"{own['mean_change']:.4f}",
                f"{own['largest_change']:.3f}",
                f"{own['divergence']:.5f}",
            ]
        )
    return markdown_table(head, rows)


if __name__ == "__main__":
    main()
