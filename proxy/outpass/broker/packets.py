"""JSON packets with descriptors over SOCK_SEQPACKET, on asyncio: the transport of both control protocols.

Lives here: framing, descriptor passing, back-pressure, end of file. May not live here: what the packets mean.
"""

from __future__ import annotations

import array
import asyncio
import json
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

MAX_BYTES: Final = 65_536
"""Longest packet in bytes; a longer one is an error (it arrives cut, and half a JSON object is no object)."""
MAX_FDS: Final = 32
"""Most descriptors in one packet; SCM_MAX_FD of the kernel is 253."""
MAX_QUEUED: Final = 1_000
"""Packets waiting for a peer that does not read, before it counts as gone."""

_ANCILLARY: Final = socket.CMSG_SPACE(MAX_FDS * 4)


class Packet(NamedTuple):
    """One packet: the object, and the descriptors that came with it (close-on-exec, owned by whoever holds this)."""

    body: dict[str, Any]
    fds: tuple[int, ...] = ()


def close_fds(fds: Sequence[int]) -> None:
    """Close every descriptor in `fds`; one that is closed already is no error."""
    for fd in fds:
        try:
            os.close(fd)
        except OSError:
            pass


def receive(sock: socket.socket) -> Packet | None:
    """The next packet, or None at the end of the connection.

    Raises ValueError for anything but one whole JSON object (its descriptors are closed), BlockingIOError when there is
    nothing yet, OSError when the connection broke.
    """
    # NOTE: MSG_CMSG_CLOEXEC, because Python leaves received descriptors inheritable otherwise: the gate, a child of
    # ours, must not hold one jail's listener under another's name.
    data, ancillary, flags, _ = sock.recvmsg(MAX_BYTES + 1, _ANCILLARY, socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    if not data:  # an empty packet cannot be told from the end; nobody sends one
        close_fds(fds)
        return None
    try:
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise ValueError("the packet is too long")
        body = json.loads(data)
        if not isinstance(body, dict):
            raise ValueError("the packet is not a JSON object")
    except (ValueError, RecursionError) as e:
        close_fds(fds)
        raise ValueError(str(e)) from None
    return Packet(body, tuple(fds))


def send(sock: socket.socket, body: dict[str, Any], fds: Sequence[int] = ()) -> None:
    """Send one packet whole. BlockingIOError when the peer's buffer is full, ValueError when it is too long."""
    _send(sock, _encode(body), fds)


def _encode(body: dict[str, Any]) -> bytes:
    data = json.dumps(body, separators=(",", ":")).encode()
    if len(data) > MAX_BYTES:
        raise ValueError(f"a control packet of {len(data)} bytes is too long")
    return data


def _send(sock: socket.socket, data: bytes, fds: Sequence[int]) -> None:
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sock.sendmsg([data], rights, socket.MSG_NOSIGNAL)


class Channel:
    """One SEQPACKET connection on the running loop; calls back for each packet and once for its end.

    `on_packet` owns the packet's descriptors. A packet that cannot be read ends the connection: on a control socket
    there is nobody to be lenient with.
    """

    def __init__(self, sock: socket.socket, on_packet: Callable[[Packet], None], on_end: Callable[[str], None]) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._on_packet = on_packet
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._queue: deque[tuple[bytes, list[int]]] = deque()
        self._closed = False
        self._loop.add_reader(sock.fileno(), self._readable)

    @property
    def closed(self) -> bool:
        """True after the end, from either side."""
        return self._closed

    def send(self, body: dict[str, Any], fds: Sequence[int] = ()) -> None:
        """Send or queue one packet; the caller keeps its descriptors. Does nothing on a closed channel."""
        if self._closed:
            return
        data = _encode(body)
        if not self._queue:
            try:
                _send(self._sock, data, fds)
                return
            except BlockingIOError:
                pass
            except OSError as e:
                self._end(f"cannot send: {e.strerror}")
                return
        if len(self._queue) >= MAX_QUEUED:
            self._end("it does not read what it is sent")
            return
        # The descriptors may be closed by the caller before the packet leaves: keep our own until then.
        self._queue.append((data, [os.dup(fd) for fd in fds]))
        self._loop.add_writer(self._sock.fileno(), self._writable)

    def close(self) -> None:
        """Close from our side; `on_end` is not called."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        self._sock.close()
        while self._queue:
            close_fds(self._queue.popleft()[1])

    def _end(self, why: str) -> None:
        if not self._closed:
            self.close()
            self._on_end(why)

    def _readable(self) -> None:
        while not self._closed:
            try:
                packet = receive(self._sock)
            except BlockingIOError:
                return
            except ConnectionResetError:
                # It ended without reading everything of ours. The error comes first and once; what it sent before its end
                # is still there to be read (a killed gate's last records).
                continue
            except (OSError, ValueError) as e:
                self._end(str(e))
                return
            if packet is None:
                self._end("it closed the connection")
                return
            self._on_packet(packet)

    def _writable(self) -> None:
        while self._queue:
            data, fds = self._queue[0]
            try:
                _send(self._sock, data, fds)
            except BlockingIOError:
                return
            except OSError as e:
                self._end(f"cannot send: {e.strerror}")
                return
            self._queue.popleft()
            close_fds(fds)
        self._loop.remove_writer(self._sock.fileno())
