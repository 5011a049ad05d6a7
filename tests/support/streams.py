"""Raw TCP servers outside of every jail, each with a log: an echo, one that speaks first, one that answers after the end, a sink.

Lives here: the servers and what they got. May not live here: assertions.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Any, Self

NAMES = {
    "echo.example.com:7": "echo",
    "first.example.com:25": "first",
    "half.example.com:79": "half",
    "sink.example.com:9": "sink",
    "tls.example.com:993": "sink",
    "reset.example.com:19": "reset",
}
"""host:port as policies name them → the server that answers there."""


class Streams:
    """`with Streams() as s:`; `s.log` holds (server, what arrived)."""

    def __init__(self) -> None:
        self.log: list[tuple[str, bytes]] = []
        self.ports: dict[str, int] = {}
        self._servers: list[socket.socket] = []

    def __enter__(self) -> Self:
        for name in ("echo", "first", "half", "sink", "reset"):
            self._serve(name, getattr(self, f"_{name}"))
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.close()

    def connect_to(self) -> list[str]:
        """Options of the daemon."""
        return [o for place, name in NAMES.items() for o in ("--connect-to", f"{place}:127.0.0.1:{self.ports[name]}")]

    def got(self, name: str) -> bytes:
        """All that one server received."""
        return b"".join(data for server, data in self.log if server == name)

    def _serve(self, name: str, handle: Callable[[socket.socket], None]) -> None:
        server = socket.create_server(("127.0.0.1", 0), backlog=512)
        self._servers.append(server)
        self.ports[name] = server.getsockname()[1]

        def accept() -> None:
            while True:
                try:
                    peer, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=one, args=(peer,), daemon=True).start()

        def one(peer: socket.socket) -> None:
            with contextlib.suppress(OSError), peer:
                self.log.append((name, b""))
                handle(peer)

        threading.Thread(target=accept, daemon=True).start()

    def _all(self, name: str, peer: socket.socket, each: Callable[[bytes], Any] = lambda _: None) -> None:
        while data := peer.recv(1 << 16):
            self.log.append((name, data))
            each(data)

    def _echo(self, peer: socket.socket) -> None:
        self._all("echo", peer, peer.sendall)

    def _first(self, peer: socket.socket) -> None:
        peer.sendall(b"220 ready\r\n")
        self._all("first", peer, lambda data: peer.sendall(b"250 " + data))

    def _half(self, peer: socket.socket) -> None:
        """Says nothing until the client has ended its side, then answers at length."""
        size = 0

        def count(data: bytes) -> None:
            nonlocal size
            size += len(data)

        self._all("half", peer, count)
        peer.sendall(b"%d bytes\n" % size + b"x" * 1_000_000)

    def _sink(self, peer: socket.socket) -> None:
        self._all("sink", peer)

    def _reset(self, peer: socket.socket) -> None:
        peer.recv(1)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
