"""What changed between sets of results, and how sure that is; ``litmeter experiments`` says it of each."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml
from scipy.special import stdtrit

from litmeter.measure.comparison_rows import OverBefore, verdict
from litmeter.measure.rows import ComparisonRow
from litmeter.params import changed_settings
from litmeter.paths import COMPARISON, SUMMARY
from litmeter.report.claims import Claim, change, times_text
from litmeter.report.machines import describe_machine
from litmeter.report.snapshot import Snapshot
from litmeter.report.tables import ratio_text
from litmeter.say.progress import print_wrapped, terminal_width
from litmeter.say.tables import fitted_table, markdown_table, markdown_text, rate_cell
from litmeter.settings import CANDIDATE, ParamsLoader
from litmeter.stats.rates import Z95
from litmeter.stats.ratios import FEWEST_RUNS, Ratio, over_runs

LONGEST_REVISION = len("workspace")


def changes(before: Snapshot, after: Snapshot) -> tuple[list[Claim], str]:
    """What changed from ``before`` to ``after``: what is said of it, and tables in Markdown.

    Rates themselves are not compared: they were measured at different times. Ratios to the same reference
    are, at the same load, with the same model and photos; intervals hold what differs between runs, as far as
    configurations that did not change tell it.
    """
    changed = changed_params(*(one.params.model_dump(mode="json") for one in (before, after)))
    table = [[f"`{key}`", *values] for key, values in changed.items()]
    blocks = [markdown_table(["key of params.yaml", "before", "after"], table, 3)]
    if not changed:
        blocks = ["No key of params.yaml has changed."]
    if before.machine != after.machine:
        blocks.append(markdown_text(machine_change(before.machine, after.machine)))
    conditions = _conditions(after)
    other = [what for what, value in _conditions(before).items() if value != conditions[what]]
    if other:
        blocks.append(f"Ratios cannot be compared, as these changed: {', '.join(other)}.")
    old, new = ({row.experiment: row for row in one.compared} for one in (before, after))
    ratios = {} if other else {name: ratio_change(old.get(name), row) for name, row in new.items()}
    found = {name: ratio for name, ratio in ratios.items() if ratio is not None}
    settings = [one.params.configurations() for one in (before, after)]
    unchanged = {name for name in found if settings[0].get(name) == settings[1].get(name)}
    half_width = beyond_intervals([found[name] for name in unchanged])
    found |= {name: widened(found[name], half_width) for name in found.keys() - unchanged}
    said = {
        name: "unchanged, so that is chance" if name in unchanged else verdict(found[name]) for name in found
    }
    rows = [
        [
            f"`{name}`",
            _cell(old.get(name), before.reference),
            _cell(new.get(name), after.reference),
            f"{times_text(found[name])}, {said[name]}" if name in found else "-",
        ]
        for name in dict.fromkeys([*old, *new])
    ]
    head = ["configuration", "before: times the reference", "after", "after over before"]
    blocks.append(markdown_table(head, rows))
    claim = _claim(before, after, found.get(CANDIDATE))
    return [claim] if claim else [], "\n\n".join(blocks)


def machine_change(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """How two machines differ, or one that has the same hardware, by the keys of metrics/machine.json."""
    if before["id"] != after["id"]:
        old, new = describe_machine(before), describe_machine(after)
        return f"Another machine: {old} before, {new} after."
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    old, new = (", ".join(f"{key} {one.get(key, '-')}" for key in keys) for one in (before, after))
    return f"Another environment: {old} before, {new} after."


def _claim(before: Snapshot, after: Snapshot, ratio: Ratio | None) -> Claim | None:
    """What other settings of the section serve did: measured in the same rounds, or through the reference."""
    what = changed_settings(before.params.serve, after.params.serve)
    if what and after.comparison.over_before.changes == what and after.comparison.over_before.ratio:
        return change(after.comparison.over_before)
    if not what or ratio is None:
        return None
    old, new = (row.p95_ms for one in (before, after) for row in one.compared if row.experiment == CANDIDATE)
    found = OverBefore(ratio=ratio.ratio, low=ratio.low, high=ratio.high, changes=what, p95_ms=(old, new))
    return change(found, f" (in two runs, through `{after.reference}`)")


def _conditions(snapshot: Snapshot) -> dict[str, Any]:
    """What must be the same for ratios to be compared."""
    params = snapshot.params
    return {
        "the reference": (snapshot.reference, params.configuration(snapshot.reference)),
        "the number of users": params.comparison.users,
        "the model": (params.model, params.train),
        "the photos": params.data,
        "what users send": (params.load.bodies, params.load.request_body),
    }


def ratio_change(before: ComparisonRow | None, after: ComparisonRow) -> Ratio | None:
    """A configuration's ratio to the reference after, over that before, with a 95% interval.

    None for the reference, where one has no interval, and where it was not measured again. The logarithms'
    half widths add up as those of independent measurements do.
    """
    ends: list[tuple[float, float, float]] = []
    for row in (before, after):
        if row is None or not (row.ratio and row.ratio_low and row.ratio_high):
            return None
        ends.append((row.ratio, row.ratio_low, row.ratio_high))
    half_width = math.hypot(*(math.log(high / low) / 2 for _, low, high in ends))
    if after.earlier or half_width == 0:
        return None
    ratio, factor = ends[1][0] / ends[0][0], math.exp(half_width)
    return Ratio(ratio, ratio / factor, ratio * factor)


def beyond_intervals(unchanged: Sequence[Ratio]) -> float:
    """By how much two runs differ beyond their intervals: half the width of a 95% interval of a logarithm.

    By what did not change between them, whose ratio is 1: the variance between runs by the method of moments
    (DerSimonian and Laird), and Student's t. 0 where there is nothing of which to know it.
    """
    if not unchanged:
        return 0.0
    weights = [(Z95 / half_width_of(one)) ** 2 for one in unchanged]
    excess = sum(w * math.log(one.ratio) ** 2 for w, one in zip(weights, unchanged, strict=True))
    variance = max(0.0, (excess - len(unchanged)) / sum(weights))
    return float(stdtrit(len(unchanged), 0.975)) * math.sqrt(variance)


def half_width_of(ratio: Ratio) -> float:
    """Half the width of the logarithm's interval, of a ratio that has one."""
    assert ratio.low is not None
    assert ratio.high is not None
    return math.log(ratio.high / ratio.low) / 2


def widened(ratio: Ratio, half_width: float) -> Ratio:
    """The ratio with an interval that is wider by that, independently."""
    factor = math.exp(math.hypot(half_width_of(ratio), half_width))
    return Ratio(ratio.ratio, ratio.ratio / factor, ratio.ratio * factor)


def runs_table(snapshots: Sequence[Snapshot]) -> str:
    """Each configuration's ratio over all runs, with a random-effects interval.

    Empty below FEWEST_RUNS, and where code, machine, model, photos or params of the comparison differ.
    """
    same = all(one.measured_with and one.measured_with == snapshots[0].measured_with for one in snapshots)
    if len(snapshots) < FEWEST_RUNS or not same:
        return ""
    rows, reference = [], snapshots[-1].reference
    for name in snapshots[-1].params.configurations():
        own = [row for one in snapshots for row in one.compared if row.experiment == name and not row.earlier]
        runs = [Ratio(row.ratio, row.ratio_low, row.ratio_high) for row in own if row.ratio is not None]
        if name != reference and (ratio := over_runs(runs)) is not None:
            each = ", ".join(f"{run.ratio:.2f}" for run in runs)
            rows.append([f"`{name}`", times_text(ratio), each])
    table = markdown_table(["configuration", f"times {reference}, over all runs", "in each run"], rows)
    return (
        f"{len(snapshots)} runs of the same code, machine and model. With 95% certainty the mean ratio of "
        "all such runs lies in the interval, which is of what differs from run to run, too (random effects, "
        f"Hartung and Knapp).\n\n{table}"
    )


def _cell(row: ComparisonRow | None, reference: str) -> str:
    if row is None or row.rate_rps is None:
        return "-"
    earlier = f", earlier, {row.earlier}" if row.earlier else ""
    return f"{ratio_text(row, reference)}, {rate_cell(row.rate_rps)} req/s{earlier}"


def changed_params(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Values before and after of each key, with dots, that differ; a dash where there is none."""
    old, new = _flat(before), _flat(after)
    keys = [key for key in dict.fromkeys([*old, *new]) if old.get(key) != new.get(key)]
    before_text, after_text = (
        {key: json.dumps(one[key]) for key in keys if key in one} for one in (old, new)
    )
    return {key: (before_text.get(key, "-"), after_text.get(key, "-")) for key in keys}


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in content.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def show_experiments() -> int:
    """Print a table of rates, and below it a line for each experiment; return DVC's exit status.

    `dvc exp show` leaves out the columns for which the terminal has no room.
    """
    command = [sys.executable, "-m", "dvc", "exp", "show", "--json"]
    shown = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if shown.returncode:
        return shown.returncode
    print(fitted_table(*rates_table(json.loads(shown.stdout)), terminal_width()))
    for name, base, revision in experiments():
        print_wrapped(describe_experiment(name, base, revision))
    return 0


def rates_table(shown: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of what `dvc exp show --json` has: rates by metrics/summary.json, and their time.

    Below each commit are its experiments; one that has not ended has its state beside its name.
    """
    rows: list[tuple[str, Mapping[str, float], str]] = []

    def add(name: str, revision: Mapping[str, Any]) -> None:
        data = revision["data"] or {}
        rates = data.get("metrics", {}).get(str(SUMMARY), {}).get("data") or {}
        rows.append((name, rates, (data.get("timestamp") or "-")[:16].replace("T", " ")))

    for commit in shown:
        add(commit["name"] or commit["rev"][:LONGEST_REVISION], commit)
        for experiment in commit["experiments"] or ():
            state = f" ({experiment['executor']['state']})" if experiment["executor"] else ""
            for revision in experiment["revs"][:1]:
                add(f"  {revision['name'] or revision['rev'][:LONGEST_REVISION]}{state}", revision)
    names = list(dict.fromkeys(name for _, rates, _ in rows for name in rates))
    cells = [
        [name, *(f"{rates[key]:g}" if key in rates else "-" for key in names), created]
        for name, rates, created in rows
    ]
    return ["experiment", *names, "created"], cells


def experiments() -> Iterator[tuple[str, str, str]]:
    """Name, base and revision of each experiment, the oldest first."""
    command = ["git", "for-each-ref", "--sort=creatordate", "--format=%(refname) %(objectname)", "refs/exps/"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for line in listed.splitlines():
        reference, revision = line.split()
        # refs/exps/BA/SE.../NAME; refs/exps/exec, celery and the like are DVC's own.
        match reference.split("/")[2:]:
            case [begin, end, name] if len(begin) == 2 and len(begin + end) == 40:
                yield name, begin + end, revision


def describe_experiment(name: str, base: str, revision: str) -> str:
    """What an experiment changed in params.yaml, and how its section serve compares with that before."""
    before, after = (_read(commit, "params.yaml") for commit in (base, revision))
    found = _over_before(revision)
    # What came of an experiment whose base had it, too, is the base's.
    compared = change(found) if found != _over_before(base) else None
    said = [
        f"{key} {old} -> {new}"
        for key, (old, new) in changed_params(before, after).items()
        if not (compared and key.startswith("serve."))
    ]
    said += [compared.sentence.rstrip(".")] if compared else []
    return f"{name}: {'; '.join(said) or 'no key of params.yaml has changed'}"


def _over_before(commit: str) -> OverBefore:
    """What the comparison of a commit says of changed settings; nothing where its code wrote no such file."""
    return OverBefore.model_validate(_read(commit, str(COMPARISON)).get("over_before", {}))


def _read(commit: str, path: str) -> Mapping[str, Any]:
    """A YAML or JSON file of a commit, below the current folder as now; empty where it has none."""
    shown = subprocess.run(["git", "show", f"{commit}:./{path}"], capture_output=True, text=True)
    if shown.returncode:
        return {}
    content = yaml.load(shown.stdout, ParamsLoader)  # noqa: S506 -- JSON is YAML
    return content if isinstance(content, dict) else {}
