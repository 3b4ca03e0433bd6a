"""What a request costs without a model: LitServe's own way to the workers, and the direct one."""

from __future__ import annotations

from litmeter.benchmark.rows import LevelRow
from litmeter.params import ServeSettings
from studies.goals import keep
from studies.harness import Case, measure_rounds, rates, ratios

USERS = 32
SECONDS = 3.0
ROUNDS = 5
STOCK = ServeSettings()
DIRECT = ServeSettings(max_batch_size=4, threads_per_worker=1, transport="direct", keep_freed_memory=True)
CASES = {
    name: Case(settings, users=(USERS,), seconds=SECONDS, form=form, null_model=True)
    for name, settings, form in (
        ("stock", STOCK, "json"),
        ("direct, json", DIRECT, "json"),
        ("direct, image", DIRECT, "image"),
    )
}
TARGETS = {"image": 5.0, "json": 2.5}
"""Times the rate of stock LitServe, by what users send."""
CPU_TARGET_MS = 0.2


def server_cpu_ms(row: LevelRow) -> float:
    """CPU time of all of the server's processes per request, milliseconds."""
    return round(1000 * (row.server_cores or 0) / row.throughput_rps, 3)


def main() -> None:
    """Measure the three, and keep ratios and CPU time."""
    found = measure_rounds("transport", CASES, ROUNDS)
    rps = {name: rates(rounds, USERS) for name, rounds in found.items()}
    cpu_ms = {name: [server_cpu_ms(levels[USERS]) for levels in rounds] for name, rounds in found.items()}
    for form, target in TARGETS.items():
        keep(
            f"transport_{form}",
            f"a model that does nothing, {USERS} users: direct, {form} bodies over stock LitServe",
            target,
            ratios(rps[f"direct, {form}"], rps["stock"]),
            rps=rps,
            server_cpu_ms=cpu_ms,
        )
    keep(
        "transport_cpu",
        "server CPU per request with image bodies, ms",
        CPU_TARGET_MS,
        cpu_ms["direct, image"],
        at_least=False,
    )


if __name__ == "__main__":
    main()
