"""The kernel's own table of a jail's TCP sockets: from the two ends of a connection to the inode of the client's socket.

Lives here: one NETLINK_SOCK_DIAG socket (sock_diag(7)) that the launcher opened inside the jail's network namespace. May not live
here: who holds a socket (native.py). The socket never reaches CMD or the gate: it is told apart from the listeners here.

A look-up by both ends is one walk down one hash chain, 4 µs; reading /proc/PID/net/tcp visits the table of the whole machine,
2 500 µs on one with 262 144 buckets.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
from typing import Final

from outpass.errors import StartError

KIND: Final = "sockets"
"""In `jail.open`'s list of listeners, though it listens to nothing."""

_SOCK_DIAG: Final = 4
_BY_FAMILY: Final = 20
_ERROR: Final = 2
_REQUEST: Final = 1
_LOOPBACK: Final = 1
"""Index of `lo`, the one interface of a jail: finds sockets that were bound to it as well as those that were not."""
_ANY_STATE: Final = 0xFFFF_FFFF
_NO_COOKIE: Final = 0xFFFF_FFFF
_LISTEN: Final = 10
_HEAD: Final = struct.Struct("=IHHII")
_ASK: Final = struct.Struct("=BBBBI")
_ANSWER: Final = struct.Struct("=BBBB2s2s16s16sI8sIIIII")
"""struct inet_diag_msg: family, state, timer, retransmits, both ends, interface, cookie, expiry, queues, uid, inode."""

End = tuple[str, int]


class View:
    """One jail's table. Any thread may ask; each question takes microseconds."""

    def __init__(self, sock: socket.socket) -> None:
        """Takes the socket. Raises StartError for one that is no such socket."""
        self._sock = sock
        self._lock = threading.Lock()
        self._serial = 0
        family, protocol = (sock.getsockopt(socket.SOL_SOCKET, o) for o in (socket.SO_DOMAIN, socket.SO_PROTOCOL))
        if (family, protocol) != (socket.AF_NETLINK, _SOCK_DIAG):
            raise StartError("a descriptor of the launcher is no view of the jail's sockets")

    def connection(self, client: End, server: End) -> int | None:
        """Inode of the socket whose own end is `client` and whose peer is `server`; None where there is none."""
        found = self._ask(client, server)
        return found[1] if found is not None and found[0] != _LISTEN else None

    def shows(self, listener: socket.socket) -> bool:
        """Whether the kernel answers questions at all: it must know the jail's own listener.

        Raises StartError when it shows another socket there: then the view is of another namespace.
        """
        if listener.family not in (socket.AF_INET, socket.AF_INET6):
            raise StartError("a jail's explicit listener is a TCP socket")
        address = listener.getsockname()
        found = self._ask((address[0], address[1]), ("0.0.0.0" if listener.family == socket.AF_INET else "::", 0))  # noqa: S104
        if found is not None and found[1] != os.fstat(listener.fileno()).st_ino:
            raise StartError("the launcher's view is not of the jail's own sockets")
        return found is not None

    def close(self) -> None:
        """Give it up."""
        with self._lock:
            self._sock.close()

    def _ask(self, own: End, peer: End) -> tuple[int, int] | None:
        """(state, inode) of the socket with these ends; the kernel falls back to a listener at `own`."""
        family = socket.AF_INET6 if ":" in own[0] else socket.AF_INET
        ends = struct.pack(">HH", own[1], peer[1]) + _packed(family, own[0]) + _packed(family, peer[0])
        body = _ASK.pack(family, socket.IPPROTO_TCP, 0, 0, _ANY_STATE) + ends
        body += struct.pack("=III", _LOOPBACK, _NO_COOKIE, _NO_COOKIE)
        with self._lock:
            self._serial = self._serial + 1 & 0xFFFF_FFFF
            head = _HEAD.pack(_HEAD.size + len(body), _BY_FAMILY, _REQUEST, self._serial, 0)
            try:
                self._sock.sendto(head + body, (0, 0))
                return self._answer()
            except OSError:  # closed with the jail, or the kernel has no such service
                return None

    def _answer(self) -> tuple[int, int] | None:
        """The answer is there when the question has been sent: netlink is a function call. Anything older is passed over."""
        while True:
            packet, (sender, _) = self._sock.recvfrom(4096, socket.MSG_DONTWAIT)
            if sender != 0 or len(packet) < _HEAD.size:  # only the kernel may say
                continue
            _, kind, _, serial, _ = _HEAD.unpack_from(packet)
            if serial != self._serial:
                continue
            if kind != _BY_FAMILY or len(packet) < _HEAD.size + _ANSWER.size:
                return None
            fields = _ANSWER.unpack_from(packet, _HEAD.size)
            return fields[1], fields[-1]


def _packed(family: int, host: str) -> bytes:
    return socket.inet_pton(family, host).ljust(16, b"\0")
