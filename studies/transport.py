"""What a request costs without a model: LitServe's own way to the workers, and the direct one."""

from __future__ import annotations

from litmeter.measure.rows import LevelRow
from litmeter.params import ServeSettings
from studies.harness import Case, measure_rounds, rates, ratios, summary, write_result

USERS = 32
SECONDS = 3.0
ROUNDS = 5
STOCK = ServeSettings()
DIRECT = ServeSettings(max_batch_size=4, threads_per_worker=1, transport="direct", keep_freed_memory=True)
CASES = {
    name: Case(settings, users=(USERS,), seconds=SECONDS, form=form, null_model=True)
    for name, settings, form in (
        ("stock, json", STOCK, "json"),
        ("direct, json", DIRECT, "json"),
        ("direct, image", DIRECT, "image"),
    )
}


def server_cpu_ms(row: LevelRow) -> float:
    """CPU time of all of the server's processes per request, milliseconds."""
    return 1000 * (row.server_cores or 0) / row.throughput_rps


def main() -> None:
    """Measure the three; keep and print rates over stock LitServe's, and CPU time."""
    found = measure_rounds("transport", CASES, ROUNDS)
    stock_rps = rates(found["stock, json"], USERS)
    result = {
        name: {
            "rps": rates(rounds, USERS),
            "times_stock": summary(ratios(rates(rounds, USERS), stock_rps)),
            "server_cpu_ms": summary([server_cpu_ms(levels[USERS]) for levels in rounds]),
        }
        for name, rounds in found.items()
    }
    write_result("transport", result)
    for name, figures in result.items():
        print(f"{name}: {figures}")


if __name__ == "__main__":
    main()
