"""``litmeter init``: a DVC project for the user's own server, by what a short try of it shows."""

from __future__ import annotations

import math
import mimetypes
import os
import re
import shlex
import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from string import Template
from typing import Any

import yaml

from litmeter.cli.opened import opened_below
from litmeter.cli.own import SENT, USERS, Sent, bodies_for, device_here, own_server, write_bodies
from litmeter.errors import UsageError
from litmeter.kinds.registry import read as read_keys
from litmeter.load.bodies import JSON_LINES, REFERENCE, request_headers
from litmeter.paths import DVC_FILE
from litmeter.say.progress import print_wrapped
from litmeter.settings import CANDIDATE, PARAMS_FILE
from litmeter.system.files import all_or_nothing, write_text
from litmeter.system.machine import exclusive_machine

GIT_IGNORE, BODIES = Path(".gitignore"), Path("bodies")
PLOTS_PAGE = Path("plots.html")
"""The page that `dvc plots show` fills in; it has the scripts that DVC's own page loads from the network."""
IGNORED = (".venv", "__pycache__/", "*.tmp", "/samples", "/report.html", "dvc_plots/")


def init(server: str, /, *keys: str, sent: Sent = SENT) -> None:
    """Write a DVC project for a server of your own into the current folder.

    A short try of the server finds what to compare, and which files results depend on. Nothing is
    overwritten.

    Args:
        server: a script, FILE.py; a LitAPI, module:Class or FILE.py:Class; or a command, with {port} if it
            runs no script
        keys: of a script or a LitAPI: settings, as key=value
    """
    settings = own_server(server, keys, sent, "FILE.py, module:Class or a command with {port}")
    if not settings.is_started:
        raise UsageError(
            f"{settings.spec}: a project is for a server that is started; compare takes this one"
        )
    place = Path(os.path.relpath(sent.body[0])) if len(sent.body) == 1 else Path()
    usable = place.is_dir() or place.suffix == JSON_LINES
    copied = not usable or place.parts[:1] in ((), (os.pardir,))
    place = BODIES if copied else place
    for path in (PARAMS_FILE, DVC_FILE, PLOTS_PAGE, *([BODIES] if copied else [])):
        if os.path.lexists(path):
            raise UsageError(f"{path}: is there already, and nothing is overwritten")
    bodies = bodies_for(settings, sent)
    if mimetypes.guess_extension(bodies.content_type) is None:  # names of files cannot tell it
        sent = sent.model_copy(update={"content_type": bodies.content_type})
    device = device_here()
    print_wrapped(f"{settings.spec} is tried for some seconds")
    code, here = (settings.place or Path()).resolve(), Path.cwd()
    elsewhere = code not in (here, *here.parents) and here not in code.parents
    watched = [Path(), *([Path(os.path.relpath(code))] if elsewhere else [])]
    with exclusive_machine(), opened_below(*watched) as opened:
        tried = settings.init_try(bodies, device)
        read = opened()
    files_read = {*read.files, *(file for file in settings.init_files() if file.is_file())}
    dependencies = sorted(str(path) for path in files_read if not path.is_relative_to(place))
    found = tried.configurations
    with all_or_nothing():
        write_text(PARAMS_FILE, params_text(found, place, sent, tried.answer_s, tried.another))
        write_text(DVC_FILE, dvc_text(dependencies, candidate=CANDIDATE in found))
        write_text(PLOTS_PAGE, template(PLOTS_PAGE.name))
        write_text(GIT_IGNORE, git_ignore())
        if copied:
            write_bodies(bodies, BODIES)
    print_wrapped(
        f"written: {PARAMS_FILE}, {DVC_FILE}, {PLOTS_PAGE}, {GIT_IGNORE}{f', {BODIES}' if copied else ''}"
    )
    print_wrapped(f"found: {tried.said}; compared are")
    for name, keys_of_one in found.items():
        print_wrapped(f"  {name}: {read_keys(keys_of_one).describe(device)}")
    seen = ", ".join(dependencies) or "none was seen"
    print_wrapped(f"files that the results depend on: {seen}; name others below deps in {DVC_FILE}")
    if read.missed:
        print_wrapped(
            f"deps in {DVC_FILE} may be incomplete: {read.missed}; add what your server reads there"
        )
    print("next:", *next_commands(), sep="\n  ")


def params_text(
    found: Mapping[str, Mapping[str, Any]], bodies: Path, sent: Sent, answer_s: float, another: str = ""
) -> str:
    """Content of params.yaml, with time limits for answers that take ``answer_s``."""
    experiments = {name: one for name, one in found.items() if name != CANDIDATE}
    reference, *_ = experiments
    text, other = template("params.yaml"), ""
    if CANDIDATE not in found:
        text = template("params.yaml", "$serve")
        other = f"\n  # other:\n  #   {another}" if another else ""
    users = sent.users or USERS
    load: dict[str, Any] = {"bodies": str(bodies), "users": sorted({1, users})}
    if sent.content_type:
        load["content_type"] = sent.content_type
    if sent.header:
        load["headers"] = headers = request_headers(sent.header)
        for name in (name for name, value in headers.items() if not REFERENCE.search(value)):
            headers[name] = f"${{HEADER_{re.sub('[^A-Z0-9]', '_', name.upper())}}}"  # git keeps the file
        print_wrapped(f"set in the environment of a run: {', '.join(REFERENCE.findall(str(headers)))}")
    return Template(text).substitute(
        serve=block({"serve": found.get(CANDIDATE)}),
        experiments=block({"experiments": experiments}) + other,
        load=block({"load": load}),
        timeout_s=sent.timeout_s or max(10.0, math.ceil(4 * users * answer_s)),
        reference=reference,
        users=users,
        comparison_s=max(80.0, math.ceil(40 * users * answer_s)),  # ten answers of each of four to each user
        slo_ms=max(50.0, math.ceil(10_000 * answer_s)),
        shipped=CANDIDATE if CANDIDATE in found else reference,
    )


def dvc_text(dependencies: Sequence[str], *, candidate: bool) -> str:
    """Content of dvc.yaml, whose stages depend on the files ``dependencies``."""
    text = template("dvc.yaml")
    if not candidate:
        text = template("dvc.yaml", "benchmark candidate").replace("      - serve\n", "")
    lines = textwrap.indent(block(list(dependencies)), 8 * " ") + "\n" if dependencies else ""
    return text.replace("        - FILES\n", lines)


def template(name: str, without: str = "\0") -> str:
    """A file of this package, less the paragraph that holds the text ``without``."""
    paragraphs = files(__package__).joinpath(f"templates/{name}").read_text(encoding="utf-8").split("\n\n")
    return "\n\n".join(paragraph for paragraph in paragraphs if without not in paragraph)


def block(content: Any) -> str:
    """YAML in the layout that `dvc exp run -S` keeps: each key and item on its own line."""
    return str(yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=math.inf)).rstrip()


def git_ignore() -> str:
    """Content of .gitignore: the lines that it has, and those of IGNORED that it lacks."""
    lines = GIT_IGNORE.read_text(encoding="utf-8").splitlines() if GIT_IGNORE.exists() else []
    return "".join(f"{line}\n" for line in [*lines, *(line for line in IGNORED if line not in lines)])


def next_commands() -> Iterator[str]:
    """The commands of a first run."""
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
