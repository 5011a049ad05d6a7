"""The doors of a run whose daemon ended: closed, kept, and handed to the next daemon.

Lives here: noticing the end, refusing meanwhile, handing over. May not live here: what is said to the daemon (cli.run), what
the next one does with it (broker/).

The launcher keeps a copy of every listener, as those inside a jail cannot be made anew from outside. Kept alone they would let
programs wait for an answer that nobody gives; so the kernel is made to refuse: a listening socket that is shut down answers
with a reset and stays bound, and listens again when it is told to. A datagram socket that is connected elsewhere answers with
"port unreachable" and takes everything again when it is disconnected.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
from collections.abc import Callable, Sequence
from typing import Final

from outpass.errors import OutpassError
from outpass.jail.daemon import Control, connect

SOON_S: Final = 0.1
LATER_S: Final = 1.0
"""Seconds between two looks for a daemon: soon when there is none, later when there is one that refuses."""
ANSWER_S: Final = 30.0
"""Seconds that a daemon may take to take the jail over."""
BACKLOG: Final = 1024
_DISCARD: Final = 9
_INTERNET: Final = (socket.AF_INET, socket.AF_INET6)
"""The table of the jail's sockets, which is kept too, is of neither."""

HandOver = Callable[[Control, Sequence[int]], None]
"""Opens the jail again at this daemon, with these listeners. Raises OutpassError for a refusal."""


class Keeper:
    """Keeps the doors of one run; `signals.wait_for` calls it. One thread only."""

    def __init__(self, control: Control, path: str, hand_over: HandOver, tell: Callable[[str, str], None]) -> None:
        """`path`: where a daemon answers. `tell(kind, text)`: `warning` or `note`, to the person."""
        self.control = control
        self._path = path
        self._hand_over = hand_over
        self._tell = tell
        self._doors: list[socket.socket] = []
        self._away = False
        self._told = ""

    def keep(self, fds: Sequence[int]) -> None:
        """Copies of these descriptors."""
        self._doors = [socket.socket(fileno=os.dup(fd)) for fd in fds]

    def __call__(self) -> float | None:
        """As signals.Tend."""
        if not self._away:
            self._listen_for_the_end()
            if not self._ended():
                return None
            self._away = True
            self._shut()
            self._tell("warning", "the daemon ended; everything is refused until there is another")
        return self._try_again()

    def close(self) -> None:
        """Give the copies up."""
        for door in self._doors:
            door.close()

    def _listen_for_the_end(self) -> None:
        """SIGIO when the control connection has something to say; between requests that is its end."""
        signal.signal(signal.SIGIO, lambda *_: None)  # it would end us where nobody waits for it
        fd = self.control.sock.fileno()
        fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)

    def _ended(self) -> bool:
        try:
            return not self.control.sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def _try_again(self) -> float | None:
        try:
            control = connect(self._path)
        except OutpassError:
            return SOON_S
        control.sock.settimeout(ANSWER_S)
        self._open()
        try:
            self._hand_over(control, [door.fileno() for door in self._doors])
        except OutpassError as e:
            self._shut()
            control.close()
            if e.message != self._told:
                self._told = e.message
                self._tell("warning", f"the new daemon does not go on with this run: {e.message}")
            return LATER_S
        control.sock.settimeout(None)
        self.control.close()
        self.control, self._away, self._told = control, False, ""
        self._tell("note", "the daemon is back")
        return self()

    def _shut(self) -> None:
        for door in self._doors:
            with contextlib.suppress(OSError):
                if door.type == socket.SOCK_STREAM:
                    # Once only: a second time marks the socket, and with it all that it will accept later, as closed.
                    if door.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                        door.shutdown(socket.SHUT_RDWR)
                elif door.family in _INTERNET:
                    door.connect(("::1" if door.family == socket.AF_INET6 else "127.0.0.1", _DISCARD))

    def _open(self) -> None:
        for door in self._doors:
            if door.type == socket.SOCK_STREAM:
                door.listen(BACKLOG)
            elif door.family in _INTERNET:
                _disconnect(door)


def _disconnect(sock: socket.socket) -> None:
    """connect(2) to AF_UNSPEC, which Python has no address for."""
    from outpass.jail import syscalls

    syscalls.disconnect(sock.fileno())
