"""CONNECT: whether its tunnel is looked into or carried unseen, and the way out of the engine for one that is carried.

Lives here: that choice, and the hand-over of the client's connection. May not live here: rights (policy/), dialling and
accounting (opaque.py), what a refusal looks like (addon.py).
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from mitmproxy import http

from outpass.audit.record import Kind
from outpass.gate import asking, principal, screen
from outpass.gate.asking import Asking
from outpass.gate.client import Client, Tunnel
from outpass.gate.opaque import NotOpened, Opener, Wish, failed
from outpass.gate.principal import Asker
from outpass.gate.translate import Refused
from outpass.model import Capability, Decision, EgressRequest
from outpass.passes.token import Pass
from outpass.policy import ways
from outpass.reasons import Reason

ESTABLISHED: Final = b"HTTP/1.1 200 Connection established\r\n\r\n"


class Deny(Protocol):
    """Answers and records a denial (Addon)."""

    def __call__(
        self,
        client: Client,
        flow: http.HTTPFlow,
        decision: Decision,
        sid: str | None,
        query: str | None,
        note: str,
        kind: Kind = "decision",
        dialled: str | None = None,
        retry_s: int | None = None,
    ) -> None:
        """`kind` and `dialled` as in the record; `retry_s` whole seconds after which it may be asked again."""


class Connecting:
    """Decides CONNECTs. One per gate."""

    def __init__(
        self,
        reading: Asking,
        opener: Opener,
        check_available: Callable[[], None],
        refuse: Callable[[Client, http.HTTPFlow, Refused], None],
        deny: Deny,
    ) -> None:
        """`check_available` raises Refused while nothing is decided."""
        self._reading = reading
        self._opener = opener
        self._check_available = check_available
        self._refuse = refuse
        self._deny = deny

    def decide(self, client: Client, flow: http.HTTPFlow) -> Awaitable[None] | None:
        """Answer a CONNECT, open its tunnel, or return what carries it away."""
        try:
            self._check_available()
            if client.tunnel is not None:
                raise Refused(Reason.UNSUPPORTED, "CONNECT inside a tunnel is not supported")
            host, port, p = self._reading.connect(client, flow.request)
            way = judge(client, host, port, p)
            if not isinstance(way, Tunnel):
                return self._carry(client, flow, way)
            # The engine takes the tunnel's destination from here; it must be the one that was judged.
            flow.request.data.host, flow.request.data.port = host, port
            client.tunnel, client.shaking_since = way, time.monotonic()
        except Refused as refused:
            self._refuse(client, flow, refused)
        except NotOpened as no:
            self._deny(client, flow, no.decision, no.sid, None, "", retry_s=no.retry_s)
        return None

    async def _carry(self, client: Client, flow: http.HTTPFlow, wish: Wish) -> None:
        try:
            await open_unseen(self._opener, client, wish)
        except NotOpened as no:
            self._deny(client, flow, no.decision, wish.sid, None, "", no.kind, no.dialled, no.retry_s)


def judge(client: Client, host: str, port: int, p: Pass | None) -> Tunnel | Wish:
    """What a CONNECT with this pass becomes. Raises Refused, or NotOpened for a denial that has an explanation.

    A shim was told with its pass whether it may put passes inside, so its tunnel is what it was told or none at all: inside an
    opaque one they would go to the origin.
    """
    asker = asking.bare(client) if p is None else asking.by_pass(client, p)
    if asker.capability == Capability.SOCKET.value:
        return _raw(client, asker, host, port)
    decision = client.jail.decide(asking.host_question(client, asker, host, port))
    told = p.tunnel if p is not None and p.use != "spawn" else None
    if told is None and ways.raw_wins(decision, raw := _socket(client, asker, host, port)):
        return Wish(client.jail, raw.request, asker.sid, screen.of_raw(host))
    if asker is principal.UNATTRIBUTED and not decision.allowed:
        raise Refused(Reason.PASS_MISSING, "the CONNECT carries no pass, and no rule lets unattributed code go there")
    opaque = decision.allowed and not decision.intercept and asker.deny is None
    if told is not None and opaque != (told == "opaque") and asker.deny is None:
        raise Refused(Reason.PASS_WRONG_USE, "the policy has changed since the pass was issued; ask for a new one")
    if opaque:
        return Wish(client.jail, decision.request, asker.sid, screen.of_tls(host))
    spawn = p if p is not None and p.use == "spawn" else None
    charged = asker if p is None or p.use != "connect" else None
    return Tunnel(host, port, spawn, None if decision.allowed else decision, asker.sid, asker=charged, opener=asker.chain)


def _socket(client: Client, asker: Asker, host: str, port: int) -> Decision:
    capability = Capability.SOCKET.value
    return client.jail.decide(EgressRequest(capability, asker.chain, asker.versions, "tcp", host, port, tier=client.jail.tier))


def _raw(client: Client, asker: Asker, host: str, port: int) -> Wish:
    decision = _socket(client, asker, host, port)
    if asker.deny is not None and decision.allowed:
        decision = failed(decision, asker.deny)
    if not decision.allowed:
        raise NotOpened(decision, sid=asker.sid)
    return Wish(client.jail, decision.request, asker.sid, screen.of_raw(host))


async def open_unseen(opener: Opener, client: Client, wish: Wish) -> None:
    """Dial, take the client's connection out of the engine, say 200, relay. Raises NotOpened while nothing has been said."""
    way_out = client.way_out
    assert way_out is not None
    client.pending += 1
    way_out.park()
    try:
        dialled = await opener.dial(wish)
    except BaseException:
        way_out.stay()
        raise
    finally:
        client.pending -= 1
    left = way_out.leave()
    if left is None:
        opener.drop(wish, dialled)
        return
    sock, first = left
    try:
        sock.send(ESTABLISHED)  # the first bytes on an empty connection
    except OSError:
        sock.close()
        opener.drop(wish, dialled)
        return
    opener.carry(wish, dialled, sock, first)
