"""What the gate knows about one client connection: its jail, its tunnel, its pins, and what is under way on it.

Lives here: state, and how it is told to the audit. May not live here: decisions about a request (addon.py), bytes.
It hangs on the engine's connection (engine/watcher.py), so every hook and layer finds it, and none can take it for another's.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from mitmproxy.connection import Client as EngineClient
from mitmproxy.connection import Connection

from outpass.gate import refusal
from outpass.gate.bounds import Bounds
from outpass.gate.budget import Meter
from outpass.gate.engine.watcher import Sockets, watcher_of
from outpass.gate.head import Flaw
from outpass.gate.jails import Jail
from outpass.gate.native import Native
from outpass.gate.pins import Pin, Pins
from outpass.gate.principal import Asker
from outpass.gate.recorder import Recorder
from outpass.model import Decision, EgressRequest
from outpass.passes.token import Pass
from outpass.reasons import Reason

DEFAULTS: Final = Bounds()


@dataclass(slots=True)
class Tunnel:
    """A CONNECT that was accepted; the destination that everything inside must name."""

    host: str
    port: int
    spawn: Pass | None
    """The pass that covers every request inside; else each needs its own."""
    denied: Decision | None
    """What policy said against the CONNECT itself; it is answered inside, to the requests that carry no pass."""
    sid: str | None
    flaw: Flaw | None = None
    """Why every request inside is refused: the TLS server name."""
    asker: Asker | None = None
    """Who is charged for a request that carries no pass of its own: the holder of the spawn pass, a program, or the chain
    that a synthetic address was given to. None: nobody is known."""
    opener: tuple[str, ...] = ()
    """The chain that asked for the tunnel, whoever is charged inside."""
    tls: bool = True
    """False: plain HTTP, which only the transparent listener carries without CONNECT."""
    answered: bool = False
    """Whether a request came and was decided; a denied CONNECT that never got that far is recorded when it closes."""


@dataclass(slots=True)
class Exchange:
    """One request that was allowed and is not over yet."""

    request: EgressRequest
    decision: Decision
    pin: Pin
    sid: str | None
    query: str | None
    answered: bool = False
    """Whether the head of the origin's answer went to the client."""
    moved: list[int] | None = None
    """A websocket's bytes out and in so far; it is recorded when it ends."""
    lost: Decision | None = None
    """Why a websocket was ended."""
    meter: Meter | None = None
    """What its bytes are limited by."""


class WayOut(Protocol):
    """How a client's connection leaves the engine, to be carried unseen."""

    def park(self) -> None:
        """Read nothing more from the client until `stay` or `leave`."""

    def stay(self) -> None:
        """It does not leave."""

    def leave(self) -> tuple[socket.socket, bytes] | None:
        """The connection, which the engine has done with, and what was read of it and not used; None: it has ended."""


@dataclass(eq=False, slots=True)
class Client:
    """One client connection; implements engine.watcher.Watcher."""

    jail: Jail
    source: str
    recorder: Recorder
    pins: Pins
    close: Callable[[], None]
    """Ends the connection, whatever is under way on it."""
    tunnel: Tunnel | None = None
    exchanges: dict[str, Exchange] = field(default_factory=dict)
    """By the engine's flow id."""
    pending: int = 0
    """Requests that are being decided or answered; with `exchanges`, what drain waits for."""
    fault_trace: str = ""
    """Id of the record of the fault that the engine is about to answer (its hook runs just before)."""
    retry_s: int | None = None
    """And after how many seconds it may ask again, where a limit was used up."""
    ends: tuple[tuple[str, int], tuple[str, int]] | None = None
    """(client, listener) of a TCP connection, as the jail's kernel numbers them."""
    native: Native | None = None
    """Which program this is, once the broker was asked."""
    transparent: bool = False
    """It came through the transparent listener: `tunnel` is set from the start, without a CONNECT."""
    way_out: WayOut | None = None
    pressure: Callable[[Connection], int] | None = None
    sockets: Sockets | None = None
    bounds: Bounds = DEFAULTS
    holds: bool = False
    """As Watcher.holds."""
    due_at: float | None = None
    """When a layer wants to know the time (time.monotonic())."""
    shaking_since: float | None = None
    """Since when the client's TLS handshake has been waited for."""
    queued: Callable[[Connection], int] | None = None
    """Bytes that wait for the window of an HTTP/2 peer."""
    late: set[tuple[str, int]] = field(default_factory=set)
    """Origins that did not finish their TLS handshake in time."""
    fault_reason: Reason | None = None
    """Of the fault that the engine is about to answer, where its message does not say."""

    @property
    def idle(self) -> bool:
        """Nothing is under way that would end by itself: a websocket is told instead that the gate leaves."""
        sockets = sum(exchange.moved is not None for exchange in self.exchanges.values())
        # An exchange is over when the origin has answered; an HTTP/2 client may have yet to open its window for the rest.
        return len(self.exchanges) == sockets == self.pending and not (self.sockets is not None and self.sockets.owed())

    @property
    def unseen(self) -> bool:
        """Never: what is carried unseen has left the engine."""
        return False

    def requests(self) -> tuple[EgressRequest, ...]:
        """What is under way, as it was decided."""
        return tuple(exchange.request for exchange in self.exchanges.values())

    def holders(self) -> tuple[str | None, ...]:
        """Sessions whose passes it lives by: that of its tunnel, and of each request."""
        return (self.tunnel.sid if self.tunnel else None, *(exchange.sid for exchange in self.exchanges.values()))

    def refuse(self, reason: Reason, detail: str = "") -> refusal.Refusal:
        """Record that the bytes at hand are refused before there is a request; what to answer."""
        trace = self.recorder.refusal(self.jail, reason, detail=detail, tunnel=self.tunnel_address)
        return refusal.of_reason(reason, detail, trace=trace)

    def fault(self, code: str, message: str) -> refusal.Refusal:
        """What to answer instead of the engine's own error page (the error hook has recorded it)."""
        reason, self.fault_reason = self.fault_reason or refusal.fault_reason(code, message), None
        trace, self.fault_trace = self.fault_trace, ""
        retry_s, self.retry_s = self.retry_s, None
        return refusal.of_reason(reason, refusal.fault_detail(reason, message), trace=trace, retry_s=retry_s)

    def measure(self, pressure: Callable[[Connection], int]) -> None:
        """As Watcher.measure: the innermost HTTP layer is the one that counts."""
        self.pressure = pressure

    def backlog(self, queued: Callable[[Connection], int]) -> None:
        """As Watcher.backlog."""
        self.queued = queued

    def due(self, at: float) -> None:
        """As Watcher.due."""
        if self.due_at is None or at < self.due_at:
            self.due_at = at

    def unsent(self, connection: Connection) -> int:
        """As Watcher.unsent."""
        return 0 if self.sockets is None else self.sockets.unsent(connection)

    def settle_when_sent(self, connection: Connection) -> None:
        """As Watcher.settle_when_sent."""
        if self.sockets is not None:
            self.sockets.settle_when_sent(connection)

    @property
    def tunnel_address(self) -> tuple[str, int] | None:
        """Host and port of the tunnel, where one is open."""
        return None if self.tunnel is None else (self.tunnel.host, self.tunnel.port)


def client_of(connection: EngineClient) -> Client:
    """The gate's side of an engine connection; a connection that no listener of ours accepted is a bug, and raises."""
    client = watcher_of(connection)
    if not isinstance(client, Client):
        raise LookupError("connection without a jail")
    return client
