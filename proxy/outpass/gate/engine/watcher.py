"""What an engine layer may say to the gate about the client connection that it serves.

Lives here: the interface, how it hangs on a connection, the bounds that layers keep. May not live here: what is done about it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from mitmproxy.connection import Connection
from mitmproxy.proxy import events

from outpass.gate.bounds import Bounds
from outpass.gate.refusal import Refusal
from outpass.reasons import Reason

MAX_HEAD: Final = 64 * 1024
"""Bytes of one request or response head, and of one chunk header or trailer section."""
MAX_DISCARD: Final = 64 * 1024 * 1024
"""Bytes of a request body that are read and thrown away after the request was refused, so that the client sees the answer."""
LINGER_S: Final = 5.0
"""Seconds for which a refused HTTP/1 client may go on sending before it is cut off."""
BACKLOG_HIGH: Final = 1024 * 1024
"""Bytes kept for a peer that does not take them at which what brings them is no longer read, where HTTP/1 brings them."""

METER: Final = "outpass.meter"
"""Key of flow.metadata: what the bytes of an exchange are limited by (Meter), where they are."""
_KEY: Final = "outpass"


class Meter(Protocol):
    """How many bytes of an exchange may be passed on (budget.Meter)."""

    def out(self, count: int) -> int:
        """How many of `count` bytes may go to the origin."""

    def back(self, count: int) -> int:
        """How many of `count` bytes may go to the client."""

    @property
    def reason(self) -> Reason:
        """Why it was fewer than asked for."""


class Sockets(Protocol):
    """What a layer may ask about the sockets below it."""

    def unsent(self, connection: Connection) -> int:
        """As Watcher.unsent."""

    def settle_when_sent(self, connection: Connection) -> None:
        """As Watcher.settle_when_sent."""

    def owed(self) -> int:
        """Bytes that the client has yet to take, wherever they wait."""

    def tell(self, event: events.Event) -> None:
        """Hand an event to the layers, soon."""

    def tick(self, now: float) -> None:
        """Tell the layers what time it is."""

    def stalled(self, now: float, longest_s: float) -> bool:
        """Whether the client has taken nothing for so long of what waits for it. An origin that does is given up here."""


class Watcher(Protocol):
    """The gate's side of one client connection, as seen from inside the engine."""

    @property
    def bounds(self) -> Bounds:
        """What is kept to on it."""

    @property
    def holds(self) -> bool:
        """Whether the gate does not read from the client now, because what it sends has nowhere to go."""

    def due(self, at: float) -> None:
        """Ask for a Tick at `at` (time.monotonic()), or soon after."""

    def backlog(self, queued: Callable[[Connection], int]) -> None:
        """`queued(c)` is how many bytes wait for the HTTP/2 peer of `c`; said by its HTTP layer."""

    def refuse(self, reason: Reason, detail: str = "") -> Refusal:
        """Record that the bytes at hand are refused before there is a request to decide about; what to answer."""

    def fault(self, code: str, message: str) -> Refusal:
        """What to answer instead of the engine's own error page; `code` is the name of the engine's ErrorCode."""

    def measure(self, pressure: Callable[[Connection], int]) -> None:
        """`pressure(c)` is how many bytes the engine keeps because of what was read from `c`; said by its HTTP layer."""

    def unsent(self, connection: Connection) -> int:
        """Bytes that were handed to a connection and not to the kernel yet."""

    def settle_when_sent(self, connection: Connection) -> None:
        """Say `Settle` when they have gone."""


def attach(connection: Connection, watcher: Watcher) -> None:
    """Hang `watcher` on a client connection; every layer above it finds it there."""
    connection.__dict__[_KEY] = watcher


def watcher_of(connection: Connection) -> Watcher | None:
    """The watcher of a client connection; None for one that the gate did not accept (the engine's own tests)."""
    watcher: Watcher | None = connection.__dict__.get(_KEY)
    return watcher
