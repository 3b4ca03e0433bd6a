"""What a request costs without a model: LitServe's own way to the workers, and the direct one."""

from __future__ import annotations

from servebench.benchmark.levels import LevelRow
from servebench.params import ServeSettings
from servebench.paths import EXPORT_FOLDER
from servebench.serving.launcher import running_server
from servebench.system.machine_lock import exclusive_machine
from servebench.system.progress import bar
from studies.goals import keep
from studies.short import all_bodies, short_levels

ROUNDS = 5
USERS = 32
SECONDS = 3.0
STOCK = ServeSettings()
DIRECT = ServeSettings(max_batch_size=4, threads_per_worker=1, transport="direct", keep_freed_memory=True)
RUNS = {"stock": (STOCK, "json"), "direct, json": (DIRECT, "json"), "direct, image": (DIRECT, "image")}


def server_cpu_ms(row: LevelRow) -> float:
    """CPU time of all of the server's processes per request, milliseconds."""
    return 1000 * (row["server_cores"] or 0) / row["throughput_rps"]


def main() -> None:
    """Measure the three in every round, and keep ratios and CPU time."""
    bodies = {form: all_bodies(form) for form in ("json", "image")}
    rows: dict[str, list[LevelRow]] = {name: [] for name in RUNS}
    with exclusive_machine(), bar(ROUNDS * len(RUNS), "transport", "server") as progress:
        for number in range(ROUNDS):
            for name, (serve, form) in RUNS.items():
                with running_server(EXPORT_FOLDER, serve, "cpu", 30.0, null=True) as server:
                    levels = short_levels(server, bodies[form], (USERS,), SECONDS, number, form)
                rows[name].append(levels[USERS])
                progress.update()
    rates = {name: [row["throughput_rps"] for row in own] for name, own in rows.items()}
    cpu_ms = {name: [round(server_cpu_ms(row), 3) for row in own] for name, own in rows.items()}
    for name, goal, target in (("direct, image", "image", 5.0), ("direct, json", "json", 2.5)):
        ratios = [ours / stock for ours, stock in zip(rates[name], rates["stock"], strict=True)]
        text = f"a model that does nothing, {USERS} users: {name} bodies over stock LitServe"
        keep(f"transport_{goal}", text, target, ratios, rps=rates, server_cpu_ms=cpu_ms)
    keep(
        "transport_cpu",
        "server CPU per request with image bodies, ms",
        0.2,
        cpu_ms["direct, image"],
        at_least=False,
    )


if __name__ == "__main__":
    main()
