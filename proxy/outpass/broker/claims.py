"""Connections that a session said are its own, until the gate asks whose they are.

Lives here: the table. May not live here: the wire (switchboard.py), looking for who holds a socket (native.py).
Written by the switchboard's thread, read by the loop's, so each method takes one lock, briefly.

A program may connect, send and close before anybody could look which process held the socket. So a shim says so first, over a
connection that the kernel vouches for. A word counts once. One that comes when the gate's question was settled without it is
dropped: else it would stand for the next connection between the same two ends, which another process may make.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, NamedTuple

from outpass.broker.view import End

KEPT_S: Final = 10.0
"""Seconds that a word waits for its question, or a question for its word."""
MAX_KEPT: Final = 4_096
"""Of either; the oldest go first. Without its word, a connection is looked for in /proc."""


class Ends(NamedTuple):
    """One connection: the client's and the server's address and port, in this jail's network namespace."""

    jail: str
    client: End
    server: End


class Claims:
    """Of every jail."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock`: seconds, of any origin, that never go back."""
        self._clock = clock
        self._lock = threading.Lock()
        self._said: OrderedDict[Ends, tuple[str, float]] = OrderedDict()
        self._asked: OrderedDict[Ends, tuple[bool, float]] = OrderedDict()
        """Connections that were asked about before a word came: whether the question is still open, and since when."""

    def say(self, ends: Ends, sid: str) -> None:
        """Session `sid` made this connection."""
        with self._lock:
            now = self._clock()
            is_open, asked = self._asked.get(ends, (True, now))
            if not is_open:
                del self._asked[ends]
            if is_open or now - asked > KEPT_S:
                self._said[ends] = (sid, now)
                while len(self._said) > MAX_KEPT:
                    self._said.popitem(last=False)

    def ask(self, ends: Ends) -> str | None:
        """The session that said this connection is its own; None: nobody did yet. Then `settle` must follow."""
        with self._lock:
            sid = self._pop(ends)
            if sid is None:
                self._keep(ends, True)
            return sid

    def settle(self, ends: Ends) -> str | None:
        """The session that said so since `ask`; None: nobody did, and who does so later is not heard."""
        with self._lock:
            sid = self._pop(ends)
            if sid is None:
                self._keep(ends, False)
            else:
                self._asked.pop(ends, None)
            return sid

    def _pop(self, ends: Ends) -> str | None:
        sid, said = self._said.pop(ends, ("", 0.0))
        return sid if sid and self._clock() - said <= KEPT_S else None

    def _keep(self, ends: Ends, is_open: bool) -> None:
        self._asked[ends] = (is_open, self._clock())
        while len(self._asked) > MAX_KEPT:
            self._asked.popitem(last=False)
