"""The receiving half of the control socket: packets from the broker, with their descriptors, one at a time and in order.

Lives here: the wire of proxy/README.md, "Control: broker → gate". May not live here: what an operation does (gate.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from typing import Any, Final, NamedTuple

MAX_PACKET: Final = 256 * 1024
MAX_FDS: Final = 64


class Packet(NamedTuple):
    """One message and the descriptors that came with it; whoever takes it owns them."""

    message: dict[str, Any]
    fds: tuple[int, ...]

    def close(self) -> None:
        """Close every descriptor that is still open."""
        for fd in self.fds:
            with contextlib.suppress(OSError):
                os.close(fd)


class ControlClosed(Exception):
    """The broker is gone, or speaks something else: the gate ends at once (fail closed)."""


class Control:
    """Reads packets from a non-blocking SEQPACKET socket."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock

    async def receive(self) -> Packet:
        """The next packet. Raises ControlClosed at the end of the connection and for a packet that is none of ours."""
        while True:
            try:
                return self._receive()
            except BlockingIOError:
                await _readable(self._sock)

    def _receive(self) -> Packet:
        try:
            data, fds, flags, _ = socket.recv_fds(self._sock, MAX_PACKET, MAX_FDS, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            raise
        except OSError as e:
            raise ControlClosed(str(e)) from None
        packet = Packet({}, tuple(fds))
        if not data or flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            packet.close()
            raise ControlClosed("the broker closed the connection" if not data else "a packet was cut short")
        try:
            message = json.loads(data)
        except ValueError:
            message = None
        if not isinstance(message, dict) or not isinstance(message.get("op"), str):
            packet.close()
            raise ControlClosed("the broker sent something that is not a message")
        return Packet(message, tuple(fds))


async def _readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(sock, _resolve, ready)
    try:
        await ready
    finally:
        loop.remove_reader(sock)


def _resolve(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


def read_memory(fd: int) -> bytes:
    """Everything in a memfd, from its start, whatever the offset says (it is shared with the sender)."""
    size = os.fstat(fd).st_size
    parts = []
    at = 0
    while at < size:
        part = os.pread(fd, size - at, at)
        if not part:
            break
        parts.append(part)
        at += len(part)
    return b"".join(parts)
