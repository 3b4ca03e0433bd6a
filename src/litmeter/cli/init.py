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
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

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
from litmeter.system.progress import print_wrapped

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
        read = opened()
    found = configurations(tried, settings, device)
    module = Path(os.path.relpath(str(settings.folder)), *str(settings.api).partition(":")[0].split("."))
    if settings.api and module.with_suffix(".py").is_file():  # where the system does not say what is opened
        read.add(module.with_suffix(".py"))
    dependencies = dependencies_of(read, own or BODIES)
    texts = {
        PARAMS_FILE: params_text(found, own or BODIES, sent, tried.answer_s),
        DVC_FILE: dvc_text(dependencies, candidate=CANDIDATE in found),
        GIT_IGNORE: git_ignore(),
    }
    with all_or_nothing():
        for path, text in texts.items():
            write_text(path, text)
        if not own:
            write_bodies(bodies, sent.body[0].suffix)
    written = ", ".join(map(str, [*texts, *([] if own else [BODIES])]))
    print_wrapped(f"written: {written}\nfound: {tried.said}; so these are compared:")
    for name, one in found.items():
        print_wrapped(f"  {name}: {describe(ServeSettings.model_validate(one), device)}")
    seen = ", ".join(dependencies) or "none was seen"
    print_wrapped(f"files that the results depend on: {seen}; name others below deps in {DVC_FILE}")
    print("next:", *next_commands(), sep="\n  ")


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


class Tried(NamedTuple):
    """What a try has shown: seconds that an answer takes, what was found, and what is worth comparing."""

    answer_s: float
    said: str
    single: bool = True
    batches: bool = False
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
    one_rps, batch_rps = (None if found.fault else found.rate_rps for found in (one, batch))
    direct, reason = transport == "direct", (one.fault or batch.fault).partition("; its log: ")[0]
    if one_rps and batch_rps:
        said = f"in batches of {size} a worker answers {batch_rps / one_rps:.2f} times as much as one by one"
        return Tried(1 / one_rps, said, batches=batch_rps >= GAIN * one_rps, direct=direct)
    if one_rps:
        return Tried(1 / one_rps, f"no batches ({reason})", direct=direct)
    if batch_rps:
        return Tried(size / batch_rps, f"batches alone ({reason})", single=False, batches=True, direct=direct)
    return try_server(settings, bodies, device)  # it cannot be run without a server


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
    return Tried(min(passed_s), f"a request is answered in {1000 * min(passed_s):.3g} ms")


def configurations(tried: Tried, settings: ServeSettings, device: str) -> dict[str, dict[str, Any]]:
    """Those worth comparing, the one to ship last, with what was given; of a command, the one."""
    base = settings.model_dump(mode="json", exclude_defaults=True)
    if (folder := os.path.relpath(base.pop("folder"))) != os.curdir:
        base["folder"] = folder
    if settings.command:
        return {"server": base}
    given = {key: base.pop(key) for key in knobs_of("api") if key in base}
    cores = max(2, int(available_cores()))
    number = min(MOST_WORKERS, cores)
    threads = {"threads_per_worker": cores // number} if device == "cpu" else {}
    workers: dict[str, Any] = {"workers_per_device": number, **threads}
    direct = {"transport": "direct", "batch_timeout_s": 0.0} if tried.direct else {}
    least = {} if tried.single else BATCHES
    found: dict[str, dict[str, Any]] = {"single": {}} if tried.single else {}
    found |= {"batched": BATCHES} if tried.batches else {}
    found |= {"direct": least | direct} if direct and len(found) == 1 else {}
    found["workers"] = least | workers
    more = direct or ({"workers_per_device": 2 * number} if len(found) == 2 else {})
    explicit = {key: ServeSettings.model_fields[key].default for key in knobs_of("api")}  # -S sets no others
    found[CANDIDATE] = explicit | (BATCHES if tried.batches else {}) | workers | more | given
    return {name: deepcopy(base) | one for name, one in found.items()}  # YAML would mark what they share


def dependencies_of(read: Collection[Path], bodies: Path) -> list[str]:
    """Files, or a folder of which many are read; without the bodies, which dvc.yaml names by itself."""
    data = [path.parent for path in read if path.suffix != ".py" and path.parent != Path()]
    crowded = {folder for folder, number in Counter(data).items() if number > MANY}
    found = {path.parent if path.parent in crowded and path.suffix != ".py" else path for path in read}
    return sorted(str(path) for path in found if bodies not in (path, *path.parents))


def params_text(found: Mapping[str, Mapping[str, Any]], bodies: Path, sent: Sent, answer_s: float) -> str:
    """Content of params.yaml, with time enough for answers that take so long."""
    text = template("params.yaml")
    experiments = {name: one for name, one in found.items() if name != CANDIDATE}
    about = "; an absent key has LitServe's default."
    if CANDIDATE not in found:
        text = without(text, "$serve")
        about = f". Another one:\n#   other:\n#     command: {experiments['server']['command']} --option"
    users = sent.users or USERS
    load: dict[str, Any] = {"bodies": str(bodies), "users": sorted({1, users})}
    if sent.content_type:
        load["content_type"] = sent.content_type
    return Template(text).substitute(
        serve=block({"serve": found.get(CANDIDATE)}),
        experiments=block({"experiments": experiments}),
        about=about,
        load=block({"load": load}),
        level_s=round(min(max(1.5, 130 * answer_s), 20.0), 1),
        timeout_s=max(10.0, math.ceil(4 * users * answer_s)),
        reference=next(iter(experiments)),
        users=users,
        comparison_s=max(
            80.0, math.ceil(40 * users * answer_s)
        ),  # ten answers to each user from each of four
        slo_ms=50.0 * max(1, math.ceil(200 * answer_s)),  # ten times as long, in steps
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
    if shutil.which("litmeter") is None and activate.exists():
        yield f". {activate}"
    if find_spec("dvc") is None:
        yield "pip install 'litmeter[dvc]'"
    repository, project = (
        next((folder for folder in (here, *here.parents) if (folder / name).exists()), None)
        for name in (".git", ".dvc")
    )
    if project is None and repository is None:
        yield "git init"
    if project is None:
        yield "dvc init" if repository in (None, here) else "dvc init --subdir"
    yield "dvc repro"
