"""``litmeter init``: a DVC project for a server of one's own, by what one short try of it shows."""

from __future__ import annotations

import math
import os
import shlex
import shutil
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from functools import partial
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

import yaml
from pydantic import ValidationError

from litmeter.cli.load import LOAD
from litmeter.cli.opened import opened_below
from litmeter.cli.own import USERS, Sent, is_own, read_given, settings_of, with_keys, write_bodies
from litmeter.errors import ApiError, ServerError, UsageError
from litmeter.measure.bodies import JSON_LINES, Bodies
from litmeter.measure.preflight import DIFFER, check_apis
from litmeter.measure.target import LOADING, check_first_request
from litmeter.model.device import resolve_device
from litmeter.params import CANDIDATE, PARAMS_FILE, ServeSettings, explain, knobs_of
from litmeter.paths import DVC_FILE, MODEL
from litmeter.report.tables import describe
from litmeter.say.progress import print_wrapped
from litmeter.say.tables import significant
from litmeter.serve.launcher import starting_server
from litmeter.system.cores import whole_cores
from litmeter.system.files import all_or_nothing, write_text
from litmeter.system.gpu import cuda_available
from litmeter.system.machine import exclusive_machine

GIT_IGNORE, BODIES = Path(".gitignore"), Path("bodies")
PLOTS_PAGE = Path("plots.html")
"""What `dvc plots show` fills in, its scripts inside; DVC's own page loads them from the network."""
IGNORED = (".venv", "__pycache__/", "*.tmp", "/samples", "/report.html", "dvc_plots/")
SENT = Sent()
DEFAULTS = {key: ServeSettings.model_fields[key].default for key in knobs_of("api")}
BATCHES: dict[str, Any] = {"max_batch_size": 4, "batch_timeout_s": 0.002}
TRANSPORTS = ("direct", "litserve") if sys.platform == "linux" else ("litserve",)
"""The first that serves a LitAPI is the one to ship."""
MOST_WORKERS = 4


def init(server: str, /, *keys: str, sent: Sent = SENT) -> None:
    """Write a DVC project for a server of your own into the current folder.

    A short try of the server finds what to compare, and which files results depend on. Nothing is
    overwritten.

    Args:
        server: a LitAPI, module:Class or FILE.py:Class, or a command with {port}
        keys: of a LitAPI: its settings, keys of serve: as key=value
    """
    [given] = settings_of([f"server={with_keys(server, keys)}"], sent).values()
    if "api" not in given and not is_own(server):
        raise UsageError(f"expected module:Class, FILE.py:Class or a command with {{port}}, got {server!r}")
    try:
        settings = ServeSettings.model_validate(given)
    except ValidationError as error:
        raise UsageError(explain(error)) from None
    bodies, place = read_given(sent), Path(os.path.relpath(sent.body[0]))
    kept = place.is_dir() or place.suffix == JSON_LINES
    copied = len(sent.body) > 1 or not kept or place.parts[:1] in ((), (os.pardir,))
    place = BODIES if copied else place
    for path in (PARAMS_FILE, DVC_FILE, PLOTS_PAGE, *([BODIES] if copied else [])):
        if os.path.lexists(path):
            raise UsageError(f"{path}: is there already, and nothing is overwritten")
    device = resolve_device("auto", cuda_available())
    print_wrapped(f"{settings.api or settings.command} is tried for some seconds")
    own, here = Path(str(settings.folder)).resolve(), Path.cwd()
    apart = own not in (here, *here.parents) and here not in own.parents
    below = [Path(), *([Path(os.path.relpath(own))] if apart else [])]
    with exclusive_machine(), opened_below(*below) as opened:
        tried = (try_api if settings.api else try_server)(settings, bodies, device)
        read = opened()
    module = Path(os.path.relpath(str(settings.folder)), *str(settings.api).partition(":")[0].split("."))
    if (file := module.with_suffix(".py")).is_file():  # also where it was not seen
        read.files.add(file)
    dependencies = sorted(str(path) for path in read.files if not path.is_relative_to(place))
    found = configurations(tried, settings, device)
    with all_or_nothing():
        write_text(PARAMS_FILE, params_text(found, place, sent, tried.answer_s))
        write_text(DVC_FILE, dvc_text(dependencies, candidate=CANDIDATE in found))
        write_text(PLOTS_PAGE, template(PLOTS_PAGE.name))
        write_text(GIT_IGNORE, git_ignore())
        if copied:
            write_bodies(bodies, BODIES)
    print_wrapped(
        f"written: {PARAMS_FILE}, {DVC_FILE}, {PLOTS_PAGE}, {GIT_IGNORE}{f', {BODIES}' if copied else ''}"
    )
    print_wrapped(f"found: {tried.said}; compared are")
    for name, one in found.items():
        print_wrapped(f"  {name}: {describe(ServeSettings.model_validate(one), device)}")
    seen = ", ".join(dependencies) or "none was seen"
    print_wrapped(f"files that the results depend on: {seen}; name others below deps in {DVC_FILE}")
    if read.missed:
        print_wrapped(
            f"deps in {DVC_FILE} may be incomplete: {read.missed}; add what your server reads there"
        )
    print("next:", *next_commands(), sep="\n  ")


class Tried(NamedTuple):
    """What a try has shown: seconds that an answer takes, what to say, and what the server takes."""

    answer_s: float
    said: str
    single: bool = True
    batches: bool = False
    direct: bool = False


def try_api(settings: ServeSettings, bodies: Bodies, device: str) -> Tried:
    """Try a LitAPI with single items and with batches; raise ApiError where it takes neither."""
    common = DEFAULTS | ({"threads_per_worker": 1} if device == "cpu" else {})
    for transport in TRANSPORTS:
        alone = settings.model_copy(update=common | {"transport": transport})
        both = {str(settings.api): alone, f"{settings.api} in batches": alone.model_copy(update=BATCHES)}
        single, batch = check_apis(both, bodies, device, LOAD.timeout_s, quick=True).values()
        if f"transport: {transport}" not in single.fault:  # which then cannot serve it
            break
    if single.fault and batch.fault:
        raise ApiError(single.fault)
    if single.unavailable and DIFFER in batch.fault:
        again = f"'{settings.api} check_answers=false'"
        raise ApiError(f"{batch.fault}; of a model that samples, give {again}")
    answer_s = single.answer_s or batch.answer_s
    if answer_s is None:  # it cannot be run in-process
        return try_server(settings, bodies, device)
    said = "it takes single items and batches"
    if fault := (single.fault or batch.fault).partition("; its log: ")[0]:
        said = f"it takes {'batches' if single.fault else 'single items'} alone ({fault})"
    return Tried(answer_s, said, not single.fault, not batch.fault, transport == "direct")


def try_server(settings: ServeSettings, bodies: Bodies, device: str) -> Tried:
    """Start a server and time a request; raise UsageError where it fails."""
    try:
        with starting_server(MODEL, settings, device, LOAD.timeout_s) as starting:
            url = starting.url + settings.path
            ask = partial(check_first_request, url, *bodies, {}, LOAD.timeout_s)
            starting.ready(ask=partial(ask, LOADING))
            for _ in range(2):  # the first may take longer
                began = time.perf_counter()
                ask()
                answer_s = time.perf_counter() - began
    except ServerError as error:
        raise UsageError(f"{settings.api}: {error}" if settings.api else str(error)) from error
    return Tried(answer_s, f"a request is answered in {significant(1000 * answer_s)} ms")


def configurations(tried: Tried, settings: ServeSettings, device: str) -> dict[str, dict[str, Any]]:
    """A first configuration, two that differ from it in one thing, and the one to ship, which has all things.

    Where only workers can differ, it is the first and the last; of a command it is one.
    """
    base = settings.model_dump(mode="json", exclude_defaults=True)
    if (folder := os.path.relpath(base.pop("folder"))) != os.curdir:
        base["folder"] = folder
    if settings.command:
        return {"server": base}
    given = {key: base.pop(key) for key in DEFAULTS if key in base}
    cores = max(2, whole_cores())
    workers = min(MOST_WORKERS, cores)
    batches = BATCHES | {key: given[key] for key in BATCHES if key in given}
    first: dict[str, Any] = {} if tried.single else batches
    things = {"batched": batches} if tried.batches and tried.single else {}
    if tried.direct:
        things["direct"] = {"transport": "direct", "batch_timeout_s": 0.0}
    things["workers"] = {"workers_per_device": workers}
    if device == "cpu":
        things["workers"] |= {"threads_per_worker": cores // workers}
    found = {"single" if tried.single else "batched": first}
    if len(things) > 1:
        found |= {name: first | things[name] for name in list(things)[:2]}
    found[CANDIDATE] = DEFAULTS | first  # all keys, as -S sets no others
    for keys in (*things.values(), given):
        found[CANDIDATE] |= keys
    return {name: deepcopy(base) | one for name, one in found.items()}  # YAML would mark what they share


def params_text(found: Mapping[str, Mapping[str, Any]], bodies: Path, sent: Sent, answer_s: float) -> str:
    """Content of params.yaml, with time enough for answers that take so long."""
    experiments = {name: one for name, one in found.items() if name != CANDIDATE}
    reference, *_ = experiments
    text, other = template("params.yaml"), ""
    if CANDIDATE not in found:
        text = template("params.yaml", "$serve")
        other = f"\n  # other:\n  #   command: {experiments[reference]['command']} --option"
    users = sent.users or USERS
    load: dict[str, Any] = {"bodies": str(bodies), "users": sorted({1, users})}
    if sent.content_type:
        load["content_type"] = sent.content_type
    return Template(text).substitute(
        serve=block({"serve": found.get(CANDIDATE)}),
        experiments=block({"experiments": experiments}) + other,
        load=block({"load": load}),
        timeout_s=max(10.0, math.ceil(4 * users * answer_s)),
        reference=reference,
        users=users,
        comparison_s=max(80.0, math.ceil(40 * users * answer_s)),  # from each of four, ten to a user
        slo_ms=max(50.0, math.ceil(10_000 * answer_s)),
        shipped=list(found)[-1],
    )


def dvc_text(dependencies: Sequence[str], *, candidate: bool) -> str:
    """Content of dvc.yaml, whose stages depend on these files."""
    text = template("dvc.yaml")
    if not candidate:
        text = template("dvc.yaml", "benchmark candidate").replace("      - serve\n", "")
    lines = textwrap.indent(block(list(dependencies)), 8 * " ") + "\n" if dependencies else ""
    return text.replace("        - FILES\n", lines)


def template(name: str, without: str = "\0") -> str:
    """A file that this package has, but for the paragraph that has the text ``without``."""
    paragraphs = files(__package__).joinpath(f"templates/{name}").read_text(encoding="utf-8").split("\n\n")
    return "\n\n".join(paragraph for paragraph in paragraphs if without not in paragraph)


def block(content: Any) -> str:
    """YAML with a key or an item to a line, as `dvc exp run -S` leaves it."""
    return str(yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=math.inf)).rstrip()


def git_ignore() -> str:
    """Content of .gitignore: one's own lines, and those that are missing."""
    own = GIT_IGNORE.read_text(encoding="utf-8").splitlines() if GIT_IGNORE.exists() else []
    return "".join(f"{line}\n" for line in [*own, *(line for line in IGNORED if line not in own)])


def next_commands() -> Iterator[str]:
    """What to type for a first run."""
    activate = Path(sys.prefix) / "bin/activate"
    if shutil.which("litmeter") is None and activate.exists():
        yield f". {activate}"
    if find_spec("dvc") is None:
        yield "pip install 'litmeter[dvc]'"
    yield "git init -b main && dvc init  # unless it is a repository of both already"
    here = Path.cwd()
    root = next((one for one in (here, *here.parents) if (one / ".dvc").is_dir()), here)
    page = os.path.relpath(PLOTS_PAGE, root / ".dvc")
    yield f"dvc config plots.html_template {shlex.quote(page)}  # `dvc plots show` then needs no network"
    yield "dvc repro"
