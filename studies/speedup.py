"""How much faster the seventh rung is than the six, at its best level against theirs."""

from __future__ import annotations

from statistics import median

from servebench.params import load_params
from servebench.paths import EXPORT_FOLDER
from servebench.serving.launcher import running_server
from servebench.system.machine_lock import exclusive_machine
from servebench.system.progress import bar
from studies.goals import keep
from studies.short import all_bodies, short_rates

ROUNDS = 5
USERS = (1, 8, 32)
SECONDS = 2.0
FIRST, TUNED = "e1_baseline", "e7_tuned"


def main() -> None:
    """Measure all seven in every round, and keep the two ratios."""
    experiments = load_params().experiments
    bodies = {form: all_bodies(form) for form in ("json", "image")}
    best: dict[str, list[float]] = {name: [] for name in experiments}
    with exclusive_machine(), bar(ROUNDS * len(experiments), "speedup", "server") as progress:
        for number in range(ROUNDS):
            for name, serve in experiments.items():
                form = serve.request_body
                with running_server(EXPORT_FOLDER, serve, "cpu", 30.0) as server:
                    rates = short_rates(server, bodies[form], USERS, SECONDS, number, form)
                best[name].append(max(rates.values()))
                progress.update()
    tuned, first = best[TUNED], best[FIRST]
    others = [max(best[name][k] for name in experiments if name not in (FIRST, TUNED)) for k in range(ROUNDS)]
    rates_rps = {name: round(median(values), 2) for name, values in best.items()}
    keep(
        "speedup_baseline",
        f"{TUNED} serves at least 8 times {FIRST}",
        8.0,
        [ours / theirs for ours, theirs in zip(tuned, first, strict=True)],
        median_rps=rates_rps,
    )
    keep(
        "speedup_best",
        f"{TUNED} serves at least 3.5 times the best of e2 to e6",
        3.5,
        [ours / theirs for ours, theirs in zip(tuned, others, strict=True)],
        median_rps=rates_rps,
    )


if __name__ == "__main__":
    main()
