"""Moves the server that a Python script starts to litmeter's port, and notes the server's settings.

Python imports this module at its start, as the module's folder comes first on PYTHONPATH. It runs with the
Python of the measured server: it needs nothing but the standard library, and works from Python 3.8 on.
``kinds.script`` says what is to be done, as JSON in the variable LITMETER_SCRIPT:

    noted: a file that gets a line of JSON for this Python, and for each server before it starts; and for each
        process of LitServe's, whose batches are counted by a second file.
    keys: settings to change, by the path of an API; "" stands for the server, or for its only API.
    then: "serve"; or, once the first server has been noted, "end" the process or "raise" Reached.
"""
# ruff: noqa: B905 -- zip of Python 3.8 has no strict
# mypy: allow-untyped-defs, allow-untyped-calls, disable-error-code="method-assign,union-attr,var-annotated"

import json
import os
import sys
from functools import partial, wraps
from importlib.machinery import PathFinder

SERVER_KEYS = ("accelerator", "devices", "workers_per_device", "timeout", "fast_queue")
API_KEYS = ("max_batch_size", "batch_timeout")
SEEN = "_seen_by_litmeter"
ROLES = {"on_after_setup": "worker", "on_request": "http"}
"""Roles of LitServe's processes, by the events of callbacks that tell them."""


def import_hidden():
    """Import the sitecustomize that this one hides, such as Debian's."""
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [place for place in sys.path if os.path.abspath(place) != here]
    hidden = PathFinder.find_spec("sitecustomize", sys.path)
    if hidden is not None and hidden.loader is not None:
        from importlib.util import module_from_spec

        hidden.loader.exec_module(module_from_spec(hidden))


def note(what, **content):
    """Add a line to the file of notes; one write, as several processes may add theirs."""
    line = json.dumps({"what": what, **content}, default=str) + "\n"
    file = os.open(TASK["noted"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)


class Reached(BaseException):
    """A script has come to ``server.run``."""

    def __init__(self, server):
        super().__init__()
        self.server = server


def end(status=0):
    """End the process, whatever the script has planned for its end."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def refuse(reason):
    """Note why a setting cannot be changed, and end the process."""
    note("refused", reason=reason)
    end(1)


def patch(owner, name, before):
    """Let ``before`` see, and change, the arguments of a method by name, defaults included, ahead of it.

    ``before`` also gets the method's parameters.
    """
    from inspect import signature

    method = getattr(owner, name)
    own = signature(method)

    @wraps(method)
    def patched(*arguments, **options):
        bound = own.bind(*arguments, **options)
        bound.apply_defaults()
        before(bound.arguments, own.parameters)
        return method(*bound.args, **bound.kwargs)

    setattr(owner, name, patched)


def patch_uvicorn(module):
    """Let every server of uvicorn listen on litmeter's port of this machine."""

    def move(given, _):
        note("uvicorn", port=given["port"], pid=os.getpid())
        if TASK["then"] == "end":
            end()
        given.update(host="127.0.0.1", port=int(os.environ["LITMETER_PORT"]))

    patch(module.Config, "__init__", move)


def patch_litserve(module):
    """Note the settings of every LitServer, after they were changed as the task says."""
    patch(module.LitServer, "__init__", partial(change_settings, module.LitAPI))
    patch(module.LitServer, "run", note_settings)


def change_settings(api_class, given, parameters):
    """Change the arguments of LitServer, and its APIs; keep what ``note_settings`` needs of them."""
    apis = given["lit_api"]
    apis = [apis] if isinstance(apis, api_class) else list(apis)
    given["lit_api"] = apis[0] if len(apis) == 1 else apis
    before = [settings_of_api(api, given) for api in apis]
    unknown = set(TASK["keys"]) - {""} - {one["path"] for one in before}
    if unknown:
        refuse(f"no API at {min(unknown)}; there are {', '.join(one['path'] for one in before)}")
    for path, keys in TASK["keys"].items():
        for key, value in keys.items():
            if key in SERVER_KEYS:
                change_argument(given, parameters, key, value)
            elif key in API_KEYS:
                if not path and len(apis) > 1:
                    places = " or ".join(f"{one['path']}:{key}={value}" for one in before)
                    refuse(f"{key}: the server has several APIs; give {places}")
                for api, one in zip(apis, before):
                    if path in ("", one["path"]):
                        change_api(given, parameters, api, key, value)
    loop = given.get("loop") or "auto"  # it prevails; later, all are replaced
    loops = [loop if loop != "auto" else getattr(api, "_loop", "auto") for api in apis]
    vars(given["self"])[SEEN] = (apis, given, loops)


def note_settings(run, parameters):
    """Note the settings of a LitServer, of which the last are the arguments of ``run``."""
    from importlib.metadata import version

    server = run["self"]
    apis, given, loops = vars(server).pop(SEEN)
    if "generate_client_file" in parameters:
        run["generate_client_file"] = False
    if "num_api_servers" in TASK["keys"].get("", {}):
        change_argument(run, parameters, "num_api_servers", TASK["keys"][""]["num_api_servers"])
    connector = getattr(server, "_connector", None)
    devices = getattr(server, "devices", given["devices"])
    note(
        "litserve",
        pid=os.getpid(),
        port=run["port"],
        version=version("litserve"),
        apis=[
            {
                **settings_of_api(api, given),
                "own_loop": loop_text(loop),
                "workers_per_device": workers_of(number, api, given["workers_per_device"]),
            }
            for number, (api, loop) in enumerate(zip(apis, loops))
        ],
        accelerator=getattr(connector, "accelerator", given["accelerator"]),
        devices=len(devices) if isinstance(devices, (list, tuple)) else devices,
        num_api_servers=run.get("num_api_servers"),
        **{key: given.get(key) for key in ("timeout", "fast_queue")},
    )
    if TASK["then"] == "end":
        end()
    if TASK["then"] == "raise":
        raise Reached(server)


def patch_callbacks(module):
    """Note the roles of LitServe's processes, and add a byte to a file for each batch."""
    trigger, seen = module.CallbackRunner.trigger_event, set()
    batches = []  # the open file

    @wraps(trigger)
    def counted(self, event_name, *arguments, **options):
        event = getattr(event_name, "value", event_name)  # early LitServe passes some as they are
        if event == "on_before_predict":
            if not batches:
                batches.append(open(TASK["noted"] + ".batches", "ab", 0))  # noqa: SIM115
            batches[0].write(b".")
        role = ROLES.get(event)
        if role is not None and (os.getpid(), role) not in seen:
            seen.add((os.getpid(), role))
            note("process", pid=os.getpid(), role=role)
        return trigger(self, event_name, *arguments, **options)

    module.CallbackRunner.trigger_event = counted


def settings_of_api(api, given):
    """The settings of an API; old versions of LitServe have them as arguments of the server."""

    def value(name, default):
        own = getattr(api, name, None)
        return given.get(name, default) if own is None else own

    spec = value("spec", None)
    return {
        "class": type(api).__qualname__,
        "path": getattr(spec, "api_path", None) or value("api_path", "/predict"),
        "max_batch_size": value("max_batch_size", 1),
        "batch_timeout": value("batch_timeout", 0.0),
        "stream": bool(value("stream", False)),
        "spec": type(spec).__name__ if spec is not None else None,
        "async": bool(value("enable_async", False)),
    }


def workers_of(number, api, given):
    """The workers of an API on each device; of several APIs a list or a dict has them, one API each."""
    if isinstance(given, (list, tuple)):
        return given[number]
    return given if isinstance(given, int) else given.get(api.api_path, 1)


def loop_text(loop):
    """The name of an API's own loop, and why it cannot run, if that is known; empty for LitServe's choice."""
    if loop == "auto":
        return ""
    from inspect import signature

    name = type(loop).__name__
    for base in type(loop).__mro__:
        if base.__name__ == "ContinuousBatchingLoop":
            try:
                signature(loop.add_request).bind(*signature(base(1).add_request).parameters)
            except TypeError:
                return f"{name}, which this LitServe cannot run: its add_request takes too few arguments"
    return name


def change_argument(given, parameters, key, value):
    """Change an argument of LitServer, or of its method ``run``."""
    if key not in parameters:
        refuse(f"{key}: this LitServe has no such setting")
    given[key] = value


def change_api(given, parameters, api, key, value):
    """Change a setting of an API, where this LitServe keeps it."""
    if getattr(api, key, None) is None:
        change_argument(given, parameters, key, value)
        return
    if given.get(key):  # the argument would prevail
        given[key] = parameters[key].default
    try:
        setattr(api, key, value)
    except (AttributeError, ValueError) as error:
        refuse(f"{key}: {type(api).__qualname__} does not take {value!r} ({error})")
    if getattr(api, key) != value:
        refuse(f"{key}: {type(api).__qualname__} computes it itself")


class Finder:
    """Finds modules as all other finders do, and patches some once they were imported."""

    def find_spec(self, name, path=None, target=None):
        """See importlib.abc.MetaPathFinder."""
        if name not in PATCHES:
            return None
        found = (one.find_spec(name, path, target) for one in sys.meta_path if one is not self)
        spec = next(filter(None, found), None)
        if spec is not None:
            spec.loader.exec_module = partial(execute, spec.loader.exec_module, PATCHES[name])
        return spec


def execute(exec_module, patch_module, module):
    """Execute a module, then patch it."""
    exec_module(module)
    patch_module(module)


PATCHES = {"uvicorn.config": patch_uvicorn, "litserve.server": patch_litserve}
TASK = json.loads(os.environ.get("LITMETER_SCRIPT", "null"))
if TASK is not None:
    if TASK["then"] == "serve":
        PATCHES["litserve.callbacks.base"] = patch_callbacks
    sys.meta_path.insert(0, Finder())
    note(
        "python",
        executable=sys.executable,
        prefix=sys.prefix,
        version=".".join(map(str, sys.version_info[:2])),
        pid=os.getpid(),
    )
import_hidden()
