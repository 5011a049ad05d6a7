"""Raw TCP: a connection to any address, as the jail's kernel hands it to the transparent listener, or to a forwarded port.

Lives here: which name and which asker a connection has, the decision, and what becomes of it: HTTP for the engine, an opaque
tunnel, or a reset. May not live here: dialling (opaque.py), moving bytes (relay.py), rights (policy/), HTTP (addon.py).

The original destination is the accepted socket's own address. A synthetic one stands for a name, and for a chain where the
shim asked for it; any other address is a literal. What may be HTTP goes the way of HTTP, where every request is decided.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Container
from typing import Final, NamedTuple

from outpass.audit.record import Kind
from outpass.gate import book, native, screen
from outpass.gate.descriptors import of_reserve
from outpass.gate.jails import Jail
from outpass.gate.opaque import NotOpened, Opener, Wish
from outpass.gate.principal import Asker
from outpass.gate.questions import Questions
from outpass.gate.recorder import Recorder
from outpass.gate.relay import reset
from outpass.model import Capability, Decision, EgressRequest
from outpass.policy import addresses, names, ways
from outpass.reasons import Reason

_DNS_PORT: Final = 53


class Arrival(NamedTuple):
    """A connection with its destination and its asker."""

    source: str
    host: str
    port: int
    asker: Asker
    sid: str | None
    """The session that is known of, even where the asker is not."""


class Doorman:
    """Decides raw connections. One per gate; everything on the event loop."""

    def __init__(
        self,
        questions: Questions,
        recorder: Recorder,
        opener: Opener,
        unavailable: Callable[[], Reason | None],
        ended: Container[str],
        serve_http: Callable[[Jail, Arrival, socket.socket], None],
    ) -> None:
        """`serve_http` takes the socket; `ended` holds the sessions that are over."""
        self._questions = questions
        self._recorder = recorder
        self._opener = opener
        self._unavailable = unavailable
        self._ended = ended
        self._serve_http = serve_http
        self._tasks: set[asyncio.Task[None]] = set()

    def accepted(self, jail: Jail, sock: socket.socket, to: tuple[str, int] | None = None) -> None:
        """Take one connection; `to` is its destination where the listener has a fixed one (a forwarded port)."""
        if jail.removed or of_reserve(sock.fileno()):
            reset(sock)
            sock.close()
            return
        jail.undecided += 1
        task = asyncio.get_running_loop().create_task(self._judge(jail, sock, to))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _judge(self, jail: Jail, sock: socket.socket, to: tuple[str, int] | None) -> None:
        taken = False
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            taken = await self._decide(jail, sock, to)
        except OSError:
            pass  # the client has gone already
        except Exception as error:
            self._recorder.refusal(jail, Reason.INTERNAL, detail=type(error).__name__, capability=Capability.SOCKET)
            raise
        finally:
            jail.undecided -= 1
            if not taken:
                reset(sock)
                sock.close()

    async def _decide(self, jail: Jail, sock: socket.socket, to: tuple[str, int] | None) -> bool:
        """Whether the socket was given to somebody; False: it is to be reset, and why was recorded."""
        if (reason := self._unavailable()) is not None:
            self._refuse(jail, reason, to)
            return False
        arrival = await self._arrival(jail, sock, to)
        if arrival is None:
            return False
        tls, plain = (self._ask(jail, arrival, Capability.HTTP, scheme) for scheme in ("https", "http"))
        raw = self._ask(jail, arrival, Capability.SOCKET, "tcp")
        sid, way = arrival.sid, ways.of_connection(tls, plain, raw, arrival.port)
        if way is ways.Way.TLS:
            return await self._open(Wish(jail, tls.request, sid, screen.of_tls(arrival.host)), sock)
        if way is ways.Way.HTTP:
            self._serve_http(jail, arrival, sock)
            return True
        if not raw.allowed:
            self._deny(jail, sid, self._worded(jail, arrival, raw))
            return False
        return await self._open(Wish(jail, raw.request, sid, screen.of_raw(arrival.host)), sock)

    async def _arrival(self, jail: Jail, sock: socket.socket, to: tuple[str, int] | None) -> Arrival | None:
        """Whose connection it is, and where to; None when that was refused."""
        client, server = _ends(sock)
        source = names.format_authority(*client)
        if to is not None:
            return _arrival(source, *to, await native.who(self._questions, jail, client, server))
        host, port = server
        if not book.synthetic(host):
            return _arrival(source, host, port, await native.who(self._questions, jail, client, server))
        line = jail.book.line(host)
        if line is None:
            self._refuse(jail, Reason.ADDRESS_UNKNOWN, server)
            return None
        if jail.book.touch(host, asyncio.get_running_loop().time()):
            self._questions.tell({"op": "used", "jail": jail.id, "address": host})
        if line.sid in self._ended:
            self._refuse(jail, Reason.PASS_SESSION_ENDED, (line.name, port), line.sid)
            return None
        found = await native.who(self._questions, jail, client, server, line.sid)
        # Another process that connects to a session's address gets no further by that: it is whoever it is.
        if line.sid is None or not found.own:
            return _arrival(source, line.name, port, found)
        asker = Asker(line.chain, line.versions, Capability.HTTP.value, line.sid, None)
        return Arrival(source, line.name, port, asker, line.sid)

    def _ask(self, jail: Jail, arrival: Arrival, capability: Capability, scheme: str) -> Decision:
        asker = arrival.asker
        return jail.decide(
            EgressRequest(
                capability.value,
                asker.chain,
                asker.versions,
                scheme,
                arrival.host,
                arrival.port,
                tier=jail.tier,
            )
        )

    def _worded(self, jail: Jail, arrival: Arrival, denied: Decision) -> Decision:
        """The denial that helps: whoever goes to a web port wants a line for HTTP."""
        scheme = {port: scheme for scheme, port in names.DEFAULT_PORTS.items()}.get(arrival.port)
        return denied if scheme is None else self._ask(jail, arrival, Capability.HTTP, scheme)

    # --- opaque ------------------------------------------------------------------------------------------------------

    async def _open(self, wish: Wish, sock: socket.socket) -> bool:
        """Dial and relay; False when that was refused, and recorded."""
        try:
            dialled = await self._opener.dial(wish)
        except NotOpened as no:
            self._deny(wish.jail, wish.sid, no.decision, no.kind, no.dialled)
            return False
        self._opener.carry(wish, dialled, sock)
        return True

    # --- saying no ---------------------------------------------------------------------------------------------------

    def _refuse(self, jail: Jail, reason: Reason, where: tuple[str, int] | None, sid: str | None = None) -> None:
        self._recorder.refusal(jail, reason, tunnel=where, sid=sid, capability=Capability.SOCKET)

    def _deny(self, jail: Jail, sid: str | None, decision: Decision, kind: Kind = "decision", dialled: str | None = None) -> None:
        override = decision.request.connect_to
        self._recorder.decision(jail, decision, sid=sid, query=None, dialled=dialled, override=override, kind=kind)


def _arrival(source: str, host: str, port: int, found: native.Native) -> Arrival:
    return Arrival(source, host, port, found.asker, found.asker.sid or found.sid)


def asks_nameserver(sock: socket.socket) -> bool:
    """Whether a connection that was just accepted goes to port 53 of an address that stands for no name."""
    host, port = sock.getsockname()[:2]
    return port == _DNS_PORT and not book.synthetic(_plain(host))


def _ends(sock: socket.socket) -> tuple[tuple[str, int], tuple[str, int]]:
    """The client's and the destination's address, IPv4 in an IPv6 socket as IPv4."""
    client, server = sock.getpeername(), sock.getsockname()
    return (_plain(client[0]), client[1]), (_plain(server[0]), server[1])


def _plain(address: str) -> str:
    return addresses.canonical(address.partition("%")[0])
