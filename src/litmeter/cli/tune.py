"""``litmeter tune``: search a configuration, or write the one that was found into params.yaml."""

from __future__ import annotations

import json

import yaml
from dvc.utils.hydra import apply_overrides

from litmeter.errors import ParamsError, ReportError
from litmeter.model.card import read_card
from litmeter.params import PARAMS_FILE, ParamsLoader, load_params
from litmeter.paths import MACHINE, MODEL, TUNE_METRICS
from litmeter.system.files import read_json


def tune(*, apply: bool = False) -> None:
    """Search the fastest configuration, or apply it.

    Args:
        apply: write the last search's winner into params.yaml instead
    """
    if apply:
        apply_winner()
    else:
        from litmeter.stages.tune import main as search

        search()


def apply_winner() -> None:
    """Write the winner into the section ``serve`` of params.yaml; comments and layout stay.

    Raise ReportError without a result for this model on this machine, ParamsError where params.yaml does not
    allow the winner.
    """
    serve = load_params().serve
    try:
        metrics = read_json(TUNE_METRICS)
        winner, found_for = metrics["winner"], (metrics["machine"], metrics["weights_sha256"])
        changed = {key: value for key, value in winner.items() if getattr(serve, key) != value}
        here = (read_json(MACHINE)["id"], read_card(MODEL.exported).weights_sha256)
    except OSError as error:
        raise ReportError(f"{error.filename}: {error.strerror}; `make tune` makes it") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ReportError(f"{TUNE_METRICS}: malformed; `make tune` makes it again") from error
    if found_for != here:
        raise ReportError(f"{TUNE_METRICS}: found on another machine or for another model; run `make tune`")
    before = PARAMS_FILE.read_text(encoding="utf-8")
    section = yaml.load(before, ParamsLoader)["serve"]  # noqa: S506 -- a SafeLoader
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
