"""The user's own servers on the command line: each command writes a project for them, and removes it."""

from __future__ import annotations

import mimetypes
import os
import re
import shlex
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from itertools import chain, count
from pathlib import Path
from textwrap import shorten
from typing import Annotated, Any

import yaml
from cyclopts import Parameter
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from litmeter.cli.chat import CHAT_PATH, chat_bodies
from litmeter.cli.form import FormField, form_bodies
from litmeter.cli.openapi import DOCUMENT, example_body
from litmeter.cli.options import LOAD, OBJECTIVE, check_together, given_of
from litmeter.errors import LoadError, ServerError, UsageError
from litmeter.kinds.configuration import TRY_S, Configuration, Given, Host
from litmeter.kinds.registry import KINDS, kind_of
from litmeter.kinds.server import PREDICT, Start
from litmeter.load.bodies import Bodies, from_environment, read_bodies, request_headers
from litmeter.params import Params, params_here
from litmeter.paths import MACHINE
from litmeter.say.progress import print_wrapped
from litmeter.settings import CANDIDATE, PARAMS_FILE, Count, Positive, Timeout, checked, explain
from litmeter.system.cores import whole_cores
from litmeter.system.device import resolve_device
from litmeter.system.files import atomic_folder, check_outputs, write_json
from litmeter.system.gpu import cuda_available
from litmeter.system.machine import exclusive_machine, fingerprint
from litmeter.system.temporary import scratch

NAMED = re.compile(r"(?:([a-z][a-z0-9_]*)=)?(.*)", re.DOTALL)
NO_BODY = "--body: missing; a file with a request's body, JSON lines, or a folder of files"
OTHER_BODIES = ("--body", "--form", "--images", "--template", "--content-type")
ENCODED_RULES = [
    (one, "not", [other]) for one in ("--chat", "--form") for other in OTHER_BODIES if other != one
]
USERS = 8
"""Default number of requests in flight at once."""
AbsolutePath = Annotated[Path, AfterValidator(Path.absolute)]
"""A path that is relative to the folder in which the command is given, also once a project is entered."""


@Parameter(name="*")
class Asked(BaseModel):
    """Where servers that are started take requests, and what these hold."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    body: list[Path] = []
    """a file with a request's body, JSON lines (.jsonl), or a folder of files; repeatable"""
    form: list[FormField] = []
    """NAME=@FILE or NAME=VALUE: a field of a form that is sent instead, as with curl; repeatable"""
    chat: list[AbsolutePath] = []
    """a file of prompts, a line each, which are sent as requests of OpenAI's chat API; repeatable"""
    content_type: str | None = None
    """of all bodies (default: by the files' names)"""
    header: list[str] = []
    """'NAME: VALUE', a request header, with ${VARIABLE} of the environment in VALUE; repeatable"""
    path: str | None = None
    """where requests are sent (default: a script's only path; a spec's path; that of --chat; /predict)"""
    ready: str | None = None
    """where a command answers 200 once it is ready (default: /health, or the first body if it has none)"""
    ready_s: Positive | None = None
    """how long a start may be silent, without CPU time or a line in its log (default: 60)"""


@Parameter(name="*")
class Sent(Asked):
    """What the user's own servers are sent, and where."""

    users: Count | None = None
    """requests in flight at once (default: 8)"""
    timeout_s: Timeout | None = None
    """seconds until a request that is not answered has failed (default: 30)"""

    @property
    def sends(self) -> bool:
        """Whether it is said what is sent."""
        return bool(self.body or self.form or self.chat)


@Parameter(name="*")
class Own(Sent):
    """What the user's own servers are sent, and the page that is written."""

    report: AbsolutePath | None = None
    """an HTML file for a page with all results"""


SENT, OWN = Sent(), Own()


def is_own(server: str) -> bool:
    """Whether an argument says what to serve; else it is the name of a configuration."""
    return re.search(r"[=:\s{]|\.(py|ipynb)$", server) is not None


def check_only_own(own: Own, **others: object) -> None:
    """Raise UsageError for a given option of ``own`` or ``others``, as no server is the user's own."""
    given = [*sorted(own.model_fields_set), *(name for name, value in others.items() if value)]
    if given:
        raise UsageError(f"--{given[0].replace('_', '-')}: only with servers of your own")


def settings_of(servers: Sequence[str], own: Asked) -> dict[str, dict[str, Any]]:
    """The settings of each server, by its name; raise UsageError for two of a name, or an unreadable SPEC.

    Args:
        servers: NAME=SPEC, or SPEC alone, see ``name_of``. A SPEC is what a kind recognises.
    """
    found: dict[str, dict[str, Any]] = {}
    pairs = [NAMED.fullmatch(server).groups() for server in servers]  # type: ignore[union-attr]
    for name, spec in pairs:
        name = name or name_of(spec, [other for _, other in pairs], {*found, *(given for given, _ in pairs)})
        if name in found:
            raise UsageError(f"two servers are named {name}")
        try:
            first, *words = shlex.split(spec)
        except ValueError as error:
            raise UsageError(f"{name}: expected module:Class or a command, got {spec!r} ({error})") from error
        path = own.path or (CHAT_PATH if own.chat else PREDICT)
        given = Given(name, spec, first, words, own.path, own.ready, path)
        found[name] = next(keys for kind in KINDS if (keys := kind.recognised(given)) is not None)
        found[name] |= {"ready_s": own.ready_s} if own.ready_s else {}
    return found


def name_of(spec: str, specs: Sequence[str], taken: Collection[str]) -> str:
    """A server's name: its file or program; if that is ``taken``, how it differs from other ``specs``."""
    words = spec.split() or [""]
    file = next((word for word in words if word.endswith(".py")), words[0])
    differs = [word for word in words if any(word not in other.split() for other in specs)]
    choices = [Path(file).stem if file.endswith(".py") else file, " ".join(differs) or file]
    slugs = [re.sub(r"[^a-z0-9]+", "_", choice.lower()).strip("_")[:30].strip("_") for choice in choices]
    slugs = [slug if slug[:1].isalpha() and slug != CANDIDATE else f"server_{slug}" for slug in slugs]
    numbered = (f"{slugs[0]}_{number}" for number in count(2))
    return next(slug for slug in chain(slugs, numbered) if slug not in taken)


def own_server(server: str, keys: Sequence[str], sent: Asked, allowed: str) -> Configuration:
    """The one server of a command line, with ``keys`` as key=value, as it runs on this machine.

    Raise UsageError where it is none of those ``allowed``, ParamsError for a wrong key or value.
    """
    if not is_own(server):
        raise UsageError(f"expected {allowed}, got {server!r}")
    spec = " ".join([server, *map(shlex.quote, keys)])
    try:
        [given] = settings_of([f"server={spec}"], sent).values()
    except UsageError as error:  # the user did not type the name "server"
        raise UsageError(str(error).removeprefix("server").lstrip(".: ")) from None
    return configuration_here(given, "")


def configuration_here(keys: Mapping[str, Any], before: str) -> Configuration:
    """The configuration of ``keys`` as it runs on this machine; raise ParamsError for a wrong key or value.

    ``before`` is said before its key. Of a kind with a precision this is not enough.
    """
    settings: Configuration = checked(kind_of(keys), keys, before)
    return settings.resolved(Host(device_here(), whole_cores()), lambda: False)


def device_here(wanted: str = "auto") -> str:
    """``cpu`` or ``cuda`` of this machine; raise ParamsError without the CUDA that is ``wanted``."""
    return resolve_device(wanted, cuda_available())


@contextmanager
def project(content: Mapping[str, Any], own: Own) -> Iterator[Params]:
    """Write a project with the sections ``content``, and enter its folder until the block is left.

    Raise UsageError where a value is not allowed, there is nothing to send, or --report cannot be written.
    """
    check_outputs(report=own.report)
    before = Path.cwd()
    with scratch() as folder:
        load = LOAD.model_dump(mode="json") | {"content_type": own.content_type}
        load["headers"] = request_headers(own.header)
        load["timeout_s"] = own.timeout_s or LOAD.timeout_s
        load["bodies"] = "bodies" if own.sends else "made-up"
        if len(own.body) == 1:
            load["bodies"] = str(own.body[0].absolute())
        objective = OBJECTIVE.model_dump(mode="json") | {"configurations": list(content["experiments"])}
        sections = {"load": load, "objective": objective, **content}
        try:
            params, _ = params_here(Params.model_validate(sections))
        except ValidationError as error:
            raise UsageError(explain(error, Params).removeprefix("experiments.")) from None
        for one in params.experiments.values():
            one.check_there()  # before the wait for the machine
        bodies = bodies_for(next(iter(params.experiments.values())), own)
        if len(own.body) != 1:
            load["content_type"] = bodies.content_type
            write_bodies(bodies, folder / load["bodies"])
            params, _ = params_here(Params.model_validate(sections))
        (folder / PARAMS_FILE).write_text(yaml.safe_dump(sections, sort_keys=False), encoding="utf-8")
        os.chdir(folder)  # paths of a project are relative to the current folder
        try:
            write_json(MACHINE, fingerprint())
            yield params
        finally:
            os.chdir(before)


def read_given(sent: Asked) -> Bodies:
    """The bodies of all --body, of --form or of --chat; raise UsageError for a file that cannot be read."""
    headers = from_environment(request_headers(sent.header))
    check_together(given_of(sent), ENCODED_RULES)
    if sent.chat:
        return chat_bodies(sent.chat)._replace(headers=headers)
    if sent.form:
        return form_bodies(sent.form)._replace(headers=headers)
    try:
        read = [read_bodies(path, sent.content_type) for path in sent.body]
    except LoadError as error:
        raise UsageError(f"--body {error}") from error
    types = {one.content_type for one in read}
    if len(types) > 1:
        raise UsageError(f"--body: files of several content types ({', '.join(sorted(types))}); name one")
    return Bodies([content for one in read for content in one.contents], types.pop(), headers)


def bodies_for(server: Configuration, sent: Sent) -> Bodies:
    """The bodies that are given, else an example by the OpenAPI document of ``server``.

    For the document the server is started and ended. Raise UsageError where there are no bodies.
    """
    if sent.sends:
        return read_given(sent)
    how = Start(device_here(), TRY_S)
    with redirect_stdout(sys.stderr):
        try:
            with exclusive_machine(), server.starting(how) as running:
                running.ready(server.ready_s)
                bodies = example_body(running.target)
        except (LoadError, ServerError) as error:
            first, *log = str(error).splitlines()
            reason = " ".join([first, *(line.strip() for line in log[-1:])])
            raise UsageError(f"{NO_BODY}; none is made up for {server.spec}: {reason}") from error
        shown = shorten(bodies.contents[0].decode(), 200, placeholder=" ...")
        print_wrapped(f"--body: missing; sent is {shown}, made up by {DOCUMENT}: your own bodies tell more")
    return bodies


def write_bodies(bodies: Bodies, folder: Path) -> None:
    """Write each body into a file of a new folder; the names keep the order and tell the content type."""
    ending = mimetypes.guess_extension(bodies.content_type) or ""
    with atomic_folder(folder) as temporary:
        for number, content in enumerate(bodies.contents):
            (temporary / f"{number:06}{ending}").write_bytes(content)
