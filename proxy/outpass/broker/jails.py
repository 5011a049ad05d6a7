"""The jails: what was opened, under which policy, by whom, and which processes belong to it.

Lives here: the Jail, the table of jails, loading and re-loading their policies. May not live here: the control protocol
(control.py), sessions (session.py), decisions (policy/).

Written by the control loop, read by the switchboard's thread: every change is one assignment of an immutable value, so a
reader sees the old or the new, never a mixture.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from outpass import files
from outpass.broker.ears import Summary
from outpass.broker.peer import Process
from outpass.broker.synthetic import Addresses
from outpass.broker.view import KIND as SOCKETS
from outpass.broker.view import View
from outpass.errors import OutpassError, StartError
from outpass.model import Tier
from outpass.policy import addresses, decide, names
from outpass.policy.rules import Policy

if TYPE_CHECKING:
    from outpass.broker.publish import Published

MAX_PROCESSES: Final = 64
"""Processes that a launcher may register for one jail."""

KINDS: Final[dict[str, Tier]] = {"no-jail": Tier.ATTRIBUTED, "jail": Tier.ENFORCED}
"""How a jail is made → who vouches for its records: the kernel, where it is one of its namespaces."""
TRANSPARENT: Final = "transparent"
MAX_SEARCH: Final = 64
_STREAMS: Final = re.compile(r"http|transparent|dns-tcp|forward:[1-9][0-9]{0,4}")
_DATAGRAMS: Final = re.compile(r"dns-udp[46]")
_WITHOUT: Final = re.compile(r"ip[46]|sockets|transparent|dns-tcp|dns-udp[46]|forward:[1-9][0-9]{0,4}")


class Order(NamedTuple):
    """What a jail is opened with, checked."""

    kind: str
    label: str
    cwd: str
    roots: tuple[str, ...]
    source: files.Source
    listeners: tuple[str, ...] | None = None
    """Kinds of the sockets that come with it, in their order; None: every one is `http`."""
    without: tuple[str, ...] = ()
    """Doors that the launcher could not make."""
    search: tuple[str, ...] = ()
    """Domains that its resolvers append to short names, canonical."""


class InForce(NamedTuple):
    """One policy, compiled, as it is in force; replaced as a whole."""

    compiled: decide.Compiled
    policy: Policy
    digest: str
    mode: str
    warnings: tuple[str, ...]
    files: tuple[str, ...] = ()
    """What it was read from, presets aside; absolute."""


@dataclass(slots=True, eq=False)
class Jail:
    """One jail, from `jail.open` to the end of its control connection."""

    id: str
    kind: str
    tier: str
    label: str
    cwd: str
    roots: tuple[str, ...]
    uid: int
    source: files.Source
    force: InForce
    listeners: tuple[socket.socket, ...]
    kinds: tuple[str, ...]
    """Of the listeners."""
    proxy: str
    """`address:port` of its explicit listener."""
    opened: float
    """Seconds since the epoch."""
    processes: dict[tuple[int, int], int] = field(default_factory=dict)
    """(pid, start) of what the launcher registered → pidfd."""
    without: tuple[str, ...] = ()
    """Doors that it does without."""
    search: tuple[str, ...] = ()
    """Domains that resolvers in it append to short names, canonical."""
    summary: Summary = field(default_factory=Summary)
    addresses: Addresses = field(default_factory=lambda: Addresses(time.monotonic))
    netns: int | None = None
    """Inode of the network namespace of a kernel jail, once its process is registered."""
    view: View | None = None
    """Its sockets; None where nobody can say which program holds a connection."""
    published: Published | None = None
    """Ports that are reachable from outside."""
    live: bool = False
    """The gate has it; a new gate must be given it."""
    closing: bool = False

    @property
    def transparent(self) -> bool:
        """Whether a connection to any address in it comes to the gate."""
        return TRANSPARENT in self.kinds

    @property
    def degraded(self) -> tuple[str, ...]:
        """What is missing of a whole jail; in every audit record, so that nobody takes a lesser run for one."""
        return ("no-jail",) if self.kind == "no-jail" else self.without

    @property
    def forwards(self) -> list[int]:
        """Ports of its loopback that lead to the host's."""
        return [int(kind.removeprefix("forward:")) for kind in self.kinds if kind.startswith("forward:")]


class Jails:
    """The open jails."""

    def __init__(self, env: Mapping[str, str], clock: Callable[[], float], above: Path | None = None) -> None:
        """`above`: the operator's policy, which holds over that of every jail."""
        self._above = above
        self._env = env
        self._clock = clock
        self.by_id: dict[str, Jail] = {}
        self._roots: dict[tuple[int, int], Jail] = {}

    def load(self, source: files.Source) -> InForce:
        """Read and compile a policy. Raises PolicyError or StartError; slow (a second for 100 000 rules)."""
        loaded = files.load(replace(source, above=self._above), env=self._env)
        compiled = decide.compile(loaded.policy)
        warnings = tuple(str(fault) for fault in loaded.warnings)
        return InForce(compiled, loaded.policy, loaded.digest, str(compiled.mode), warnings, tuple(map(str, loaded.files)))

    def add(self, order: Order, force: InForce, uid: int, listeners: tuple[socket.socket, ...], name: str | None = None) -> Jail:
        """Enter a jail into the table; the gate is told by the caller. `name`: of one that a daemon before had."""
        while name is None or name in self.by_id:
            name = f"j-{os.urandom(4).hex()}"
        handed = list(zip(order.listeners or ("http",) * len(listeners), listeners, strict=True))
        view = next((View(sock) for kind, sock in handed if kind == SOCKETS), None)
        kinds, listeners = zip(*(pair for pair in handed if pair[0] != SOCKETS), strict=True)
        jail = Jail(
            id=name,
            kind=order.kind,
            tier=KINDS[order.kind].value,
            label=order.label,
            cwd=order.cwd,
            roots=order.roots,
            uid=uid,
            source=replace(order.source, digest=None),  # a reload is the operator's word for what the file holds then
            force=force,
            listeners=listeners,
            kinds=kinds,
            proxy=address_of(listeners[kinds.index("http")]),
            opened=self._clock(),
            without=order.without,
            search=order.search,
            view=view,
        )
        self.by_id[name] = jail
        return jail

    def register(self, jail: Jail, process: Process, pidfd: int) -> None:
        """`process` and all that descend from it may say hello as members of `jail`. Takes the pidfd."""
        if len(jail.processes) >= MAX_PROCESSES:
            os.close(pidfd)
            raise StartError("too many processes are registered for one jail")
        if jail.netns is None and jail.kind != "no-jail":
            jail.netns = os.stat(f"/proc/{process.pid}/ns/net").st_ino
        previous = jail.processes.get(process.key)
        jail.processes[process.key] = pidfd
        self._roots[process.key] = jail
        if previous is not None:
            os.close(previous)

    def of_process(self, key: tuple[int, int]) -> Jail | None:
        """The jail for which exactly this process was registered."""
        jail = self._roots.get(key)
        return None if jail is None or jail.closing else jail

    def deaf(self) -> None:
        """Refuse new connections from now on, whoever else holds the listeners: nobody should wait for an answer in vain."""
        for jail in self.by_id.values():
            for listener in jail.listeners:
                if listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    with contextlib.suppress(OSError):  # a launcher can make it listen again, for the next daemon
                        listener.shutdown(socket.SHUT_RDWR)
                listener.close()

    def remove(self, jail: Jail) -> None:
        """Forget a jail and close what it held. Harmless when it was removed before."""
        jail.closing = True
        if self.by_id.pop(jail.id, None) is None:
            return
        for key, pidfd in jail.processes.items():
            self._roots.pop(key, None)
            os.close(pidfd)
        if jail.published is not None:
            jail.published.let_go()
        if jail.view is not None:
            jail.view.close()
        for listener in jail.listeners:
            listener.close()


def address_of(listener: socket.socket) -> str:
    """`address:port` as OUTPASS_PROXY has it; IPv6 in brackets; a Unix socket's path."""
    name: Any = listener.getsockname()
    if isinstance(name, tuple):
        host, port = name[0], name[1]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return str(name)


def read_order(body: Mapping[str, Any]) -> Order:
    """`jail.open`, checked strictly: it comes from our own launcher, so anything odd is a bug to be seen, not mended."""
    kind = body.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise StartError(f"a jail of kind {kind!r} is not known to this daemon", "are run and daemon of one version?")
    label, cwd, roots, policy = body.get("label", ""), body.get("cwd"), body.get("roots"), body.get("policy")
    if not isinstance(label, str) or not isinstance(cwd, str) or not os.path.isabs(cwd):
        raise _odd("label or cwd")
    if not isinstance(roots, list) or not all(isinstance(r, str) and os.path.isabs(r) for r in roots):
        raise _odd("roots")
    if not isinstance(policy, dict):
        raise _odd("policy")
    file, allow = policy.get("file"), policy.get("allow", [])
    deny_all, mode = policy.get("deny_all", False), policy.get("mode")
    if not (file is None or (isinstance(file, str) and os.path.isabs(file))):
        raise _odd("policy file")
    if not isinstance(allow, list) or not all(isinstance(a, str) for a in allow) or not isinstance(deny_all, bool):
        raise _odd("policy")
    digest = policy.get("digest")
    if not all(text is None or isinstance(text, str) for text in (mode, digest)):
        raise _odd("mode or digest")
    spellings = dict.fromkeys(s for r in roots for s in (os.path.normpath(r), os.path.realpath(r)))
    source = files.Source(Path(file) if file else None, tuple(allow), deny_all, mode, digest)
    without = body.get("without", [])
    if (
        not isinstance(without, list)
        or len(without) > 64
        or not all(isinstance(w, str) and _WITHOUT.fullmatch(w) for w in without)
    ):
        raise _odd("list of missing doors")
    return Order(kind, label[:200], cwd, tuple(spellings), source, _kinds(body.get("listeners")), tuple(without), _search(body))


def _search(body: Mapping[str, Any]) -> tuple[str, ...]:
    """Domains of the resolver's configuration, which is the machine's and may hold anything: what is no name is left out."""
    listed = body.get("search", [])
    if not isinstance(listed, list) or len(listed) > MAX_SEARCH:
        raise _odd("search list")
    found = []
    for text in listed:
        with contextlib.suppress(ValueError):
            domain = names.host(str(text))
            found += [] if addresses.is_literal(domain) else [domain]
    return tuple(dict.fromkeys(found))


def _kinds(listed: Any) -> tuple[str, ...] | None:
    if listed is None:
        return None
    if not isinstance(listed, list) or "http" not in listed or listed.count(SOCKETS) > 1:
        raise _odd("list of listeners")
    if not all(isinstance(k, str) and (k == SOCKETS or _STREAMS.fullmatch(k) or _DATAGRAMS.fullmatch(k)) for k in listed):
        raise _odd("list of listeners")
    return tuple(listed)


def check_listeners(kinds: tuple[str, ...] | None, listeners: Sequence[socket.socket]) -> None:
    """Raises StartError unless there is one fitting socket for each kind."""
    if kinds is not None and len(kinds) != len(listeners):
        raise _odd("number of listeners")
    for kind, sock in zip(kinds or ("http",) * len(listeners), listeners, strict=True):
        if kind == SOCKETS:
            View(sock)
            continue
        wanted = socket.SOCK_DGRAM if _DATAGRAMS.fullmatch(kind) else socket.SOCK_STREAM
        listening = wanted is socket.SOCK_DGRAM or sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if sock.type != wanted or not listening:
            raise StartError("a descriptor of the launcher is not a listening socket")


def _odd(what: str) -> OutpassError:
    return StartError(f"the launcher's {what} makes no sense", "are run and daemon of one version?")
