"""Takes over listening sockets that were opened elsewhere, and accepts: the socket says which jail it is.

Lives here: adopting descriptors, what a new connection is tagged with. May not live here: opening sockets, choosing ports.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Final

from outpass.errors import StartError
from outpass.gate.jails import Jail
from outpass.gate.shared import Share

HTTP: Final = "http"
"""Explicit proxy: absolute form and CONNECT."""
TRANSPARENT: Final = "transparent"
"""TCP to any address: the accepted socket's own address is where the client wanted to go."""
FORWARD: Final = "forward:"
"""`forward:PORT`: TCP to that port of the jail's loopback, which stands for the same port of the host's."""
DATAGRAMS: Final = frozenset({"dns-udp4", "dns-udp6"})
DNS_TCP: Final = "dns-tcp"
_ACCEPT_AT_ONCE: Final = 16
"""In one turn of the loop; more, and a flood has hundreds of descriptors before the first can be refused (descriptors.py)."""
_PAUSE_S: Final = 0.1

Accept = Callable[[Jail, str, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
"""(jail, source, reader, writer): serve one connection. `source` says where it came from, for logs."""


async def adopt(jail: Jail, sock: socket.socket, accept: Accept, share: Share | None = None) -> None:
    """Accept connections of `jail` on `sock`, a bound and listening TCP or Unix stream socket, in any network namespace.

    `share`: where other gates accept on it too. Raises StartError for a socket that the gate does not serve.
    """
    tasks: set[asyncio.Task[None]] = set()

    async def serve(client: socket.socket) -> None:
        try:
            reader, writer = await asyncio.open_connection(sock=client)
            if writer.get_extra_info("peername") is None:  # it was reset before it was accepted
                writer.close()
                return
            await accept(jail, _source(writer), reader, writer)
        finally:
            if share is not None:
                share.ended()

    def accepted(client: socket.socket) -> None:
        if share is not None:
            share.took()
        task = asyncio.get_running_loop().create_task(serve(client))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    jail.servers.append(RawServer(sock, accepted, courtesy=share.courtesy if share is not None else lambda: 0.0))


class RawServer:
    """Accepts connections as bare sockets."""

    def __init__(
        self,
        sock: socket.socket,
        accepted: Callable[[socket.socket], None],
        busy: Callable[[], bool] = lambda: False,
        courtesy: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """While `busy()`, connections wait in the kernel's queue; `courtesy()` is how long another process may take one first."""
        _check_listening(sock)
        self._busy = busy
        self._courtesy = courtesy
        self._waited = False
        self._sock = sock
        self._accepted = accepted
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock.fileno(), self._ready)

    def _ready(self) -> None:
        for _ in range(_ACCEPT_AT_ONCE):
            if self._busy():
                self._pause(_PAUSE_S)
                return
            if not self._waited and (seconds := self._courtesy()):
                self._waited = True  # once: a gate that does not come must not keep connections waiting
                self._pause(seconds)
                return
            self._waited = False
            try:
                client, _ = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:  # no descriptors left: later, and not at once again
                self._pause(_PAUSE_S)
                return
            client.setblocking(False)
            self._accepted(client)

    def _pause(self, seconds: float) -> None:
        self._loop.remove_reader(self._sock.fileno())
        self._loop.call_later(seconds, self._again)

    def _again(self) -> None:
        if self._sock.fileno() >= 0:
            self._loop.add_reader(self._sock.fileno(), self._ready)

    def close(self) -> None:
        """Accept nothing more."""
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock.fileno())
            self._sock.close()


def _check_listening(sock: socket.socket) -> None:
    if sock.type != socket.SOCK_STREAM or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise StartError("the gate was handed something that is not a listening stream socket")
    sock.setblocking(False)
    if sock.family == socket.AF_UNIX:
        return
    # Accepted sockets inherit both. asyncio sets TCP_NODELAY on sockets whose protocol number is IPPROTO_TCP; one that was
    # adopted says 0, and then every small answer waits 40 ms for an ACK.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with contextlib.suppress(OSError):
        # A client is on this machine, with no network to be careful of. BBR, where it is the default, paces: a timer a packet.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")


def _source(writer: asyncio.StreamWriter) -> str:
    """`127.0.0.1:40112`, or `unix:pid=4711,uid=1000`: where a connection came from. For people, not for decisions."""
    sock: socket.socket = writer.get_extra_info("socket")
    if sock.family == socket.AF_UNIX:
        pid, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return f"unix:pid={pid},uid={uid}"
    host, port = writer.get_extra_info("peername")[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
