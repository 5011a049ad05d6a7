"""Deadlines of what a client has begun: looked at when the gate says what time it is, so that nothing sleeps for each request.

Lives here: Tick, and which wait of a client's connection has lasted too long. May not live here: who ticks (sweep.py), answers.
"""

from __future__ import annotations

import time
from typing import Final

from mitmproxy.connection import Connection

from outpass.gate.bounds import Bounds
from outpass.gate.engine.pacing import Nudge
from outpass.gate.engine.watcher import Watcher

HEAD: Final = "the request head did not come in time"
BODY: Final = "the request body stopped coming"


class Tick(Nudge):
    """The time, told to a connection that asked for it; `stalled` takes none of what waits for it."""

    def __init__(self, now: float, stalled: Connection | None = None) -> None:
        self.now = now
        self.stalled = stalled


class Patience:
    """What a client's connection is waited for, since when, and whether that is too long."""

    __slots__ = ("_bounds", "_deadline", "_got", "_kind", "_watcher")

    def __init__(self, watcher: Watcher | None) -> None:
        self._watcher = watcher
        self._bounds = Bounds() if watcher is None else watcher.bounds
        self._kind: str | None = None
        self._deadline = 0.0
        self._got = 0

    def waits(self, kind: str | None, got: int = 0, *, anew: bool = False) -> None:
        """Note what is waited for now (HEAD, BODY or nothing), and that `got` more bytes came; `anew` begins another wait."""
        self._got += got
        if kind is self._kind and not anew:
            return
        self._kind = kind
        if kind is not None:
            self._begin(time.monotonic())

    def late(self, now: float) -> str | None:
        """The kind of wait that has lasted too long at `now`; what goes on is asked about again."""
        if self._kind is None:
            return None
        if now < self._deadline:
            self._ask()
            return None
        moves = self._kind is BODY and self._got >= self._bounds.body_bytes
        if moves or (self._watcher is not None and self._watcher.holds):  # or it is we who do not read
            self._begin(now)
            return None
        kind, self._kind = self._kind, None
        return kind

    def _begin(self, now: float) -> None:
        self._got = 0
        self._deadline = now + (self._bounds.head_s if self._kind is HEAD else self._bounds.body_s)
        self._ask()

    def _ask(self) -> None:
        if self._watcher is not None:
            self._watcher.due(self._deadline)
