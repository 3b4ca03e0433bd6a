"""``litmeter tune``: search the fastest settings of a project, or of a LitAPI of one's own."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from typing import Annotated

from cyclopts import Parameter

from litmeter.cli.own import OWN, Own, check_only_own, project, settings_of
from litmeter.errors import ParamsError, ReportError, UsageError
from litmeter.kinds.configuration import Configuration
from litmeter.measure.comparison_rows import counted
from litmeter.params import changed_settings, load_params
from litmeter.paths import MACHINE, TUNE_METRICS
from litmeter.report import stage_lines
from litmeter.report.claims import disturbances
from litmeter.report.pages import write_search
from litmeter.report.snapshot import OUTDATED, outdated, read_tuned
from litmeter.report.tables import at_users, tune_table, value_text
from litmeter.say.progress import print_wrapped
from litmeter.say.tables import rate_name, ratio_cell, text_table
from litmeter.settings import PARAMS_FILE, Positive, read_sections
from litmeter.stages.tune import main as search
from litmeter.system.files import read_json
from litmeter.system.machine import exclusive_machine
from litmeter.tune.rows import TuneMetrics


def tune(
    server: str | None = None,
    /,
    *,
    own: Own = OWN,
    seconds: Positive | None = None,
    as_json: Annotated[bool, Parameter(name="--json")] = False,
    apply: bool = False,
) -> None:
    """Search the fastest settings of params.yaml's section serve:, or of a server of your own.

    Args:
        server: your own, FILE.py or module:Class, with keys as key=value (default: that of params.yaml)
        seconds: that the search of your own takes, from enter to result (default: 300)
        as_json: of your own: print JSON instead of tables
        apply: write the winner of the last search into params.yaml instead
    """
    if server is not None:
        if apply:
            raise UsageError("--apply: only for params.yaml")
        tune_own(server, own, seconds, as_json)
        return
    check_only_own(own, seconds=seconds, json=as_json)
    if apply:
        apply_winner()
    else:
        with exclusive_machine():
            stage_lines.done("tune", search())


def tune_own(server: str, own: Own, seconds: float | None, as_json: bool) -> None:
    """Search the fastest settings of one's own LitAPI; print them, and write a page, if one is wanted."""
    settings = settings_of([server], own)
    [name], [given] = settings, settings.values()
    users = {"users": own.users} if own.users else {}
    sections = {
        "serve": given,
        "experiments": settings,
        "comparison": {"reference": name, "users": 1, "seconds": 1.0},
        "tune": users | ({"max_s": seconds} if seconds else {}),
    }
    with project(sections, own) as params:
        with redirect_stdout(sys.stderr), exclusive_machine():
            outcome, turns = search()
        found, first = read_tuned(), outcome.rows[0]
        if own.report is not None:
            write_search(own.report, server, found)
        if as_json:
            raced = [{**vars(row), **row.knobs} for row in outcome.rows]
            raced = [{key: value for key, value in row.items() if key != "knobs"} for row in raced]
            knobs = [vars(row) for row in found.knobs]
            metrics = found.metrics.model_dump(mode="json")
            print(json.dumps({"metrics": metrics, "raced": raced, "knobs": knobs}, indent=2))
            return
        print(text_table(*tune_table(outcome.rows)))
        gain = ratio_cell(first.over_serve, first.over_serve_low, first.over_serve_high)
        rate = rate_name(counted(turns))
        print_wrapped(f"{spec_of(params.serve, outcome.winner)}\n{gain} times the {rate} of {server}")
        print_wrapped(f"{at_users(params.tune.users)}: --users N searches for another number")
        print_wrapped("\n".join(claim.plain for claim in disturbances(turns)))


def spec_of(given: Configuration, winner: Configuration) -> str:
    """The winner as one types it."""
    changes = changed_settings(given, winner).items()
    return " ".join([given.spec, *(f"{key}={value_text(new)}" for key, (_, new) in changes)])


def apply_winner() -> None:
    """Write the winner into the section ``serve`` of params.yaml; comments and layout stay.

    Raise ReportError without a result for this model on this machine, ParamsError where params.yaml does not
    allow the winner.
    """
    from dvc.utils.hydra import apply_overrides  # takes a second

    params = load_params()
    serve = params.serve
    try:
        metrics = TuneMetrics.model_validate(read_json(TUNE_METRICS))
        found_for = (metrics.machine, metrics.weights_sha256)
        changed = {key: value for key, value in metrics.winner.items() if getattr(serve, key) != value}
        here = (read_json(MACHINE)["id"], params.served_digest())
    except OSError as error:
        raise ReportError(f"{error.filename}: {error.strerror}; `make tune` makes it") from error
    except (AttributeError, KeyError, ValueError) as error:
        raise ReportError(f"{TUNE_METRICS}: malformed; `make tune` makes it again") from error
    if found_for != here:
        raise ReportError(f"{TUNE_METRICS}: found on another machine or for another model; run `make tune`")
    if outdated(TUNE_METRICS):
        print_wrapped(f"{OUTDATED}: {TUNE_METRICS}; `make tune` searches again")
    before = PARAMS_FILE.read_text(encoding="utf-8")
    section = read_sections()["serve"]
    overrides = []  # as `dvc exp run -S` takes them: + adds a key, and JSON's words are Hydra's
    for key, value in changed.items():
        text = value if isinstance(value, str) else json.dumps(value)
        overrides.append(f"{'' if key in section else '+'}serve.{key}={text}")
    if overrides:
        apply_overrides(PARAMS_FILE, overrides)
    try:
        load_params()
    except ParamsError:
        PARAMS_FILE.write_text(before, encoding="utf-8")
        raise
    lines = [f"{key}: {getattr(serve, key)} -> {value}" for key, value in changed.items()]
    print("\n".join(lines) or f"{PARAMS_FILE} has the winner already")
