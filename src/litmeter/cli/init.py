"""``litmeter init``: a DVC project for a server of one's own, by what one short try of it shows."""

from __future__ import annotations

import math
import mimetypes
import os
import shutil
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from string import Template
from typing import Any

import yaml
from pydantic import ValidationError

from litmeter.cli.load import LOAD
from litmeter.cli.own import NO_BODY, USERS, Sent, settings_of
from litmeter.errors import ApiError, LoadError, ServerError, UsageError
from litmeter.measure.bodies import JSON_LINES, Bodies, read_bodies
from litmeter.measure.preflight import check_apis
from litmeter.measure.target import check_first_request
from litmeter.measure.telemetry import available_cores
from litmeter.model.device import resolve_device
from litmeter.params import CANDIDATE, PARAMS_FILE, ServeSettings, explain, knobs_of
from litmeter.paths import DVC_FILE, MODEL
from litmeter.report.tables import describe
from litmeter.serve.launcher import starting_server
from litmeter.system.files import all_or_nothing, atomic_folder, write_text
from litmeter.system.machine import cuda_available, exclusive_machine
from litmeter.system.opened import opened_below
from litmeter.system.progress import duration, print_wrapped
from litmeter.system.tables import significant

GIT_IGNORE, BODIES = Path(".gitignore"), Path("bodies")
IGNORED = (".venv", "__pycache__/", "*.tmp", "/samples", "/report.html", "dvc_plots/")
SENT = Sent()
TIMED_S = 0.5
"""For which each of single items and batches is answered for its rate."""
REQUESTS = 4
"""That a server is sent, where it is not tried in-process."""
BATCHES: dict[str, Any] = {"max_batch_size": 4, "batch_timeout_s": 0.002}
LARGER_BATCHES = BATCHES | {"max_batch_size": 8}
TRANSPORTS = ["litserve"]
if sys.platform == "linux" and "transport" in knobs_of("api"):
    TRANSPORTS.insert(0, "direct")
"""The first that serves a LitAPI is the one to ship."""
GAIN = 1.1
"""Batches that answer so many times as much, or more, are compared."""
MOST_WORKERS = 4
MANY = 8
"""Where more files of a folder are read, the folder is a dependency."""


def init(server: str | None = None, /, *, command: str | None = None, sent: Sent = SENT) -> None:
    """Write a DVC project for a server of your own into the current folder.

    A short try of the server finds what to compare, and which files results depend on. Nothing is
    overwritten.

    Args:
        server: a LitAPI, module:Class or FILE.py:Class, with keys of serve: as key=value
        command: starts a server instead; {port} stands for its port
    """
    if (server is None) == (command is None):
        raise UsageError("one server is needed: module:Class, or --command 'python server.py --port {port}'")
    [given] = settings_of([f"server={server or command}"], sent).values()
    settings, bodies, own = validated(given), read_given(sent), part_of_project(sent.body)
    for path in (PARAMS_FILE, DVC_FILE, *([] if own else [BODIES])):
        if os.path.lexists(path):
            raise UsageError(f"{path}: is there already, and nothing is overwritten")
    device = resolve_device("auto", cuda_available())
    print_wrapped(f"{settings.api or settings.command} is tried for some seconds")
    with exclusive_machine(), opened_below(Path()) as opened:
        tried = (try_api if settings.api else try_server)(settings, bodies, device)
        read = opened() | source_of(settings)
    found, budget = configurations(tried, settings, device), Budget(tried.answer_s, sent.users or USERS)
    dependencies = dependencies_of(read, own or BODIES)
    texts = {
        PARAMS_FILE: params_text(found, own or BODIES, sent.content_type, budget),
        DVC_FILE: dvc_text(dependencies, candidate=CANDIDATE in found),
        GIT_IGNORE: git_ignore(),
    }
    with all_or_nothing():
        for path, text in texts.items():
            write_text(path, text)
        if not own:
            write_bodies(bodies, sent.body[0].suffix)
    print_wrapped(f"written: {', '.join(map(str, [*texts, *([] if own else [BODIES])]))}\n{tried.said}")
    for name, one in found.items():
        print_wrapped(f"  {name}: {describe(ServeSettings.model_validate(one), device)}")
    seen = ", ".join(dependencies) or "none was seen"
    print_wrapped(f"files that the results depend on: {seen}; name others below deps in {DVC_FILE}")
    print("next:", *next_commands(), sep="\n  ", end=f"  # about {duration(budget.run_s(len(found)))}\n")


def validated(given: Mapping[str, Any]) -> ServeSettings:
    """The settings; raise UsageError for one that is not allowed."""
    try:
        return ServeSettings.model_validate(given)
    except ValidationError as error:
        raise UsageError(explain(error)) from None


def read_given(sent: Sent) -> Bodies:
    """All bodies that were given; raise UsageError where there is none, or one cannot be read."""
    if not sent.body:
        raise UsageError(NO_BODY)
    try:
        read = [read_bodies(path, sent.content_type) for path in sent.body]
    except LoadError as error:
        raise UsageError(f"--body {error}") from error
    types = {one.content_type for one in read}
    if len(types) > 1:
        raise UsageError(f"--body: files of several content types ({', '.join(sorted(types))}); name one")
    return Bodies([content for one in read for content in one.contents], types.pop())


def part_of_project(given: Sequence[Path]) -> Path | None:
    """The folder or file of JSON lines that is used where it is; None where bodies have to be copied."""
    path = Path(os.path.relpath(given[0]))
    below = path.name and path.parts[0] != os.pardir
    return path if len(given) == 1 and below and (path.is_dir() or path.suffix == JSON_LINES) else None


@dataclass(frozen=True)
class Tried:
    """What a try has shown.

    Attributes:
        answer_s: seconds that an answer takes, one at a time.
        single, batched: whether single items, and batches, are worth comparing.
        said: the reason, as a sentence.
        direct: whether the direct transport serves it.
    """

    answer_s: float
    single: bool
    batched: bool
    said: str
    direct: bool = False


def try_api(settings: ServeSettings, bodies: Bodies, device: str) -> Tried:
    """Try a LitAPI with single items and with batches; raise ApiError where it takes neither."""
    name, size = str(settings.api), LARGER_BATCHES["max_batch_size"]
    common = settings.model_dump(exclude=set(knobs_of("api")))
    common |= {"threads_per_worker": 1} if device == "cpu" else {}
    for transport in TRANSPORTS:
        single = validated(common | {"transport": transport})
        both = {name: single, f"{name} max_batch_size={size}": single.model_copy(update=LARGER_BATCHES)}
        one, batch = check_apis(both, bodies, device, LOAD.timeout_s, TIMED_S).values()
        if not (one.fault and batch.fault):
            break
    else:
        raise ApiError(one.fault)
    if one.rate_rps is None and batch.rate_rps is None:
        return try_server(settings, bodies, device)  # it cannot be run without a server
    direct = transport == "direct"
    reason = (one.fault or batch.fault).partition("; its log: ")[0]
    if one.fault or one.rate_rps is None:
        answer_s = size / (batch.rate_rps or size)
        return Tried(answer_s, False, True, f"It takes batches alone ({reason}):", direct)
    answer_s = 1 / one.rate_rps
    said = f"One worker answers {significant(one.rate_rps)} requests a second, one at a time"
    if batch.fault or batch.rate_rps is None:
        return Tried(answer_s, True, False, f"{said}, and takes no batches ({reason}):", direct)
    gain = batch.rate_rps / one.rate_rps
    said = f"{said}, and {gain:.2f} times as many in batches of {size}:"
    return Tried(answer_s, True, gain >= GAIN, said, direct)


def try_server(settings: ServeSettings, bodies: Bodies, device: str) -> Tried:
    """Start a server and time a request; raise UsageError where it fails."""
    passed_s = []
    try:
        with starting_server(MODEL, settings, device, LOAD.timeout_s) as starting:
            url = starting.ready().url + settings.path
            for _ in range(REQUESTS):
                began = time.perf_counter()
                check_first_request(url, bodies.contents, bodies.content_type, {}, LOAD.timeout_s)
                passed_s.append(time.perf_counter() - began)
    except ServerError as error:
        raise UsageError(f"{settings.api or 'command'}: {error}") from error
    answer_s = min(passed_s)  # the first ones warm it up
    why = "A command has its own options" if settings.command else "Batches were not tried with this kind"
    return Tried(answer_s, True, False, f"A request is answered in {1000 * answer_s:.3g} ms. {why}:")


def configurations(tried: Tried, settings: ServeSettings, device: str) -> dict[str, dict[str, Any]]:
    """Four that are worth comparing, the one to ship with what was given; of a command, the one."""
    base = settings.model_dump(mode="json", exclude_defaults=True)
    if (folder := os.path.relpath(base.pop("folder"))) != os.curdir:
        base["folder"] = folder
    if settings.command:
        return {"server": base}
    given = {key: base.pop(key) for key in knobs_of("api") if key in base}
    cores = max(2, int(available_cores()))
    workers = {"workers_per_device": min(MOST_WORKERS, cores)}
    if device == "cpu":
        workers["threads_per_worker"] = cores // workers["workers_per_device"]
    direct = {"transport": "direct", "batch_timeout_s": 0.0} if tried.direct else {}
    if not tried.single:
        others = {"batched": BATCHES, "larger_batches": LARGER_BATCHES, "workers": BATCHES | workers}
        shipped = LARGER_BATCHES | workers | direct
    elif tried.batched:
        others, shipped = {"single": {}, "batched": BATCHES, "workers": workers}, BATCHES | workers | direct
    elif direct:
        others, shipped = {"single": {}, "direct": direct, "workers": workers}, workers | direct
    else:
        others = {"single": {}, "one_thread": {"threads_per_worker": 1}, "workers": workers}
        shipped = workers | {"workers_per_device": 2 * workers["workers_per_device"]}
    explicit = {key: ServeSettings.model_fields[key].default for key in knobs_of("api")}  # -S sets no others
    shipped = base | explicit | shipped | given
    found = {**{name: base | one for name, one in others.items()}, CANDIDATE: shipped}
    return {name: deepcopy(one) for name, one in found.items()}  # YAML would mark what they share


@dataclass(frozen=True)
class Budget:
    """How long is measured, where an answer takes ``answer_s`` and so many users wait for theirs."""

    answer_s: float
    users: int

    @property
    def level_s(self) -> float:
        """Of a level at most: 130 answers to one user, within bounds."""
        return round(min(max(1.5, 130 * self.answer_s), 20.0), 1)

    @property
    def comparison_s(self) -> float:
        """Of a comparison: until one worker of each of four has answered each user ten times, or more."""
        return max(80.0, 10.0 * math.ceil(4 * self.users * self.answer_s))

    def run_s(self, number: int) -> float:
        """Of a first run with so many configurations, roughly."""
        return self.comparison_s + number * (10 + 4 * self.level_s)


def source_of(settings: ServeSettings) -> set[Path]:
    """The file of a LitAPI's module, if it lies below the current folder."""
    module = str(settings.api).partition(":")[0]
    place = Path(os.path.relpath(str(settings.folder)), *module.split("."))
    found = [path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()]
    return {path for path in found if settings.api and path.parts[0] != os.pardir}


def dependencies_of(read: Collection[Path], bodies: Path) -> list[str]:
    """Files, or a folder of which many are read; without the bodies, which dvc.yaml names by itself."""
    data = [path.parent for path in read if path.suffix != ".py" and path.parent != Path()]
    crowded = {folder for folder, number in Counter(data).items() if number > MANY}
    found = {path.parent if path.parent in crowded and path.suffix != ".py" else path for path in read}
    return sorted(str(path) for path in found if bodies not in (path, *path.parents))


def params_text(
    found: Mapping[str, Mapping[str, Any]], bodies: Path, content_type: str | None, budget: Budget
) -> str:
    """Content of params.yaml."""
    text = template("params.yaml")
    experiments = {name: one for name, one in found.items() if name != CANDIDATE}
    about = "; an absent key has LitServe's default."
    if CANDIDATE not in found:
        text = without(text, "$serve")
        about = f". Another one:\n#   other:\n#     command: {experiments['server']['command']} --option"
    load: dict[str, Any] = {"bodies": str(bodies), "users": sorted({1, budget.users})}
    if content_type:
        load["content_type"] = content_type
    return Template(text).substitute(
        serve=block({"serve": found.get(CANDIDATE)}),
        experiments=block({"experiments": experiments}),
        about=about,
        load=block({"load": load}),
        level_s=budget.level_s,
        timeout_s=max(10.0, math.ceil(4 * budget.users * budget.answer_s)),
        reference=next(iter(experiments)),
        users=budget.users,
        comparison_s=budget.comparison_s,
        slo_ms=50.0 * max(1, math.ceil(200 * budget.answer_s)),  # ten times as long, in steps
        shipped=list(found)[-1],
    )


def dvc_text(dependencies: Sequence[str], *, candidate: bool) -> str:
    """Content of dvc.yaml, whose stages depend on these files."""
    text = template("dvc.yaml")
    if not candidate:
        text = without(text, "benchmark candidate").replace("      - serve\n", "")
    lines = textwrap.indent(block(list(dependencies)), 8 * " ") + "\n" if dependencies else ""
    return text.replace("        - FILES\n", lines)


def template(name: str) -> str:
    """A file that this package has."""
    return files(__package__).joinpath(f"templates/{name}").read_text(encoding="utf-8")


def without(text: str, part: str) -> str:
    """The text without the paragraph that has this part."""
    return "\n\n".join(paragraph for paragraph in text.split("\n\n") if part not in paragraph)


def block(content: Any) -> str:
    """YAML with a key or an item to a line, as `dvc exp run -S` leaves it."""
    return str(yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=math.inf)).rstrip()


def git_ignore() -> str:
    """Content of .gitignore: one's own lines, and those that are missing."""
    own = GIT_IGNORE.read_text(encoding="utf-8").splitlines() if GIT_IGNORE.exists() else []
    return "".join(f"{line}\n" for line in [*own, *(line for line in IGNORED if line not in own)])


def write_bodies(bodies: Bodies, suffix: str) -> None:
    """Write a file for each, with the ending of its content type; ``suffix`` where there is none."""
    ending = mimetypes.guess_extension(bodies.content_type) or suffix
    with atomic_folder(BODIES) as folder:
        for number, content in enumerate(bodies.contents):
            (folder / f"{number:04}{ending}").write_bytes(content)


def next_commands() -> Iterator[str]:
    """What to type for a first run."""
    here, activate = Path.cwd(), Path(sys.prefix) / "bin/activate"
    above = [here, *here.parents]
    if shutil.which("litmeter") is None and activate.exists():
        yield f". {activate}"
    if find_spec("dvc") is None:
        yield "pip install 'litmeter[dvc]'"
    if not any((folder / ".dvc").is_dir() for folder in above):
        repository = next((folder for folder in above if (folder / ".git").exists()), None)
        if repository is None:
            yield "git init"
        yield "dvc init" if repository in (None, here) else "dvc init --subdir"
    yield "dvc repro"
