"""A tunnel that is carried unseen, from the decision to the last byte: resolve, decide the addresses, dial, relay, account.

Lives here: those steps, the same for CONNECT and for the transparent listener, and the tunnel as its jail keeps it. May not
live here: moving bytes (relay.py), who asks (asking.py, transparent.py), what a refusal looks like there.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Final, NamedTuple

from outpass.audit.record import Kind
from outpass.gate.budget import Budgets, Meter, OverLimit
from outpass.gate.dialling import dial, reason_of
from outpass.gate.jails import Jail
from outpass.gate.pins import Overrides, Pin, Pins, Unresolved, Via, resolve
from outpass.gate.recorder import Recorder
from outpass.gate.relay import End, Relay, Tunnel
from outpass.gate.screen import Screen
from outpass.model import Decision, EgressRequest, Verdict
from outpass.reasons import Reason

MAX_TUNNELS: Final = 10_000
"""Opaque tunnels of one jail."""


class Wish(NamedTuple):
    """A connection that policy would let through unseen, before its addresses are known."""

    jail: Jail
    request: EgressRequest
    sid: str | None
    screen: Screen | None


class Dialled(NamedTuple):
    """A connection to an origin, allowed and recorded."""

    origin: socket.socket
    decision: Decision
    pin: Pin
    meter: Meter | None


class NotOpened(Exception):
    """No tunnel: `decision` says why, and nobody has recorded it yet."""

    def __init__(
        self,
        decision: Decision,
        kind: Kind = "decision",
        pin: Pin | None = None,
        sid: str | None = None,
        retry_s: int | None = None,
    ) -> None:
        super().__init__(decision.reason)
        self.decision = decision
        self.kind: Kind = kind
        self.sid = sid
        self.retry_s = retry_s
        self.dialled = None if pin is None else pin.dialled


class Opaque:
    """One opaque tunnel, as the jail keeps it among its clients."""

    def __init__(self, request: EgressRequest, sid: str | None, cut: Callable[[Reason | None], None]) -> None:
        self._request = request
        self._sid = sid
        self._cut = cut

    @property
    def idle(self) -> bool:
        """Never: closing it loses whatever its two sides were about to say."""
        return False

    @property
    def unseen(self) -> bool:
        """Always."""
        return True

    def requests(self) -> tuple[EgressRequest, ...]:
        """What a new policy is asked about."""
        return (self._request,)

    def holders(self) -> tuple[str | None]:
        """The session that opened it."""
        return (self._sid,)

    def close(self) -> None:
        """Cut it."""
        self._cut(None)


class Opener:
    """Opens opaque tunnels. One per gate; everything on the event loop."""

    def __init__(self, recorder: Recorder, overrides: Overrides, budgets: Budgets, via: Via | None = None) -> None:
        self._recorder = recorder
        self._via = via
        self._overrides = overrides
        self._budgets = budgets
        self._relay = Relay()

    async def dial(self, wish: Wish) -> Dialled:
        """Resolve, decide the addresses, record the permission, connect. Raises NotOpened."""
        jail, asked = wish.jail, wish.request
        try:
            pins = Pins(self._overrides, resolve, asyncio.get_running_loop().time, self._via)
            pin = await pins.pin((asked.host, asked.port))
        except Unresolved:
            raise NotOpened(failed(jail.decide(asked), Reason.RESOLVE_FAILED), "fault") from None
        asked = asked._replace(addresses=pin.decided, connect_to=pin.override)
        decision = _unseen(jail, asked)
        if jail.tunnels >= MAX_TUNNELS:  # and each has two descriptors
            raise NotOpened(failed(decision, Reason.UPSTREAM_UNREACHABLE), "fault")
        meter = self._admit(wish, decision)
        self._recorder.decision(jail, decision, sid=wish.sid, query=None, dialled=pin.dialled, override=pin.override)
        jail.tunnels += 1
        try:
            origin = await dial(pin, asked.host)
        except BaseException as error:
            jail.tunnels -= 1
            if not isinstance(error, Exception):
                raise
            reason = reason_of(error) if isinstance(error, OSError) else Reason.INTERNAL
            raise NotOpened(failed(decision, reason), "fault", pin) from None
        try:
            if jail.removed:
                raise NotOpened(failed(decision, Reason.DRAINING))
            if wish.sid in jail.revoked:
                raise NotOpened(failed(decision, Reason.PASS_SESSION_ENDED))
            _unseen(jail, asked)  # a reload while it was dialled
        except NotOpened:
            jail.tunnels -= 1
            origin.close()
            raise
        return Dialled(origin, decision, pin, meter)

    def _admit(self, wish: Wish, decision: Decision) -> Meter | None:
        """Count it against the limits of the policy. Raises NotOpened."""
        loop, note = asyncio.get_running_loop(), self._recorder.told

        def would(noted: Decision) -> None:  # the relay's thread may say so
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(lambda: note(wish.jail, noted, sid=wish.sid, query=None))

        try:
            return self._budgets.admit(wish.jail, decision, 0, would)
        except OverLimit as over:
            raise NotOpened(over.decision, sid=wish.sid, retry_s=over.retry_s) from None

    def drop(self, wish: Wish, dialled: Dialled) -> None:
        """Give up what was dialled: the client has gone meanwhile."""
        dialled.origin.close()
        self._over(wish, dialled, End(0, 0, None))

    def carry(self, wish: Wish, dialled: Dialled, client: socket.socket, first: bytes = b"") -> None:
        """Relay between the client and the origin, both owned by the relay from here on; `first` was read already."""
        loop = asyncio.get_running_loop()
        tunnel: Tunnel

        def over(end: End) -> None:
            wish.jail.clients.discard(kept)
            self._over(wish, dialled, end)

        def from_relay(end: End) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the process is ending
                loop.call_soon_threadsafe(over, end)

        for sock in (client, dialled.origin):
            _keep_alive(sock)
        kept = Opaque(dialled.decision.request, wish.sid, lambda reason: self._relay.close(tunnel, reason))
        wish.jail.clients.add(kept)
        tunnel = self._relay.add(client, dialled.origin, from_relay, wish.screen, first, dialled.meter)

    def _over(self, wish: Wish, dialled: Dialled, end: End) -> None:
        wish.jail.tunnels -= 1
        over = None if dialled.meter is None else dialled.meter.over
        ended = dialled.decision if end.reason is None else failed(dialled.decision, end.reason)
        self._recorder.decision(
            wish.jail,
            over.decision if over is not None and over.decision.reason is end.reason else ended,
            sid=wish.sid,
            query=None,
            dialled=dialled.pin.dialled,
            override=dialled.pin.override,
            kind="close" if end.reason is None else "decision",
            moved=(end.bytes_out, end.bytes_in),
        )


def _unseen(jail: Jail, asked: EgressRequest) -> Decision:
    """The permission to carry it unseen, by the policy in force now. Raises NotOpened."""
    decision = jail.decide(asked)
    if not decision.allowed:
        raise NotOpened(decision)
    if asked.scheme != "tcp" and decision.intercept:
        # The policy has changed since it was asked first; whoever comes again is looked into.
        raise NotOpened(failed(decision, Reason.PASS_WRONG_USE))
    return decision


def failed(decision: Decision, reason: Reason) -> Decision:
    """The decision as it stands after something else went wrong."""
    return decision._replace(verdict=Verdict.DENY, reason=reason)


def _keep_alive(sock: socket.socket) -> None:
    """A tunnel may be silent for days, but a peer that is gone must not keep it: asked after five minutes, gone after ten."""
    if sock.family == socket.AF_UNIX:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 300)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 60)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 5)
