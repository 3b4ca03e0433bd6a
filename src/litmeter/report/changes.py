"""What changed between sets of results, and how sure that is; and ``litmeter experiments``."""

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
from litmeter.paths import COMPARISON, MACHINE, SUMMARY
from litmeter.report.claims import Claim, change, times_text
from litmeter.report.machines import describe_machine
from litmeter.report.snapshot import HOURS_APART, Snapshot
from litmeter.report.tables import ratio_text
from litmeter.say.progress import print_wrapped, terminal_width
from litmeter.say.tables import fitted_table, markdown_table, markdown_text, rate_cell
from litmeter.settings import CANDIDATE, ParamsLoader
from litmeter.stats.rates import Z95
from litmeter.stats.ratios import FEWEST_RUNS, Ratio, over_runs

LONGEST_REVISION = len("workspace")


def changes(before: Snapshot, after: Snapshot) -> tuple[list[Claim], str]:
    """What changed from ``before`` to ``after``: a claim about serve:, and tables in Markdown.

    Rates are not compared, as they were measured at different times. Ratios to the same reference are, at the
    same load, with the same model and photos. Their intervals include the variance between runs, which is
    estimated from configurations of which nothing changed, code included; without any it is HOURS_APART.
    """
    changed = changed_params(*(one.params.model_dump(mode="json") for one in (before, after)))
    keys = [[f"`{key}`", *values] for key, values in changed.items()]
    blocks = ["No key of params.yaml has changed."]
    if keys:
        blocks = [markdown_table(["key of params.yaml", "before", "after"], keys, 3)]
    if before.measured_with and after.measured_with:
        lock = [{dep["path"]: dep for dep in one.measured_with["deps"] or ()} for one in (before, after)]
        files = [
            f"`{path}`" for path, own in lock[1].items() if path != str(MACHINE) and own != lock[0].get(path)
        ]
        blocks.append(f"Files that have changed: {', '.join(files) or 'none'}.")
    if before.machine != after.machine:
        blocks.append(markdown_text(machine_change(before.machine, after.machine)))
    conditions = _conditions(after)
    other = [what for what, value in _conditions(before).items() if value != conditions[what]]
    if other:
        blocks.append(f"Ratios cannot be compared, as these changed: {', '.join(other)}.")
    old, new = ({row.experiment: row for row in one.compared} for one in (before, after))
    if old == new:
        earlier = {name: one.metrics for name, one in before.capacities.items()}
        found_now = {name: one.metrics for name, one in after.capacities.items()}
        anew = [f"the capacity of `{name}`" for name, one in found_now.items() if one != earlier.get(name)]
        blocks.append(f"Both have the same comparison; measured anew: {', '.join(anew) or 'nothing'}.")
        return [], "\n\n".join(blocks)
    ratios = {} if other else {name: ratio_change(old.get(name), row) for name, row in new.items()}
    found = {name: ratio for name, ratio in ratios.items() if ratio is not None}
    rest = [(one.params.configurations(), one.comparison.signatures) for one in (before, after)]
    unchanged = {
        name for name in found if all(a.get(name) == b.get(name) for a, b in zip(*rest, strict=True))
    }
    half_width = beyond_intervals([found[name] for name in unchanged]) if unchanged else HOURS_APART
    found |= {name: widened(found[name], half_width) for name in found.keys() - unchanged}

    def cell(row: ComparisonRow | None, reference: str) -> str:
        if row is None or row.rate_rps is None:
            return "-"
        earlier = f", earlier, {row.earlier}" if row.earlier else ""
        return f"{ratio_text(row, reference)}, {rate_cell(row.rate_rps)} req/s{earlier}"

    def effect(name: str) -> str:
        if name not in found:
            return "-"
        said = "unchanged, so that is chance" if name in unchanged else verdict(found[name])
        return f"{times_text(found[name])}, {said}"

    rows = [
        [
            f"`{name}`",
            cell(old.get(name), before.reference),
            cell(new.get(name), after.reference),
            effect(name),
        ]
        for name in dict.fromkeys([*old, *new])
    ]
    head = ["configuration", "before: times the reference", "after", "after over before"]
    blocks.append(markdown_table(head, rows))
    claim = _claim(before, after, found.get(CANDIDATE))
    return [claim] if claim else [], "\n\n".join(blocks)


def machine_change(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """How two machines, or two environments of the same hardware, differ by keys of metrics/machine.json."""
    if before["id"] != after["id"]:
        old, new = describe_machine(before), describe_machine(after)
        return f"Another machine: {old} before, {new} after."
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    old, new = (", ".join(f"{key} {one.get(key, '-')}" for key in keys) for one in (before, after))
    return f"Another environment: {old} before, {new} after."


def _claim(before: Snapshot, after: Snapshot, ratio: Ratio | None) -> Claim | None:
    """The effect of changed settings of serve:, measured in the same rounds, or through the reference."""
    what = changed_settings(before.params.serve, after.params.serve)
    if what and after.comparison.over_before.changes == what and after.comparison.over_before.ratio:
        return change(after.comparison.over_before)
    if not what or ratio is None:
        return None
    old, new = (row.p95_ms for one in (before, after) for row in one.compared if row.experiment == CANDIDATE)
    found = OverBefore(ratio=ratio.ratio, low=ratio.low, high=ratio.high, changes=what, p95_ms=(old, new))
    return change(found, f" (in two runs, through `{after.reference}`)")


def _conditions(snapshot: Snapshot) -> dict[str, Any]:
    """Conditions that must be the same for ratios to be compared."""
    params = snapshot.params
    return {
        "the reference": (snapshot.reference, params.configuration(snapshot.reference)),
        "the number of users": params.comparison.users,
        "the model": (params.model, params.train),
        "the photos": params.data,
        "what users send": (params.load.bodies, params.load.request_body),
    }


def ratio_change(before: ComparisonRow | None, after: ComparisonRow) -> Ratio | None:
    """A configuration's ratio to the reference after over that before, with a 95% interval.

    None for the reference, without an interval of either, and for a row of an earlier run. The half widths of
    the logarithms add up as those of independent measurements do.
    """
    ends: list[tuple[float, float, float]] = []
    for row in (before, after):
        if row is None or not (row.ratio and row.ratio_low and row.ratio_high):
            return None
        ends.append((row.ratio, row.ratio_low, row.ratio_high))
    half_width = math.hypot(*(math.log(high / low) / 2 for _, low, high in ends))
    if after.earlier or half_width == 0:
        return None
    return _with_half_width(ends[1][0] / ends[0][0], half_width)


def beyond_intervals(unchanged: Sequence[Ratio]) -> float:
    """By how much two runs differ beyond their intervals: half the width of a 95% interval of a logarithm.

    ``unchanged`` are ratios between the runs of configurations that did not change, whose true ratio is 1.
    The variance between runs is estimated by the method of moments (DerSimonian and Laird), the interval by
    Student's t. 0 without such configurations.
    """
    if not unchanged:
        return 0.0
    weights = [(Z95 / _half_width(ratio)) ** 2 for ratio in unchanged]
    excess = sum(w * math.log(ratio.ratio) ** 2 for w, ratio in zip(weights, unchanged, strict=True))
    variance = max(0.0, (excess - len(unchanged)) / sum(weights))
    return float(stdtrit(len(unchanged), 0.975)) * math.sqrt(variance)


def widened(ratio: Ratio, half_width: float) -> Ratio:
    """The ratio with an interval that an independent ``half_width`` of the logarithm makes wider."""
    return _with_half_width(ratio.ratio, math.hypot(_half_width(ratio), half_width))


def _half_width(ratio: Ratio) -> float:
    assert ratio.low is not None
    assert ratio.high is not None
    return math.log(ratio.high / ratio.low) / 2


def _with_half_width(ratio: float, half_width: float) -> Ratio:
    factor = math.exp(half_width)
    return Ratio(ratio, ratio / factor, ratio * factor)


def runs_table(snapshots: Sequence[Snapshot]) -> str:
    """Each configuration's ratio over all runs, with a random-effects interval.

    Empty below FEWEST_RUNS, and where code, machine, model, photos or params of the comparison differ.
    """
    same = all(one.measured_with and one.measured_with == snapshots[0].measured_with for one in snapshots)
    if len(snapshots) < FEWEST_RUNS or not same:
        return ""
    rows, reference = [], snapshots[-1].reference
    for name in snapshots[-1].params.configurations():
        known = [row for one in snapshots for row in one.compared if row.experiment == name]
        runs = [
            Ratio(row.ratio, row.ratio_low, row.ratio_high)
            for row in known
            if row.ratio is not None and not row.earlier
        ]
        if name != reference and (ratio := over_runs(runs)) is not None:
            each = ", ".join(f"{run.ratio:.2f}" for run in runs)
            rows.append([f"`{name}`", times_text(ratio), each])
    table = markdown_table(["configuration", f"times {reference}, over all runs", "in each run"], rows)
    return (
        f"{len(snapshots)} runs of the same code, machine and model. With 95% certainty the interval "
        "contains the mean ratio of all possible runs; it includes differences from run to run (random "
        f"effects, Hartung and Knapp).\n\n{table}"
    )


def changed_params(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Values before and after of each dotted key that differs, no header's; a dash where there is none."""
    old, new = _flat(before), _flat(after)
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]

    def text(flat: Mapping[str, Any], key: str) -> str:
        shown = "not shown" if key.startswith("load.headers.") else json.dumps(flat.get(key))
        return shown if key in flat else "-"

    return {key: (text(old, key), text(new, key)) for key in keys}


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in content.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def show_experiments() -> int:
    """Print a table of rates, and below it a line for each experiment; return DVC's exit status.

    `dvc exp show` leaves out columns for which the terminal has no room.
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
    """Head and rows of the output of `dvc exp show --json`: rates of metrics/summary.json, and their time.

    Below each commit are its experiments, with the state of those that have not ended.
    """
    revisions: list[tuple[str, Mapping[str, Any]]] = []
    for commit in shown:
        revisions.append((commit["name"] or commit["rev"][:LONGEST_REVISION], commit))
        for experiment in commit["experiments"] or ():
            state = f" ({experiment['executor']['state']})" if experiment["executor"] else ""
            for revision in experiment["revs"][:1]:
                name = revision["name"] or revision["rev"][:LONGEST_REVISION]
                revisions.append((f"  {name}{state}", revision))
    rows = []
    for name, revision in revisions:
        data = revision["data"] or {}
        rates = data.get("metrics", {}).get(str(SUMMARY), {}).get("data") or {}
        rows.append((name, rates, (data.get("timestamp") or "-")[:16].replace("T", " ")))
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
    """What an experiment changed in params.yaml, and the effect of changed settings of serve:."""
    before, after = (_read(commit, "params.yaml") for commit in (base, revision))
    found = _over_before(revision)
    # A result that the base had already is not of the experiment.
    compared = change(found) if found != _over_before(base) else None
    said = [
        f"{key} {old} -> {new}"
        for key, (old, new) in changed_params(before, after).items()
        if not (compared and key.startswith("serve."))
    ]
    said += [compared.sentence.rstrip(".")] if compared else []
    return f"{name}: {'; '.join(said) or 'no key of params.yaml has changed'}"


def _over_before(commit: str) -> OverBefore:
    """The effect of changed settings in a commit's comparison; empty where the commit has no such file."""
    return OverBefore.model_validate(_read(commit, str(COMPARISON)).get("over_before", {}))


def _read(commit: str, path: str) -> Mapping[str, Any]:
    """A YAML or JSON file of a commit, relative to the current folder; empty where the commit has none."""
    shown = subprocess.run(["git", "show", f"{commit}:./{path}"], capture_output=True, text=True)
    if shown.returncode:
        return {}
    content = yaml.load(shown.stdout, ParamsLoader)  # noqa: S506 -- JSON is YAML
    return content if isinstance(content, dict) else {}
