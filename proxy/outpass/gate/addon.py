"""The hooks: where a connection, a tunnel, a handshake and a request are judged.

Lives here: which hook asks which question, and in which order. May not live here: the answers (policy/, passes/), bytes
(engine/, head.py, translate.py), what an answer looks like (refusal.py). Nothing in here may return an allow by default:
every path either registers an exchange that policy allowed, or sets an answer.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

from mitmproxy import connection, http, tls
from mitmproxy.net.tls import starts_like_tls_record
from mitmproxy.proxy import layer, layers
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers.http import HTTPMode
from mitmproxy.proxy.layers.modes import HttpProxy

from outpass.audit.record import Kind
from outpass.gate import asking, failing, head, native, principal, refusal, servername, translate
from outpass.gate.asking import Asking
from outpass.gate.budget import Budgets, OverLimit
from outpass.gate.client import Client, Exchange, client_of
from outpass.gate.closing import Closing
from outpass.gate.connect import Connecting
from outpass.gate.engine import stream
from outpass.gate.engine.hello import ClientTls
from outpass.gate.engine.pacing import HttpLayer
from outpass.gate.engine.stream import FAULT
from outpass.gate.engine.watcher import METER
from outpass.gate.handler import Hook
from outpass.gate.jails import Jail
from outpass.gate.naming import Answer, Naming, Query
from outpass.gate.opaque import Opener
from outpass.gate.pins import Pin, Unresolved
from outpass.gate.principal import Asker, Passes
from outpass.gate.questions import Questions
from outpass.gate.recorder import Recorder
from outpass.gate.sessions import Party
from outpass.gate.translate import Refused, Target
from outpass.gate.websockets import Websockets
from outpass.model import Decision, Verdict
from outpass.policy import explain
from outpass.reasons import ENTRIES, Reason

log = logging.getLogger("outpass.gate")


class Addon:
    """The gate's hooks, by the engine's names. They run inline; one that must wait for a resolver returns an awaitable."""

    def __init__(
        self,
        passes: Passes,
        recorder: Recorder,
        unavailable: Callable[[], Reason | None],
        questions: Questions,
        opener: Opener,
        budgets: Budgets,
    ) -> None:
        """`unavailable()` gives the reason for which nothing is decided now: draining, or an audit that fails."""
        self._questions = questions
        self._naming = Naming(recorder, questions, unavailable)
        self._asking = Asking(passes)
        self._connecting = Connecting(self._asking, opener, self._check_available, self._refuse, self._deny)
        self._recorder = recorder
        self._unavailable = unavailable
        self._sockets = Websockets(passes, recorder, self._over)
        self._budgets = budgets
        self.table: dict[str, Hook] = {
            "next_layer": self.next_layer,
            "http_connect": self.http_connect,
            "tls_clienthello": self.tls_clienthello,
            "requestheaders": self.requestheaders,
            "responseheaders": self.responseheaders,
            "response": self.response,
            "error": self.error,
            "websocket_start": self._sockets.begun,
            "websocket_end": self._sockets.ended,
            "client_disconnected": self.client_disconnected,
        }

    # --- protocols ---------------------------------------------------------------------------------------------------

    def next_layer(self, data: layer.NextLayer) -> None:
        """HTTP on the listener, TLS in a tunnel, HTTP in that TLS; nothing else, and nothing guessed."""
        context, received = data.context, data.data_client()  # type: ignore[no-untyped-call]
        client = client_of(context.client)
        if isinstance(context.layers[-1], HttpProxy):
            data.layer = HttpLayer(context, HTTPMode.regular)
        elif isinstance(context.layers[-1], layers.ClientTLSLayer):
            client.shaking_since = None
            data.layer = HttpLayer(context, HTTPMode.transparent)
        elif starts_like_tls_record(received):
            server_tls = layers.ServerTLSLayer(context)
            server_tls.child_layer = ClientTls(context)
            data.layer = server_tls
        elif client.transparent and received and head.may_be_request(received) is not False:
            if head.may_be_request(received) and client.tunnel is not None:
                client.tunnel.tls = False
                data.layer = HttpLayer(context, HTTPMode.transparent)
        elif received and (len(received) > 2 or not b"\x16\x03".startswith(received)):
            answer = client.refuse(
                Reason.UNSUPPORTED, "only TLS is carried in a CONNECT tunnel, and TLS or HTTP where HTTP rules apply"
            )
            data.layer = Closing(context, answer)

    def tls_clienthello(self, data: tls.ClientHelloData) -> None:
        """The server name must be the tunnel's host; if not, every request inside is told so."""
        client = client_of(data.context.client)
        tunnel = client.tunnel
        if tunnel is None:
            raise LookupError("TLS outside a tunnel")
        offered = [p for p in _PROTOCOLS if p in data.client_hello.alpn_protocols]
        # The choice is the server's (RFC 7301, 3.2). The engine takes the first offered, and httpx lists http/1.1 first; it
        # takes h3 too, and offers whatever the client offered to the origin, which may then choose to speak no HTTP at all.
        data.context.client.alpn = offered[0] if offered else b"http/1.1"
        data.context.client.alpn_offers = offered
        # Else the engine tells the origin the client's spelling of the name, and checks its certificate against that.
        data.context.server.sni = tunnel.host
        ech = any(kind == servername.ECH for kind, _ in data.client_hello.extensions)
        tunnel.flaw = servername.flaw(data.client_hello.sni, tunnel.host, ech=ech)
        if ech and tunnel.flaw is not None:
            client.refuse(*tunnel.flaw)  # a client of ECH ends the handshake by itself, and asks nothing that could be answered

    @staticmethod
    def certificate_name(context: Context) -> str:
        """The host to certify: what the client asked for, so that it can read why it is refused."""
        client = client_of(context.client)
        named = servername.canonical(context.client.sni or "")
        if named is not None:
            return named
        if client.tunnel is None:
            raise LookupError("TLS outside a tunnel")
        return client.tunnel.host

    @staticmethod
    def party(context: Context) -> Party:
        """Whose TLS sessions these are: of this jail, this process, this chain of packages."""
        client = client_of(context.client)
        tunnel = client.tunnel
        return (client.jail.id, None, ()) if tunnel is None else (client.jail.id, tunnel.sid, tunnel.opener)

    async def dns_request(self, jail: Jail, query: Query) -> Answer:
        """A look-up at the jail's nameserver: an address that stands for the name, or a refusal; never a resolver."""
        return await self._naming.answer(jail, query)

    # --- CONNECT -----------------------------------------------------------------------------------------------------

    def http_connect(self, flow: http.HTTPFlow) -> Awaitable[None] | None:
        """Open a tunnel for a good pass, or for a program or the unattributed where policy allows them the host."""
        client = client_of(flow.client_conn)
        if asking.needs_program(client, flow.request):
            return self._identified(client, lambda: self._connecting.decide(client, flow))
        return self._connecting.decide(client, flow)

    async def _identified(self, client: Client, then: Callable[[], Awaitable[None] | None]) -> None:
        """Ask which program `client` is, then go on."""
        client.native = await native.of_client(self._questions, client.jail, client.ends)
        waiting = then()
        if waiting is not None:
            await waiting

    # --- requests ----------------------------------------------------------------------------------------------------

    def requestheaders(self, flow: http.HTTPFlow) -> Awaitable[None] | None:
        """The point of authorisation for every request, of HTTP/1 and HTTP/2, in a tunnel or not."""
        client = client_of(flow.client_conn)
        client.pending += 1
        flow.metadata[_OPEN] = True
        if flow.error is not None:  # the engine refuses it by itself; the answer is ours (Watcher.fault)
            client.fault_trace = self._recorder.refusal(client.jail, Reason.BAD_REQUEST, tunnel=client.tunnel_address)
            return None
        if asking.needs_program(client, flow.request):
            return self._identified(client, lambda: self._request(client, flow))
        return self._request(client, flow)

    def _request(self, client: Client, flow: http.HTTPFlow) -> Awaitable[None] | None:
        try:
            self._check_available()
            fields = translate.index(flow.request)
            target, asker = self._asking.request(client, flow.request, fields)
            pin = client.pins.ready((target.host, target.port))
            if pin is None:
                early = self._decide(client, flow, target, asker, None)
                # Nothing is resolved for a request that is denied anyway: a look-up is a message to the outside.
                return self._resolve(client, flow, target, asker, fields) if early.allowed else None
            decision = self._decide(client, flow, target, asker, pin)
            if decision.allowed:
                self._send(client, flow, target, asker, fields, pin, decision)
        except Refused as refused:
            self._refuse(client, flow, refused)
        return None

    async def _resolve(
        self, client: Client, flow: http.HTTPFlow, target: Target, asker: Asker, fields: dict[bytes, bytes]
    ) -> None:
        try:
            pin = await client.pins.pin((target.host, target.port))
            if asker.sid in client.jail.revoked:
                raise Refused(Reason.PASS_SESSION_ENDED)
            decision = self._decide(client, flow, target, asker, pin)
            if decision.allowed:
                self._send(client, flow, target, asker, fields, pin, decision)
        except Unresolved:
            self._refuse(client, flow, Refused(Reason.RESOLVE_FAILED))
        except Refused as refused:
            self._refuse(client, flow, refused)

    def _decide(self, client: Client, flow: http.HTTPFlow, target: Target, asker: Asker, pin: Pin | None) -> Decision:
        """Ask policy, and answer a denial. The caller sends what is allowed."""
        tunnel = client.tunnel
        unattributed = asker is principal.UNATTRIBUTED
        decision = client.jail.decide(asking.question(client, asker, target, pin))
        if asker.deny is not None and decision.allowed:
            # The broker refused when it minted; a policy that was widened since then is for the next pass.
            decision = decision._replace(verdict=Verdict.DENY, reason=asker.deny, rule=None)
        if decision.allowed:
            return decision
        if unattributed and tunnel is None and decision.reason not in _ADDRESSES:
            raise Refused(Reason.PASS_MISSING, "the request carries no pass, and no rule lets unattributed code go there")
        if unattributed and tunnel is not None and tunnel.denied is not None:
            decision = tunnel.denied._replace(request=tunnel.denied.request._replace(method=target.method, path=target.path))
        sid = asker.sid or (tunnel.sid if tunnel is not None else None)
        note = "the HTTP stack attached no pass to this request" if unattributed else ""
        self._deny(client, flow, decision, sid, target.query, note)
        return decision

    def _send(
        self,
        client: Client,
        flow: http.HTTPFlow,
        target: Target,
        asker: Asker,
        fields: dict[bytes, bytes],
        pin: Pin,
        decision: Decision,
    ) -> None:
        """Let an allowed request go: seal it, register it, record it, stream it."""
        translate.seal(flow.request, target, fields)
        try:
            meter = self._budgets.admit(
                client.jail,
                decision,
                stream.request_bytes(flow.request),
                lambda would: self._recorder.told(client.jail, would, sid=asker.sid, query=target.query),
            )
        except OverLimit as over:
            self._deny(client, flow, over.decision, asker.sid, target.query, "", retry_s=over.retry_s)
            return
        pin.users += 1
        client.exchanges[flow.id] = Exchange(decision.request, decision, pin, asker.sid, target.query, meter=meter)
        if meter is not None:
            flow.metadata[METER] = meter
        if client.tunnel is not None:
            client.tunnel.answered = True
        self._recorder.decision(
            client.jail, decision, sid=asker.sid, query=target.query, dialled=pin.dialled, override=pin.override
        )
        flow.request.stream = True

    # --- responses ---------------------------------------------------------------------------------------------------

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        """Stream what the origin answers; leave a refusal of ours as it is."""
        exchange = client_of(flow.client_conn).exchanges.get(flow.id)
        if exchange is not None and flow.response is not None:
            exchange.answered = True
            translate.strip_response(flow.response)
            flow.response.stream = True

    def response(self, flow: http.HTTPFlow) -> None:
        """The exchange is over, unless it goes on as a websocket."""
        if flow.websocket is not None:
            return
        self._over(client_of(flow.client_conn), flow)

    def error(self, flow: http.HTTPFlow) -> None:
        """The exchange failed; a fault of the origin's side is recorded."""
        client = client_of(flow.client_conn)
        exchange = client.exchanges.get(flow.id)
        code = flow.metadata.get(FAULT)
        if exchange is not None and code is not None:
            late = (exchange.request.host, exchange.request.port) in client.late
            reason = refusal.fault_reason(code, flow.error.msg if flow.error is not None else "")
            reason = client.fault_reason = Reason.UPSTREAM_TIMEOUT if late and reason is Reason.UPSTREAM_TLS else reason
            over = None if exchange.meter is None else exchange.meter.over
            decision = exchange.decision._replace(verdict=Verdict.DENY, reason=reason) if over is None else over.decision
            client.retry_s = None if over is None else over.retry_s
            client.fault_trace = self._recorder.decision(
                client.jail,
                decision,
                sid=exchange.sid,
                query=exchange.query,
                status=None if exchange.answered else ENTRIES[reason].status,
                dialled=exchange.pin.dialled,
                override=exchange.pin.override,
                kind="fault" if over is None else "decision",
            )
        self._over(client, flow)

    def client_disconnected(self, connected: connection.Client) -> None:
        """A denied CONNECT through which nothing was asked is recorded now; else it would leave no trace."""
        client = client_of(connected)
        client.jail.clients.discard(client)
        self._sockets.forget(client)
        tunnel = client.tunnel
        if tunnel is not None and tunnel.denied is not None and not tunnel.answered:
            self._recorder.decision(client.jail, tunnel.denied, sid=tunnel.sid, query=None)

    # --- refusing ----------------------------------------------------------------------------------------------------

    def failed(self, name: str, data: Any, error: BaseException) -> bool:
        """A hook raised, or a layer (`layer`): refuse what it was about, with an id by which the log line is found."""
        trace = failing.note(self._recorder, name, data, error)
        if isinstance(data, http.HTTPFlow) and name in ("http_connect", "requestheaders"):
            self._answer(data, refusal.of_reason(Reason.INTERNAL, trace=trace))
            return True
        return False

    def _check_available(self) -> None:
        reason = self._unavailable()
        if reason is not None:
            raise Refused(reason)

    def _refuse(self, client: Client, flow: http.HTTPFlow, refused: Refused) -> None:
        """Answer something that policy was not asked about."""
        trace = self._recorder.refusal(
            client.jail,
            refused.reason,
            detail=refused.detail,
            status=refused.status,
            tunnel=client.tunnel_address or (flow.request.host, flow.request.port),
            method=flow.request.data.method.decode("latin-1"),
        )
        if client.tunnel is not None:
            client.tunnel.answered = True
        self._answer(flow, refusal.of_reason(refused.reason, refused.detail, status=refused.status, trace=trace))

    def _deny(
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
        """Answer what policy denied, with its explanation (and `note`), without dialling."""
        trace = self._recorder.next_id()
        problem = explain.explain(decision).as_problem()
        if note:
            problem["detail"] = f"{problem['detail']}; {note}"
        answer = refusal.of_problem(decision.reason, problem, trace=trace, status=_denied(decision), retry_s=retry_s)
        self._recorder.decision(
            client.jail,
            decision,
            sid=sid,
            query=query,
            status=answer.status,
            trace=trace,
            dialled=dialled,
            override=decision.request.connect_to,
            kind=kind,
        )
        if client.tunnel is not None:
            client.tunnel.answered = True
        self._answer(flow, answer)

    def _answer(self, flow: http.HTTPFlow, answer: refusal.Refusal) -> None:
        request = flow.request
        body = b"" if request.data.method == b"HEAD" else answer.body
        flow.response = http.Response(b"HTTP/1.1", answer.status, b"", http.Headers(answer.headers), body, None, 0.0, 0.0)
        flow.response.reason = refusal.phrase(answer.status)
        request.stream = False

    def _over(self, client: Client, flow: http.HTTPFlow) -> None:
        exchange = client.exchanges.pop(flow.id, None)
        if exchange is not None:
            exchange.pin.users -= 1
        if flow.metadata.pop(_OPEN, False):
            client.pending -= 1


_OPEN: Final = "outpass"
_ADDRESSES: Final = frozenset(r for r in Reason if r.name.startswith("ADDRESS_"))
"""Refused for where the name leads: a rule allows the name itself, so a pass is not what is missing."""
_PROTOCOLS: Final = (b"h2", b"http/1.1")
"""The ALPN protocols that the gate speaks, the preferred first."""


def _denied(decision: Decision) -> int:
    """A denial of policy inside a tunnel is 403, also for a reason that is 407 elsewhere."""
    status = ENTRIES[decision.reason].status
    return 403 if status == 407 else status
