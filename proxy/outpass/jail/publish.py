"""`--publish`: a port of the jail's loopback, reachable from outside of it.

Lives here: what the option means, the listeners outside, the two processes that carry bytes. May not live here: whether it is
granted (the broker says), the launch itself (launch.py).

    outside ──▶ relay    listens and copies bytes, in the host's namespaces; knows the jail only by the sockets it is handed
                  │ one packet: a socket, please
                  ▼
                maker    in the jail's user and network namespace, without any capability; holds one socket pair, nothing of the
                         host's network: whoever took it over would have what CMD has already

The socket is made there because a socket belongs for ever to the namespace that it was made in; the relay connects it.
Both end with the launcher (PR_SET_PDEATHSIG), and the relay when the broker lets go of its leash: at the jail's end, when a
reload takes the right away, and when the broker itself dies.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import signal
import socket
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, NoReturn

from outpass.errors import StartError, UsageError
from outpass.jail import privileges, syscalls
from outpass.jail.steps import DropCapabilities

BACKLOG: Final = 512
_INSIDE: Final = "127.0.0.1"
_PORT: Final = re.compile(r"[0-9]{1,5}")


class Port(NamedTuple):
    """One published port. `outside` 0: any free one."""

    address: str
    """A canonical IP address of this machine, without brackets."""
    outside: int
    inside: int

    @property
    def shown(self) -> str:
        """`address:port` outside."""
        return f"[{self.address}]:{self.outside}" if ":" in self.address else f"{self.address}:{self.outside}"


Ask = Callable[[Sequence[Port], int], None]
"""Asks the broker for leave, and hands over the leash's other end (a descriptor). Raises OutpassError for a refusal."""


def parse(text: str) -> Port:
    """`[HOST:]PORT[:PORT]`: outside, then inside. Raises UsageError.

    Without HOST it is 127.0.0.1: a server that somebody develops is nobody else's.
    """
    host, rest = _INSIDE, text
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        rest = rest.removeprefix(":")
    elif not _PORT.fullmatch(text.partition(":")[0]):
        host, _, rest = text.partition(":")
    try:
        address = _INSIDE if host == "localhost" else str(ipaddress.ip_address(host))
        numbers = [int(part) for part in rest.split(":") if _PORT.fullmatch(part)]
        outside, inside = (numbers * 2)[:2] if len(numbers) == 1 else numbers
        if len(numbers) != rest.count(":") + 1 or not (0 <= outside <= 65535 and 0 < inside <= 65535):
            raise ValueError
    except ValueError:
        hint = "write PORT, OUTSIDE:INSIDE or ADDRESS:OUTSIDE:INSIDE, an IPv6 address in brackets"
        raise UsageError(f"--publish {text!r} makes no sense", hint) from None
    return Port(address, outside, inside)


class Publisher:
    """The published ports of one run, served from `start` to `close`."""

    def __init__(self, ports: Sequence[Port]) -> None:
        self.ports = list(ports)
        self._listeners: list[socket.socket] = []
        self._pids: list[int] = []
        self._relay_pid = 0
        self._maker: socket.socket | None = None

    def start(self, pid: int, ask: Ask) -> None:
        """Serves the network namespace of `pid`, which is in its jail and not yet CMD. Single-threaded callers only.

        The listeners are bound only now, when the process that becomes CMD has been forked: no copy of them is inside.
        Raises OutpassError where the policy says no, StartError for a port in use or a jail that cannot be entered.
        """
        if not self.ports:
            return
        leash, theirs = socket.socketpair()
        with theirs:
            ask(self.ports, theirs.fileno())
        for number, port in enumerate(self.ports):
            sock = _listen(port)
            self._listeners.append(sock)
            self.ports[number] = port._replace(outside=sock.getsockname()[1])
        launcher = os.getpid()
        ours, makers = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        entered = os.pidfd_open(pid)
        self._pids.append(_process(lambda: _make(makers, entered, launcher), keep=(makers.fileno(), entered)))
        os.close(entered)
        makers.close()
        word = ours.recv(4)
        number = int.from_bytes(word, "little")
        if number or not word:
            said = os.strerror(number).lower() if number else "its process ended"
            raise StartError(f"cannot publish a port: the jail's network cannot be entered: {said}", "leave --publish out")
        self._maker = ours
        self._carry(leash, ours)

    def again(self, ask: Ask) -> None:
        """Serves anew, by the leave of another daemon: the relay ended with the one before. Raises as `start`."""
        if self._maker is None:
            return
        if self._relay_pid in self._pids:
            self._pids.remove(self._relay_pid)
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._relay_pid, signal.SIGKILL)
            os.waitpid(self._relay_pid, 0)
        leash, theirs = socket.socketpair()
        with theirs:
            ask(self.ports, theirs.fileno())
        self._listeners = [_listen(port) for port in self.ports]
        self._carry(leash, self._maker)

    def _carry(self, leash: socket.socket, maker: socket.socket) -> None:
        launcher = os.getpid()
        held = (leash.fileno(), maker.fileno(), *(sock.fileno() for sock in self._listeners))
        inside = [port.inside for port in self.ports]
        self._relay_pid = _process(lambda: _relay(self._listeners, inside, leash, maker, launcher), keep=held)
        self._pids.append(self._relay_pid)
        leash.close()
        for sock in self._listeners:
            sock.close()
        self._listeners = []

    def close(self) -> None:
        """Ends it; harmless when it never began."""
        if self._maker is not None:
            self._maker.close()
        for sock in self._listeners:
            sock.close()
        for pid in self._pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in self._pids:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
        self._pids.clear()


def _listen(port: Port) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in port.address else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if ":" in port.address:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((port.address, port.outside))
        sock.listen(BACKLOG)
    except OSError as bad:
        sock.close()
        said = (bad.strerror or str(bad)).lower()
        raise StartError(f"cannot publish {port.shown}: {said}", "name another port outside: --publish OTHER:INSIDE") from None
    return sock


def _process(work: Callable[[], object], keep: Sequence[int]) -> int:
    """Forks a process that does `work` and holds no descriptor but `keep`; returns its pid.

    It is deaf to what a terminal or a supervisor says: CMD may take its time to end, and still answers meanwhile.
    """
    pid = os.fork()
    if pid:
        return pid
    try:
        for signum in (
            signal.SIGINT,
            signal.SIGQUIT,
            signal.SIGTERM,
            signal.SIGHUP,
            signal.SIGUSR1,
            signal.SIGUSR2,
            signal.SIGPIPE,
        ):
            signal.signal(signum, signal.SIG_IGN)
        signal.signal(signal.SIGWINCH, signal.SIG_DFL)
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        _close_but(keep)
        os.chdir("/")
        work()
    finally:
        os._exit(1)


def _close_but(keep: Sequence[int]) -> None:
    first = 3
    for fd in sorted(keep):
        os.closerange(first, fd)
        first = fd + 1
    os.closerange(first, os.sysconf("SC_OPEN_MAX") if os.sysconf("SC_OPEN_MAX") < 1 << 20 else 1 << 20)


def _bind_life(launcher: int) -> None:
    """Dies with the launcher, cannot be looked into or made to dump, gains nothing by exec."""
    privileges.no_new_privileges()
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != launcher:
        os._exit(1)


def _make(channel: socket.socket, entered: int, launcher: int) -> NoReturn:
    """The maker: enters, says how that went (an errno), then answers each packet with a new TCP socket."""
    try:
        os.setns(entered, os.CLONE_NEWUSER | os.CLONE_NEWNET)
        os.close(entered)
        privileges.drop_capabilities(DropCapabilities(()))
        _bind_life(launcher)
    except OSError as bad:
        channel.send((bad.errno or 1).to_bytes(4, "little"))
        os._exit(1)
    channel.send(bytes(4))
    while channel.recv(1):
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as made:
                socket.send_fds(channel, [b"s"], [made.fileno()])
        except OSError:
            channel.send(b"n")
    os._exit(0)


def _relay(
    listeners: Sequence[socket.socket], inside: Sequence[int], leash: socket.socket, maker: socket.socket, launcher: int
) -> NoReturn:
    """The relay, until the leash is let go of. asyncio is imported here only: no other launch pays for it."""
    from outpass.jail import carry

    _bind_life(launcher)
    carry.run(list(zip(listeners, inside, strict=True)), leash, maker)
    os._exit(0)
