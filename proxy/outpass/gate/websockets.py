"""The right of an open websocket, asked anew for every frame, and its record when it ends.

Lives here: what reload, expiry and the end of a session mean for a websocket, and the bytes that it moved. May not live here:
frames (engine/websocket.py), the decision at the handshake, which is that of any request (addon.py).
"""

from __future__ import annotations

from collections.abc import Callable

from mitmproxy import http

from outpass.errors import PassError
from outpass.gate.client import Client, Exchange, client_of
from outpass.gate.engine.watcher import Sockets
from outpass.gate.engine.websocket import MOVED, RIGHT, Farewell
from outpass.gate.principal import Passes
from outpass.gate.recorder import Recorder
from outpass.model import Verdict


class Leaving:
    """Ends a client connection: first with a word, and if that was not enough without."""

    def __init__(self, cut: Callable[[], None], sockets: Sockets) -> None:
        self._cut = cut
        self._sockets = sockets
        self._told = False

    def __call__(self) -> None:
        if self._told:
            self._cut()
        self._told = True
        self._sockets.tell(Farewell())


class Websockets:
    """The hooks of open websockets. One per gate."""

    def __init__(self, passes: Passes, recorder: Recorder, over: Callable[[Client, http.HTTPFlow], None]) -> None:
        """`over` forgets an exchange."""
        self._passes = passes
        self._recorder = recorder
        self._over = over

    def begun(self, flow: http.HTTPFlow) -> None:
        """The handshake is done; from now on closing the connection says why, in a frame."""
        client = client_of(flow.client_conn)
        exchange = client.exchanges[flow.id]
        exchange.moved = flow.metadata[MOVED]
        flow.metadata[RIGHT] = lambda: self._holds(client, exchange)
        sockets = client.sockets
        if sockets is not None:
            client.close = Leaving(client.close, sockets)

    def ended(self, flow: http.HTTPFlow) -> None:
        """It is over, in whatever way."""
        client = client_of(flow.client_conn)
        exchange = client.exchanges.get(flow.id)
        if exchange is not None:
            self._record(client, exchange)
        self._over(client, flow)

    def forget(self, client: Client) -> None:
        """The client is gone, and with it all that was under way."""
        for exchange in client.exchanges.values():
            self._record(client, exchange)
            exchange.pin.users -= 1
        client.exchanges.clear()

    def _holds(self, client: Client, exchange: Exchange) -> bool:
        """Whether the next frame may pass: under the policy in force now, at this time, while the session lives."""
        decision = client.jail.decide(exchange.request)
        try:
            self._passes.check_session(exchange.sid)
        except PassError as error:
            decision = decision._replace(verdict=Verdict.DENY, reason=error.reason, rule=None)
        if not decision.allowed:
            exchange.lost = decision
        return decision.allowed

    def _record(self, client: Client, exchange: Exchange) -> None:
        if exchange.moved is None:
            return
        if exchange.meter is not None and exchange.meter.over is not None:
            exchange.lost = exchange.meter.over.decision
        self._recorder.decision(
            client.jail,
            exchange.lost or exchange.decision,
            sid=exchange.sid,
            query=exchange.query,
            dialled=exchange.pin.dialled,
            override=exchange.pin.override,
            kind="close" if exchange.lost is None else "decision",
            moved=(exchange.moved[0], exchange.moved[1]),
        )
        exchange.moved = None
