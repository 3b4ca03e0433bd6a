"""Load generators on all machines of a Ray cluster.

`ray start` has made the cluster; this machine belongs to it, and all of them have litmeter. Ray carries
bodies to the nodes and records back, and notices when a node dies.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import signal
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import psutil

from litmeter.errors import LitmeterError, LoadError, UsageError
from litmeter.load.generator import LoadPlan, OnProgress, load_generator
from litmeter.load.senders import POLL_S, Member, SenderGroup, clock_difference
from litmeter.say.progress import print_wrapped
from litmeter.say.tables import pluralise
from litmeter.stats.records import LoadRecord
from litmeter.system.http import CA_VARIABLE
from litmeter.system.temporary import scratch

CONNECT_S = 5
RAY_SETTINGS = {
    "RAY_gcs_server_request_timeout_seconds": str(CONNECT_S),
    "RAY_NUM_REDIS_GET_RETRIES": "1",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # output of the nodes is not printed here
}
"""Environment variables that Ray reads when it is imported."""


@contextmanager
def connected(address: str) -> Iterator[dict[str, Any]]:
    """Join the cluster at ``address`` until the block is left.

    Yields:
        Ray's options for an actor on each live node, by the node's name.

    Raises:
        UsageError: the address is not HOST:PORT, or the token is missing or wrong.
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
        here = _is_this_machine(host)
        if not here and os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
            raise no_token
        socket.create_connection((host, int(port)), CONNECT_S).close()
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise LoadError(f"{option}: cannot be reached ({reason})") from error
    os.environ.update(RAY_SETTINGS)
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    handler = signal.getsignal(signal.SIGTERM)
    try:
        with _silenced_stderr():
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
        signal.signal(signal.SIGTERM, handler)  # Ray has set its own handler
    try:
        nodes = {}
        for number, node in enumerate([node for node in ray.nodes() if node["Alive"]], 1):
            name = node["NodeManagerAddress"]
            name = f"{name} ({number})" if name in nodes else name
            on_node = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            nodes[name] = {"num_cpus": 0, "scheduling_strategy": on_node}
        if not here:  # a cluster that asks for no token accepts any
            modes = [ray.remote(**on)(os.getenv).remote("RAY_AUTH_MODE", "") for on in nodes.values()]
            if {_result(mode).lower() for mode in modes} != {"token"}:
                raise no_token
        yield nodes
    finally:
        ray.shutdown()


@contextmanager
def _silenced_stderr() -> Iterator[None]:
    """Discard standard error: none of Ray's settings silences its C++ code."""
    before = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)


def _is_this_machine(host: str) -> bool:
    """Whether ``host`` is this machine; raise OSError for an unknown name."""
    addresses = {ipaddress.ip_address(info[4][0]) for info in socket.getaddrinfo(host, None)}
    ours = {interface.address for found in psutil.net_if_addrs().values() for interface in found}
    return all(address.is_loopback or str(address) in ours for address in addresses)


class _Actor:
    """A load generator on its node. Ray runs two calls at once: ``run``, and ``stop`` which ends it."""

    def __init__(
        self, bodies: Sequence[bytes], content_type: str, headers: Mapping[str, str], ca: bytes | None
    ) -> None:
        _take_priority_of_ray()
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
        def end_if_stopped(seconds: float) -> None:
            if self._stopped == plan.begin_at:
                raise LoadError("stopped")

        try:
            return self._generator.run(url, plan, on_progress=end_if_stopped)
        except LoadError:
            self._generator.wait_until_ready()  # for the next load
            raise

    def stop(self, begin_at: float) -> None:
        """End the load that begins at ``begin_at``."""
        self._stopped = begin_at

    def close(self) -> None:
        self._stack.close()


def _take_priority_of_ray() -> None:
    """Give this process, which Ray has started with a lower priority, that of `ray start`, if it may."""
    raylet = psutil.Process().parent()
    assert raylet is not None
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, raylet.nice())


@dataclass(frozen=True)
class _NodeSender:
    """An ``_Actor`` as this machine calls it. Each method raises LoadError once the actor has died."""

    actor: Any

    def call(self, method: str, *given: Any) -> Any:
        return _result(getattr(self.actor, method).remote(*given))

    def wait_until_ready(self) -> None:
        """Wait until the actor answers."""
        self.call("clock")

    def run(self, url: str, plan: LoadPlan, *, on_progress: OnProgress) -> LoadRecord:
        """Run one load on the node; see ``LoadGenerator.run``."""
        import ray

        running = self.actor.run.remote(url, plan)
        try:
            while not ray.wait([running], timeout=POLL_S)[0]:
                on_progress(0.0)
        except BaseException:
            with suppress(LoadError):  # a dead actor sends nothing any more
                self.call("stop", plan.begin_at)
                _result(running)
            raise
        record: LoadRecord = _result(running)
        return record


def _result(reference: Any) -> Any:
    """The result of a call on a node; raise LoadError where the call failed or the node died."""
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


class _SurvivingGroup(SenderGroup):
    """Senders that repeat a load without those that died during it."""

    def run(self, url: str, plan: LoadPlan, *, on_progress: OnProgress = lambda seconds: None) -> LoadRecord:
        """Run one load by the living senders; see ``SenderGroup.run``."""
        try:
            return super().run(url, plan, on_progress=on_progress)
        except LoadError as error:
            alive = [member for member in self.members if _lives(member)]
            if not 0 < len(alive) < len(self.members):
                raise
            self.members[:] = alive
            print_wrapped(f"{error}, and repeated by {pluralise(len(alive), 'sender')}")
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
    *,
    go_on: bool = True,
    ca: bytes | None = None,
) -> Iterator[SenderGroup]:
    """Start a load generator on each node of the cluster at ``address``; end them when the block is left.

    How far the clock of each node is off is printed, and which sender has died.

    Args:
        go_on: the living senders repeat a load in which a sender died; else it raises LoadError.
        ca: CA certificates to trust with HTTPS (PEM).

    Raises:
        UsageError, LoadError: see ``connected``; or a load generator did not start.
    """
    with connected(address) as nodes, ExitStack() as stack:
        import ray

        given = (ray.put(list(bodies)), content_type, headers, ca)
        senders = {
            name: _NodeSender(ray.remote(**options, max_concurrency=2)(_Actor).remote(*given))
            for name, options in nodes.items()
        }
        for sender in senders.values():
            stack.callback(_close, sender)
        members = []
        for name, sender in senders.items():
            try:
                sender.wait_until_ready()
                difference_s, error_s = clock_difference(lambda: float(sender.call("clock")))  # noqa: B023
            except LoadError as error:
                raise LoadError(f"sender {name}: {error}") from error
            members.append(Member(name, sender, difference_s))
            print_wrapped(
                f"sender {name}: clock {1000 * difference_s:+.3f} ms, known to {1000 * error_s:.3f} ms"
            )
        yield (_SurvivingGroup if go_on else SenderGroup)(members)


def _close(sender: _NodeSender) -> None:
    with suppress(LoadError):
        sender.call("close")
