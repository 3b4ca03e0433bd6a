"""A Python script that starts a server, as it is: litmeter moves its port, and reads its settings.

A module that Python imports at its start (``injected/sitecustomize.py``) does both, so the script needs
nothing of litmeter, and may run with another Python than litmeter does.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, PrivateAttr, model_validator

from litmeter.errors import LitmeterError, ServerError, UsageError
from litmeter.kinds.command import STOP_S, CommandServer, checked_program, command_variables, listening_ports
from litmeter.kinds.configuration import Checked, Exclusion, Given, Host, Lever, Preflight, RanAs, Tried
from litmeter.kinds.lit_api import LitApi, without_faulty
from litmeter.kinds.preflight import DIFFER, check_apis
from litmeter.kinds.server import (
    DOUBT_S,
    HEALTH,
    LONGEST_FOLDER,
    PREDICT,
    TOO_LONG,
    Server,
    Start,
    looks,
    started,
)
from litmeter.kinds.workers import BatchConfiguration
from litmeter.load.bodies import Bodies
from litmeter.say.progress import print_wrapped
from litmeter.say.tables import pluralise
from litmeter.settings import Seconds, StrictCount, unknown_key
from litmeter.system.processes import process_group
from litmeter.system.temporary import lasting_log, scratch

INJECTED = Path(__file__).parent / "injected"
TASK_VARIABLE = "LITMETER_SCRIPT"
OLDEST = (0, 2, 6)
"""The first LitServe whose settings are known."""
WITHOUT_FAST_QUEUE = (0, 2, 8), (0, 2, 19)
"""The first and the last LitServe whose ``fast_queue`` does nothing."""
PYTHON = re.compile(r"python[\d.]*")
LAUNCHERS = ("uv", "poetry", "pdm", "hatch", "pipenv")
"""Programs that run a script in an environment of its own choice."""
NOT_MOVED = (
    "litmeter's start-up module did not run (python -I, -E or -S, or no Python): "
    "give a command with {port}, where its port stands"
)
TAKEN = re.compile(r"address already in use|Errno 98|Errno 48", re.IGNORECASE)
KEYS = {
    "accelerator": "accelerator",
    "devices": "devices",
    "workers_per_device": "workers_per_device",
    "timeout_s": "timeout",
    "fast_queue": "fast_queue",
    "num_api_servers": "num_api_servers",
    "max_batch_size": "max_batch_size",
    "batch_timeout_s": "batch_timeout",
}
"""LitServe's names of the keys that a script's settings are changed by; the last two are an API's."""
API_KEYS = ("max_batch_size", "batch_timeout_s")


@dataclass(frozen=True)
class Ran:
    """What a script starts.

    Attributes:
        python, prefix, version: the interpreter, its environment, and its version as 3.12.
        port: that the script asked for.
        litserve: settings of its LitServer by LitServe's names, see ``injected``; None for another server.
    """

    python: str
    prefix: str
    version: str
    port: Any
    litserve: Mapping[str, Any] | None

    @property
    def paths(self) -> list[str]:
        """The paths of its APIs; empty if they are not known."""
        return [] if self.litserve is None else [api["path"] for api in self.litserve["apis"]]

    @property
    def text(self) -> str:
        """All settings in words."""
        python = f"Python {self.version} ({self.python})"
        if (own := self.litserve) is None:
            return f"{python}, port {self.port} moved"
        places = f"{own['devices']} {own['accelerator']}"
        counts = list(dict.fromkeys(api["workers_per_device"] for api in own["apis"]))
        workers = f"{' or '.join(pluralise(count, 'worker') for count in counts)} on each of {places}"
        servers = own["num_api_servers"]
        ignored = WITHOUT_FAST_QUEUE[0] <= release(own["version"]) <= WITHOUT_FAST_QUEUE[1]
        fast_queue = "fast_queue" + " (which does nothing in this LitServe)" * ignored
        parts = [
            f"{python}, LitServe {own['version']}, port {self.port} moved",
            *map(_api_text, own["apis"]),
            workers,
            pluralise(servers, "API server") if servers else "",
            f"timeout {own['timeout']} s",
            fast_queue if own["fast_queue"] else "",
        ]
        return "; ".join(filter(None, parts))


def _api_text(api: Mapping[str, Any]) -> str:
    parts = [
        f"{api['class']} at {api['path']}: max_batch_size {api['max_batch_size']}",
        f"batch_timeout {api['batch_timeout']:g} s" if api["batch_timeout"] else "",
        "stream" if api["stream"] else "",
        api["spec"] or "",
        "async" if api["async"] else "",
        api["own_loop"],
    ]
    return ", ".join(filter(None, parts))


class ScriptedApi(LitApi):
    """The LitAPI that a script serves, which is run without its server."""

    script: list[str] = Field(description="file and arguments")
    variables: dict[str, str] = Field(description="environment variables of what is injected")

    pipeline_keys: ClassVar[frozenset[str]] = LitApi.pipeline_keys | {"script", "variables"}

    def environment(self) -> dict[str, str]:
        """With what is injected."""
        return super().environment() | self.variables

    def lit_server(self, device: str) -> Any:
        """The script's."""
        from litmeter.direct.pipeline import reached

        return reached(self.script)


class Script(BatchConfiguration):
    """A script that starts a server of LitServe, or another one of uvicorn."""

    kind = key = "script"

    script: str = Field(description="starts a server: FILE.py, or a command that runs one with its arguments")
    path: str | None = Field(
        None, description="path that requests are sent to; absent: the only one that it serves", pattern="^/"
    )
    ready: str | None = Field(
        None,
        description="path that answers 200 once it is ready; absent: /health, if it has one",
        pattern="^/",
    )
    folder: str | None = Field(None, description="where it is started; absent: the project's")
    max_batch_size: StrictCount | None = Field(None, description="as of serve:; absent: the script's")
    batch_timeout_s: Seconds | None = Field(None, description="as of serve:; absent: the script's")
    workers_per_device: StrictCount | None = Field(None, description="as of serve:; absent: the script's")
    num_api_servers: StrictCount | None = Field(None, description="processes of HTTP; absent: the script's")
    accelerator: Literal["auto", "cpu", "cuda", "mps"] | None = Field(
        None, description="absent: the script's"
    )
    devices: StrictCount | None = Field(None, description="absent: the script's")
    timeout_s: Seconds | None = Field(None, description="of a request; absent: the script's")
    fast_queue: bool | None = Field(None, description="absent: the script's")
    check_answers: bool = Field(True, description="answers must not depend on batch or worker in a search")
    apis: Mapping[str, Mapping[str, Any]] = Field(
        {}, description="max_batch_size and batch_timeout_s of one API of several, by its path"
    )

    _ran_keys: dict[str, Any] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _check_apis(self) -> Script:
        for path, keys in self.apis.items():
            for key in keys:
                if key not in API_KEYS:
                    raise ValueError(f"apis.{path}: {unknown_key(key, API_KEYS)}")
        return self

    def __hash__(self) -> int:
        return hash(self.model_dump_json())

    @classmethod
    def recognised(cls, given: Given) -> dict[str, Any] | None:
        """FILE.py, then keys: max_batch_size=8, /embed:max_batch_size=8; or a command that runs Python."""
        common = {"path": given.path, "ready": given.ready, "folder": str(Path.cwd())}
        if given.first.endswith(".ipynb"):
            raise UsageError(
                f"{given.name}: {given.first} is a notebook; write the server into a script (FILE.py)"
            )
        if given.first.endswith(".py"):
            return {"script": given.first, **common, **_values(given)}
        program = Path(given.first).name
        runs_python = PYTHON.fullmatch(program) or (program in LAUNCHERS and given.words[:1] == ["run"])
        if "{port}" in given.text or not runs_python:
            return None
        return {"script": given.text, **common}

    @property
    def spec(self) -> str:
        """The script, and the keys that change what it passes."""
        return " ".join([self.script, *(f"{key}={value}" for key, value in self.changed().items())])

    def describe(self, device: str) -> str:
        """The script and what is changed of it."""
        changed = ", ".join(f"{key} {value}" for key, value in self.changed().items())
        return f"{self.script}, changed: {changed}" if changed else self.script

    def changed(self) -> dict[str, Any]:
        """The keys that change what the script passes, as a command line has them."""
        own = {key: getattr(self, key) for key in KEYS if getattr(self, key) is not None}
        return own | {
            f"{path}:{key}": value for path, keys in self.apis.items() for key, value in keys.items()
        }

    def _value(self, lever: Lever, default: Any) -> Any:
        """As it runs, where that is known; else ``default`` is assumed."""
        return super()._value(lever, None) or self._ran_keys.get(self.levers.get(lever, ""), default)

    def as_ran(self, keys: Mapping[str, Any]) -> Script:
        """With the values that the script passes."""
        copy = self.model_copy()
        copy._ran_keys = dict(keys)
        return copy

    @classmethod
    def checked(cls, own: Mapping[str, Any], how: Preflight) -> dict[str, Checked]:
        """Start each as far as its settings, which are noted; then try its LitAPI as LitAPIs are tried.

        What the try finds does not keep a script from being served.
        """
        found = {name: one._checked(name, how.device) for name, one in own.items()}
        can_run = [name for name, one in found.items() if not (one.fault or one.unavailable)]
        apis = {name: own[name].in_process for name in can_run}
        for name, one in check_apis(apis, how).items():
            notes, fault = [*found[name].notes, *one.notes], one.fault.removeprefix(f"{name}: ")
            if fault:
                notes.append(f"{name} is measured as it is, although {fault}")
            unavailable = "" if DIFFER in fault else fault or one.unavailable
            ran = found[name].ran
            found[name] = replace(one, fault="", unavailable=unavailable, notes=tuple(notes), ran=ran)
        return found

    def _checked(self, name: str, device: str) -> Checked:
        try:
            self.served_path(ran := self.ran())
        except LitmeterError as error:
            return Checked(fault=f"{name}: {error}")
        ran_as = RanAs(text=ran.text, keys=self.running_keys() if ran.litserve else {})
        unavailable = self.no_pipeline_on(device)
        return Checked(unavailable=unavailable, notes=(f"{name}: {ran.text}",), ran=ran_as)

    def no_pipeline_on(self, device: str) -> str:
        """Why this script's LitAPI cannot be run in-process on ``device``; empty if it can."""
        ran, words = self.ran(), self.words()
        if ran.litserve is None:
            return "it starts no LitServer"
        if len(apis := ran.litserve["apis"]) > 1:
            return "a server of several APIs is not run in-process"
        names = {"async": "enable_async", "own_loop": "its own loop"}
        if unusual := [text for key, text in names.items() if apis[0][key]]:
            return f"a LitAPI with {', '.join(unusual)} is not run in-process"
        if ran.prefix != sys.prefix:
            return f"it runs in another environment than litmeter's, with {ran.python}"
        if (ran.litserve["accelerator"], ran.litserve["devices"]) != (device, 1):
            return f"it runs on {ran.litserve['devices']} {ran.litserve['accelerator']}"
        return "" if any(word.endswith(".py") for word in words) else "its command names no file"

    @property
    def in_process(self) -> ScriptedApi:
        """Its LitAPI, with the settings that run."""
        [api] = (self.ran().litserve or {})["apis"]
        words = self.words()
        file = next(number for number, word in enumerate(words) if word.endswith(".py"))
        variables = self.variables(os.devnull, "raise")
        module, api_class = (re.sub(r"\W", "_", text) for text in (Path(words[file]).stem, api["class"]))
        return ScriptedApi(
            api=f"{module}:{api_class}",
            folder=self.folder,
            path=api["path"],
            script=words[file:],
            variables={name: variables[name] for name in ("PYTHONPATH", TASK_VARIABLE)},
            check_answers=self.check_answers,
            ready_s=self.ready_s,
            **self.running_keys(),
        )

    def running_keys(self) -> dict[str, Any]:
        """The values of the keys that matter for batches and workers, as they run."""
        if (own := (ran := self.ran()).litserve) is None:
            raise ServerError(f"{self.script} starts no LitServer: it has no settings to search")
        path = self.served_path(ran)
        [api] = (one for one in own["apis"] if one["path"] == path)
        return {
            "workers_per_device": api["workers_per_device"],
            "max_batch_size": api["max_batch_size"],
            "batch_timeout_s": api["batch_timeout"],
        }

    def with_knobs(self) -> Script:
        """The values that the script passes, where no key changes them."""
        return self.model_copy(
            update={key: value for key, value in self.running_keys().items() if getattr(self, key) is None}
        )

    def tried(self, configurations: Sequence[Any], machine: Host, how: Preflight) -> Host:
        """Exclude batch sizes with which its LitAPI fails or answers otherwise, where it runs in-process."""
        if self.no_pipeline_on(machine.device):
            return machine
        sizes = sorted({one.max_batch_size for one in configurations})
        print_wrapped(f"0. answers at max_batch_size {', '.join(map(str, sizes))} are checked")
        to_check, refused = {}, []
        for size in sizes:
            name, own = f"max_batch_size {size}", {"max_batch_size": size}
            one = self.model_copy(update={**own, "workers_per_device": 1, "batch_timeout_s": 0.0})
            try:
                to_check[name] = one.in_process
            except ServerError as error:
                refused.append(Exclusion(own, f"{name}: {error}", is_fault=True))
        host = without_faulty(to_check, machine, how)
        return replace(host, exclusions=[*host.exclusions, *refused])

    def ran(self) -> Ran:
        """What the script starts, found once by running it up to there; raise ServerError."""
        return _ran(self)

    @property
    def _unchanged(self) -> Script:
        """The script without changed settings, which decide neither its port nor its paths."""
        return self.model_copy(update={**dict.fromkeys(KEYS), "apis": {}})

    def served_path(self, ran: Ran) -> str:
        """Where requests are sent; raise ServerError where that is not known."""
        if self.path is not None:
            if ran.paths and self.path not in ran.paths:
                raise ServerError(f"--path {self.path}: not served; there are {', '.join(ran.paths)}")
            return self.path
        if len(ran.paths) > 1:
            raise ServerError(f"it serves several paths: give --path {' or '.join(ran.paths)}")
        return ran.paths[0] if ran.paths else PREDICT

    @contextmanager
    def starting(self, how: Start) -> Iterator[Server]:
        """Run the script with its port moved; its log has all that it prints."""
        path = self.served_path(ran := _SEEN.get(self._unchanged) or self.ran())
        with scratch() as folder:
            variables = self.variables(noted := folder / "noted")
            if ran.litserve and len(os.fsencode(folder)) <= LONGEST_FOLDER:
                variables["TMPDIR"] = str(folder)  # where SIGTERM leaves the sockets of its processes
            with started(
                self.words(),
                how,
                path,
                variables,
                folder=self.place,
                follow=self.script,
                stop_s=0.0 if ran.litserve else STOP_S,  # LitServe ends by itself at Ctrl-C alone
                server=ScriptServer,
                health=self.ready or HEALTH,
                names_health=self.ready is not None,
                noted=noted,
                port=ran.port,
            ) as server:
                yield server

    def check_there(self) -> None:
        """The script, and the program that runs it."""
        self.words()

    def words(self) -> list[str]:
        """The words of the command; raise ServerError where there is no such script or program."""
        words, place = shlex.split(self.script), self.place or Path()
        files = [word for word in words if word.endswith(".py")]
        if files and not (place / files[0]).is_file():
            raise ServerError(f"there is no file {files[0]!r} in {place.absolute()}")
        python = python_for(place / (files or ["."])[0], place)
        if words[0].endswith(".py"):
            words = [python, *words]
        elif words[0] in ("python", "python3"):
            words[0] = python
        return checked_program(words, place)

    def variables(
        self, noted: Path | str, then: Literal["serve", "end", "raise"] = "serve"
    ) -> dict[str, str]:
        """Environment variables with which Python imports what is injected, and what it is to do."""
        server = {name: value for key, name in KEYS.items() if (value := getattr(self, key)) is not None}
        keys = {"": server} | {
            path: {KEYS[key]: value for key, value in own.items()} for path, own in self.apis.items()
        }
        task = {"noted": str(noted), "keys": {path: own for path, own in keys.items() if own}}
        task |= {"then": then}
        return command_variables(self.environment(), INJECTED) | {TASK_VARIABLE: json.dumps(task)}

    def init_try(self, bodies: Bodies, device: str) -> Tried:
        """Compare a script of LitServe with another number of workers."""
        tried = super().init_try(bodies, device)
        if self.ran().litserve is None:
            return tried
        workers = 1 if self.running_keys()["workers_per_device"] != 1 else 2
        other = {**tried.configurations["server"], "workers_per_device": workers}
        return replace(tried, configurations={**tried.configurations, f"workers_{workers}": other})

    def init_files(self) -> list[Path]:
        """The script."""
        place = Path(os.path.relpath(self.folder or os.curdir))
        return [place / word for word in shlex.split(self.script) if word.endswith(".py")]


@dataclass
class ScriptServer(CommandServer):
    """A server whose script was told its port by what is injected.

    Attributes:
        noted: what the injected module has noted.
        port: that the script asks for.
    """

    noted: Path = field(kw_only=True)
    port: Any = field(kw_only=True)

    def is_ready(self, ask: Callable[[], int] = lambda: 200) -> bool:
        """Whether it is ready; raise ServerError where a script starts servers at two ports."""
        ready = super().is_ready(ask)
        ports = sorted({int(note["port"]) for note in notes(self.noted) if note["what"] == "uvicorn"})
        if len(ports) > 1:
            raise ServerError(
                f"it starts servers at ports {' and '.join(map(str, ports))}, and litmeter moves only one: "
                "give a command with {port}"
            )
        return ready

    def counted(self) -> tuple[int, Mapping[int, str]] | None:
        """Of LitServe's processes, by what is injected; None of another server."""
        roles = {note["pid"]: note["role"] for note in notes(self.noted) if note["what"] == "process"}
        if "worker" not in roles.values():
            return None
        batches = Path(f"{self.noted}.batches")
        return batches.stat().st_size if batches.exists() else 0, roles

    @property
    def answered(self) -> str:
        """The last answers; the log names the port that the script asked for."""
        moved = any(note["what"] == "uvicorn" for note in notes(self.noted))
        if moved:
            return f"{super().answered} (port {self.port} of the script was moved there)"
        return f"{super().answered}: {NOT_MOVED}" if not notes(self.noted) else super().answered

    def exit_hint(self, status: int) -> str:
        """A setting may be refused, or another port of the script's be taken."""
        if refused := [note["reason"] for note in notes(self.noted) if note["what"] == "refused"]:
            return f"; {refused[-1]}"
        with suppress(OSError):
            if TAKEN.search(self.log.read_text(errors="replace")):
                return (
                    "; another port that it opens is taken, such as one for metrics: both sides run at once"
                )
        return super().exit_hint(status)


def notes(file: Path) -> list[dict[str, Any]]:
    """What the injected module has noted so far."""
    try:
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        return []


_SEEN: dict[Script, Ran] = {}
"""What a script starts with one of its settings, by the script without changed ones."""


@cache
def _ran(script: Script) -> Ran:
    with scratch() as folder:
        noted, log = folder / "noted", folder / "log"
        with (
            log.open("wb") as output,
            process_group(
                script.words(),
                cwd=script.place,
                env=script.variables(noted, "end"),
                stdout=output,
                stderr=subprocess.STDOUT,
                follow=script.script,
                stop_s=0.0,
            ) as process,
        ):
            status = _ended(script, process, noted, log)
        found = notes(noted)
        last = {note["what"]: note for note in found}
        if "python" not in last:
            raise ServerError(f"{script.script}: {NOT_MOVED}{_last_line(script, log)}")
        if "refused" in last:
            raise ServerError(last["refused"]["reason"])
        if (server := last.get("litserve") or last.get("uvicorn")) is None:
            raise ServerError(
                f"{script.script} ended (exit status {status}) before it started a server of LitServe or "
                f"uvicorn, with {last['python']['executable']}{_last_line(script, log)}"
            )
    own = [note for note in found if note["what"] == "python" and note["pid"] == server["pid"]]
    python = (own or found)[0]  # a process that was forked has no note of its own
    ran = Ran(python["executable"], python["prefix"], python["version"], server["port"], last.get("litserve"))
    if ran.litserve is None:
        if changed := script.changed():
            raise ServerError(
                f"{min(changed)}: {script.script} starts no LitServer, of which it is a setting"
            )
    elif release(ran.litserve["version"]) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise ServerError(f"LitServe {ran.litserve['version']} is too old; allowed: {oldest} or newer")
    _SEEN.setdefault(script._unchanged, ran)
    return ran


def _ended(script: Script, process: subprocess.Popen[bytes], noted: Path, log: Path) -> int:
    """The exit status of a script that ends where its server would start; raise ServerError if it goes on."""
    said = False
    look = looks(process.pid, log, script.ready_s)
    while (status := process.poll()) is None:
        waited_s, silent_s = next(look)
        if ports := listening_ports(process.pid):
            place = f"{script.script} listens on port {min(ports)}"
            if not notes(noted):
                raise ServerError(f"{place}: {NOT_MOVED}")
            if silent_s > DOUBT_S:
                raise ServerError(f"{place}, not by LitServe or uvicorn: give a command with {{port}}")
        if silent_s > script.ready_s:
            too_long = TOO_LONG.format(silent_s)
            raise ServerError(f"{script.script} started no server{too_long}{_last_line(script, log)}")
        if waited_s > DOUBT_S and not said:
            print_wrapped(f"waiting for {script.script} to start its server")
            said = True
    return status


def _last_line(script: Script, log: Path) -> str:
    """The log's last line, and where the whole log is."""
    text = log.read_text(encoding="utf-8", errors="replace")
    if not (lines := text.strip().splitlines()):
        return ""
    (lasting := lasting_log(script.script)).write_text(text, encoding="utf-8")
    return f": {lines[-1].strip()}; its log: {lasting}"


def release(version: str) -> tuple[int, ...]:
    """The numbers of a version, as 0.2.19."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def python_for(script: Path, place: Path) -> str:
    """The Python of a script that names none: of the .venv beside it or in ``place``, else the active one."""
    active = (os.environ.get(name) for name in ("VIRTUAL_ENV", "CONDA_PREFIX"))
    folders = [script.parent / ".venv", place / ".venv", *(Path(one) for one in active if one)]
    found = (folder / "bin/python" for folder in folders)
    return next((str(one.absolute()) for one in found if one.exists()), sys.executable)


def _values(given: Given) -> dict[str, Any]:
    """Keys that are changed; raise UsageError for any other word."""
    found: dict[str, Any] = {}
    for key, value in given.values("script", f"; its own arguments: 'python {given.text}'"):
        path, _, own = key.rpartition(":")
        allowed = API_KEYS if path else (*KEYS, "check_answers")
        if own not in allowed:
            raise UsageError(f"{given.name}.{key}: {unknown_key(own, allowed)}")
        if path:
            found.setdefault("apis", {}).setdefault(path, {})[own] = value
        else:
            found[own] = value
    return found
