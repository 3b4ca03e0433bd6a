"""What a request costs without a model, or with a light one: by LitServe, and by the direct transport."""

from __future__ import annotations

from litmeter.kinds.configuration import Configuration
from litmeter.kinds.registry import read as read_keys
from studies.harness import NUMBER, Case, compare_cases, known, rates, ratios, summary, write_result

USERS = 32
SECONDS = 60.0
DIRECT = {"max_batch_size": 4, "threads_per_worker": 1, "transport": "direct", "keep_freed_memory": True}
NOTHING = {"api": "studies.apis:Nothing", "threads_per_worker": 1}
PRODUCT = NOTHING | {"api": "studies.apis:Product", "api_kwargs": {"products": 4}, "max_batch_size": 8}


def settings(*keys: dict[str, object]) -> Configuration:
    """A configuration with these keys."""
    return read_keys({key: value for each in keys for key, value in each.items()})


GROUPS = {
    "classifier": {
        "stock, json": Case(settings(), "json", null=True),
        "direct, json": Case(settings(DIRECT), "json", null=True),
        "direct, image": Case(settings(DIRECT), "image", null=True),
    },
    "api that does nothing": {
        "stock": Case(settings(NOTHING), NUMBER),
        "direct": Case(settings(NOTHING, {"transport": "direct"}), NUMBER),
    },
    "api of 4 matrix products": {
        "stock": Case(settings(PRODUCT, {"batch_timeout_s": 0.002}), NUMBER),
        "direct": Case(settings(PRODUCT, {"transport": "direct"}), NUMBER),
    },
}
"""The first of each is LitServe's own."""


def main() -> None:
    """Measure the cases of each group in turn; keep and print rates over LitServe's, and CPU time."""
    result = {}
    for group, cases in GROUPS.items():
        found = compare_cases(cases, [USERS], SECONDS)[USERS]
        stock_rps = rates(found[next(iter(cases))])
        result[group] = {
            name: {
                "rps": rates(rows),
                "times_stock": summary(ratios(rates(rows), stock_rps)),
                "server_cpu_ms": summary(
                    [1000 * known(row.server_cores) / known(row.rate_rps) for row in rows]
                ),
            }
            for name, rows in found.items()
        }
        write_result("transport", result)
        for name, figures in result[group].items():
            print(f"{group}: {name}: {figures}", flush=True)


if __name__ == "__main__":
    main()
