"""For how much the kernel wakes us: for anything, or, under a stream of bytes, for large pieces.

Lives here: when a source is such a stream, and when it is none any more. May not live here: reading (pump.py, relay.py), timers.

Who reads faster than the other side writes is woken for every piece that it writes, mostly 16 KiB, and a turn costs as much as
ciphering or moving some 100 KiB. SO_RCVLOWAT (socket(7)) leaves them to gather. Whoever uses it looks again after PAUSE_S: what
is there by then is read, however little it is. The end of a stream, and a full buffer, wake us at any mark.
"""

from __future__ import annotations

import contextlib
import socket
from typing import Final

LARGE: Final = 1 << 20
"""Bytes, in reads of some size, after which a source is taken for a stream."""
SMALL: Final = 8192
"""A read below this is no part of one."""
PAUSE_S: Final = 0.001
"""Seconds without a piece after which anything wakes us again; twice as long at most."""


class Waking:
    """The mark of one socket."""

    __slots__ = ("_came", "_piece", "_row", "_sock", "patient")

    def __init__(self, sock: socket.socket, piece: int) -> None:
        """`piece` is how many bytes wake us under a stream."""
        self._sock, self._piece, self._row, self._came = sock, piece, 0, False
        self.patient = False
        """Whether only that many do now. Then `look` is to be called after PAUSE_S, again and again."""

    def brought(self, count: int) -> bool:
        """Note that one read brought `count` bytes; True when only pieces wake us from now on."""
        self._came = True
        if count < SMALL:
            self._row = 0
        elif not self.patient:
            self._row += count
            self.patient = self._row >= LARGE and _set(self._sock, self._piece)
            return self.patient
        return False

    def look(self) -> bool:
        """Whether it goes on like that: something came since this was asked last. Else anything wakes us again."""
        if not self._came:
            self.calm()
        self._came = False
        return self.patient

    def calm(self) -> None:
        """Be woken for anything again."""
        self._row = 0
        if self.patient:
            self.patient = False
            _set(self._sock, 1)


def _set(sock: socket.socket, count: int) -> bool:
    """False where there is no such mark (a Unix socket has none that poll(2) heeds), or the socket is closed."""
    if sock.family == socket.AF_UNIX:
        return False
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)
        return True
    return False
