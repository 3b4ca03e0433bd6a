"""Machines of a Ray cluster: a sender on each, or work on one after the other.

``ray start`` has made the cluster; this machine belongs to it, and all have litmeter. Ray brings data to its
nodes and back, and notices when one has died.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import psutil

from litmeter.errors import LitmeterError, LoadError, UsageError
from litmeter.load.generator import LoadPlan, OnProgress, load_generator
from litmeter.load.senders import POLL_S, Member, SenderGroup, clock_difference
from litmeter.say.tables import pluralise
from litmeter.stats.records import LoadRecord
from litmeter.system.http import CA_VARIABLE
from litmeter.system.temporary import scratch

REACH_S = 5
RAY_SETTINGS = {
    "RAY_gcs_server_request_timeout_seconds": str(REACH_S),
    "RAY_NUM_REDIS_GET_RETRIES": "1",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # what nodes say is not printed
}
"""Environment variables that Ray reads when it is imported."""

Given = TypeVar("Given")
Result = TypeVar("Result")
Show = Callable[[str], None]
"""Called with a line about a node."""


@contextmanager
def connected(address: str) -> Iterator[dict[str, Any]]:
    """Join the cluster at ``address`` until the block is left.

    Yields:
        for each live node its name, and Ray's options for what runs there.

    Raises:
        UsageError: the address is none, or there is no token, or a wrong one.
        LoadError: the cluster cannot be reached.
    """
    option = f"--cluster {address}"
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if not host or not port.isdecimal() or not 1024 <= int(port) <= 65535:
        raise UsageError(f"--cluster: expected HOST:PORT, the port from 1024 to 65535, got {address!r}")
    no_token = UsageError(
        f"{option}: a cluster on other machines must ask for a token: "
        "set RAY_AUTH_MODE=token on each before `ray start`, and here"
    )
    try:
        own = _is_own(host)
        if not own and os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
            raise no_token
        socket.create_connection((host, int(port)), REACH_S).close()
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise LoadError(f"{option}: cannot be reached ({reason})") from error
    os.environ.update(RAY_SETTINGS)
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    handler = signal.getsignal(signal.SIGTERM)  # Ray sets its own
    try:
        with _silent():
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ray.exceptions.RayError) as error:
        if isinstance(error, ray.exceptions.AuthenticationError) or "AuthToken" in str(error.__cause__):
            raise UsageError(
                f"{option}: it asks for another token than is here (RAY_AUTH_MODE=token, RAY_AUTH_TOKEN)"
            ) from error
        unknown = "there is no Ray cluster that this machine belongs to"
        reason = unknown if isinstance(error, ConnectionError) else " ".join(str(error).split())
        raise LoadError(f"{option}: {reason}") from error
    finally:
        signal.signal(signal.SIGTERM, handler)
    try:
        nodes = {}
        for number, node in enumerate([one for one in ray.nodes() if one["Alive"]], 1):
            here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            name = node["NodeManagerAddress"]
            name = f"{name} ({number})" if name in nodes else name
            nodes[name] = {"num_cpus": 0, "scheduling_strategy": here}
        if not own:  # a cluster that asks for no token takes any
            modes = [ray.remote(**one)(os.getenv).remote("RAY_AUTH_MODE", "") for one in nodes.values()]
            if {_result(mode).lower() for mode in modes} != {"token"}:
                raise no_token
        yield nodes
    finally:
        ray.shutdown()


@contextmanager
def _silent() -> Iterator[None]:
    """Drop what Ray's C++ code writes to standard error, which no setting of Ray's can prevent."""
    before = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)


def _is_own(host: str) -> bool:
    """Whether ``host`` is this machine; raise OSError where nobody knows it."""
    found = {ipaddress.ip_address(info[4][0]) for info in socket.getaddrinfo(host, None)}
    interfaces = {one.address for addresses in psutil.net_if_addrs().values() for one in addresses}
    return all(one.is_loopback or str(one) in interfaces for one in found)


def as_started() -> dict[str, str]:
    """Give this process, which Ray has started, the priority of `ray start` here, where it may.

    Returns:
        its environment, without what Ray changes: how many threads to use, and which GPUs.
    """
    raylet = psutil.Process().parent()
    assert raylet is not None
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, raylet.nice())
    changed, before = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"), raylet.environ()
    environment = {name: value for name, value in os.environ.items() if name not in changed}
    return environment | {name: before[name] for name in changed if name in before}


class _Sender:
    """A load generator on its node: an actor, of which a call may run a load, and another one stop it."""

    def __init__(
        self, bodies: Sequence[bytes], content_type: str, headers: Mapping[str, str], ca: bytes | None
    ) -> None:
        as_started()
        self._stack = ExitStack()
        if ca is not None:
            file = self._stack.enter_context(scratch()) / "ca.pem"
            file.write_bytes(ca)
            os.environ[CA_VARIABLE] = str(file)
        self._generator = self._stack.enter_context(load_generator(bodies, content_type, headers))
        self._generator.wait_until_ready()
        self._stopped: float | None = None

    def clock(self) -> float:
        return time.perf_counter()

    def run(self, url: str, plan: LoadPlan) -> LoadRecord:
        def check(seconds: float) -> None:
            if self._stopped == plan.begin_at:
                raise LoadError("stopped")

        try:
            return self._generator.run(url, plan, on_progress=check)
        except LoadError:
            self._generator.wait_until_ready()  # for the next load
            raise

    def stop(self, begin_at: float) -> None:
        """End the load that begins then."""
        self._stopped = begin_at

    def close(self) -> None:
        self._stack.close()


@dataclass(frozen=True)
class _NodeSender:
    """A ``_Sender`` as this machine sees it. All methods raise LoadError where it has died."""

    actor: Any

    def call(self, method: str, *given: Any) -> Any:
        return _result(getattr(self.actor, method).remote(*given))

    def wait_until_ready(self) -> None:
        """Wait until it has answered."""
        self.call("clock")

    def close(self) -> None:
        """End it, and wait until it has."""
        self.call("close")

    def run(self, url: str, plan: LoadPlan, *, on_progress: OnProgress) -> LoadRecord:
        """Run one load there; see ``LoadGenerator.run``."""
        import ray

        running = self.actor.run.remote(url, plan)
        try:
            while not ray.wait([running], timeout=POLL_S)[0]:
                on_progress(0.0)
        except BaseException:
            with suppress(LoadError):  # it has died, and so has the load
                self.call("stop", plan.begin_at)
                _result(running)
            raise
        record: LoadRecord = _result(running)
        return record


def _result(reference: Any) -> Any:
    """What a call on a node has returned; raise LoadError where it has not."""
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if not isinstance(error.cause, LitmeterError | OSError):
            raise
        raise LoadError(str(error.cause)) from error
    except ray.exceptions.RayError as error:
        did_not_start = getattr(error, "actor_init_failed", False)
        reason = str(error).splitlines()[-1] if did_not_start else "it or its machine has died"
        raise LoadError(reason) from error


@dataclass(frozen=True)
class _SurvivingGroup(SenderGroup):
    """Senders of which the others run a load again when one has died."""

    show: Show

    def run(self, url: str, plan: LoadPlan, *, on_progress: OnProgress = lambda seconds: None) -> LoadRecord:
        """Run one load, by those that live; see ``SenderGroup.run``."""
        try:
            return super().run(url, plan, on_progress=on_progress)
        except LoadError as error:
            alive = [member for member in self.members if _lives(member)]
            if not 0 < len(alive) < len(self.members):
                raise
            self.members[:] = alive
            self.show(f"{error}, and repeated by {pluralise(len(alive), 'sender')}")
        return self.run(url, plan, on_progress=on_progress)


def _lives(member: Member) -> bool:
    with suppress(LoadError):
        member.sender.wait_until_ready()
        return True
    return False


@contextmanager
def cluster_senders(
    address: str,
    bodies: Sequence[bytes],
    content_type: str,
    headers: Mapping[str, str],
    show: Show,
    *,
    go_on: bool = True,
    ca: bytes | None = None,
) -> Iterator[SenderGroup]:
    """Start a load generator on each node of the cluster at ``address``; end them when the block is left.

    Args:
        show: called with a line for each, with its clock's difference, and for each that has died.
        go_on: whether the others then go on; else the load raises LoadError.
        ca: CA certificates to trust with HTTPS (PEM).

    Raises:
        UsageError, LoadError: see ``connected``; a load generator did not start.
    """
    with connected(address) as nodes, ExitStack() as stack:
        import ray

        given = (ray.put(list(bodies)), content_type, headers, ca)
        actors = {
            name: ray.remote(**options, max_concurrency=2)(_Sender).remote(*given)
            for name, options in nodes.items()
        }
        senders = {name: _NodeSender(actor) for name, actor in actors.items()}
        stack.callback(_close_all, list(senders.values()))
        members = []
        for name, sender in senders.items():
            try:
                sender.wait_until_ready()
                difference_s, error_s = clock_difference(lambda: float(sender.call("clock")))  # noqa: B023
            except LoadError as error:
                raise LoadError(f"sender {name}: {error}") from error
            members.append(Member(name, sender, difference_s))
            show(f"sender {name}: clock {1000 * difference_s:+.3f} ms, known to {1000 * error_s:.3f} ms")
        group = _SurvivingGroup(members, show) if go_on else SenderGroup(members)
        yield group


def _close_all(senders: Sequence[_NodeSender]) -> None:
    for sender in senders:
        with suppress(LoadError):
            sender.close()


def on_each_node(
    address: str, work: Callable[[Given], Result], given: Given, show: Show
) -> Iterator[tuple[str, Result]]:
    """Run ``work``, a function of a module, on each node of the cluster at ``address`` in turn.

    Yields:
        the node's name and the result; nothing for a node where it failed, which is shown.

    Raises:
        UsageError, LoadError: see ``connected``.
    """
    with connected(address) as nodes:
        import ray

        brought = ray.put(given)
        for name, options in nodes.items():
            show(f"machine {name} begins")
            try:
                result = _result(ray.remote(**options, max_retries=0)(work).remote(brought))
            except LoadError as error:
                show(f"machine {name} has no result: {error}")
                continue
            yield name, result
