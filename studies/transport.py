"""What a request costs without a model: LitServe's own way to the workers, and the direct one."""

from __future__ import annotations

from litmeter.params import ServeSettings
from studies.harness import Case, compare_cases, known, rates, ratios, summary, write_result

USERS = 32
SECONDS = 60.0
STOCK = ServeSettings()
DIRECT = ServeSettings(max_batch_size=4, threads_per_worker=1, transport="direct", keep_freed_memory=True)
CASES = {
    "stock, json": Case(STOCK, "json", null_model=True),
    "direct, json": Case(DIRECT, "json", null_model=True),
    "direct, image": Case(DIRECT, "image", null_model=True),
}


def main() -> None:
    """Measure the three; keep and print rates over stock LitServe's, and CPU time."""
    found = compare_cases(CASES, [USERS], SECONDS)[USERS]
    stock_rps = rates(found["stock, json"])
    result = {
        name: {
            "rps": rates(rows),
            "times_stock": summary(ratios(rates(rows), stock_rps)),
            "server_cpu_ms": summary([1000 * known(row.server_cores) / known(row.rate_rps) for row in rows]),
        }
        for name, rows in found.items()
    }
    write_result("transport", result)
    for name, figures in result.items():
        print(f"{name}: {figures}")


if __name__ == "__main__":
    main()
