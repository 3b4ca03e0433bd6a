"""Which ``max_batch_size`` serves most, with a package for every size up to it."""

from __future__ import annotations

from statistics import median

from litmeter.system.tables import markdown_table
from studies.harness import Case, measure_rounds, rates, read_result, write_result
from studies.models import DEFAULT, tuned, with_packages

MODELS = (DEFAULT, "mobilenetv3_small_100")
SIZES = (1, 2, 4, 8)
USERS = (8, 32)
SECONDS = 2.0
ROUNDS = 5
RESULT = "batch_size"


def cases() -> dict[tuple[str, int], Case]:
    """Every model with every size."""
    folders = {model: with_packages(model, max(SIZES)) for model in MODELS}
    return {
        (model, size): Case(
            tuned(model).model_copy(update={"max_batch_size": size}),
            users=USERS,
            seconds=SECONDS,
            folders=folders[model],
        )
        for model in MODELS
        for size in SIZES
    }


def main() -> None:
    """Measure all of them, print the medians and keep all values."""
    found = measure_rounds("batch sizes", cases(), ROUNDS)
    rows = [
        {
            "model": model,
            "max_batch_size": size,
            "rps": {str(users): rates(levels, users) for users in USERS},
        }
        for (model, size), levels in found.items()
    ]
    write_result(RESULT, {"sizes": rows})
    print(table())


def table() -> str:
    """Medians by model and size, as Markdown."""
    head = ["model", "`max_batch_size`", *(f"req/s, {users} users" for users in USERS)]
    rows = [
        [
            row["model"],
            str(row["max_batch_size"]),
            *(f"{median(row['rps'][str(users)]):.0f}" for users in USERS),
        ]
        for row in read_result(RESULT)["sizes"]
    ]
    return markdown_table(head, rows)


if __name__ == "__main__":
    main()
