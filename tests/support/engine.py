"""The engine's HTTP layer without sockets, with its own classes or with ours: bytes in, bytes out.

Lives here: the driver by which tests show that the stock class has a defect and ours has not. May not live here: expectations.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import h2.config
import h2.connection
import h2.events
from mitmproxy import http, options
from mitmproxy.addonmanager import Loader
from mitmproxy.addons import proxyserver, tlsconfig
from mitmproxy.connection import Client, Connection, ConnectionState
from mitmproxy.proxy import commands, events, mode_specs
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers import http as layers_http
from mitmproxy.proxy.layers.http import HTTPMode

from outpass.gate.engine import chunks
from outpass.gate.engine.install import REPLACEMENTS
from outpass.gate.engine.watcher import Watcher, attach

Hook = Callable[[str, Any], None]


@contextmanager
def engine(kind: str) -> Iterator[None]:
    """Within it the engine's names stand for the `stock` classes or for `ours`, whatever was installed before."""
    before = [(r.module, r.name, getattr(r.module, r.name)) for r in REPLACEMENTS]
    for module, name, ours in REPLACEMENTS:
        stock = (
            chunks.stock_body_reader
            if name == "make_body_reader"
            else next(c for c in ours.__mro__ if c.__module__.startswith("mitmproxy.") and c.__name__ == name)
        )
        setattr(module, name, ours if kind == "ours" else stock)
    try:
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


def _options() -> options.Options:
    made = options.Options()
    holder = type("Holder", (), {"options": made})()
    for addon in (proxyserver.Proxyserver(), tlsconfig.TlsConfig()):
        addon.load(Loader(holder))
    made.update(connection_strategy="lazy", rawtcp=False, http2_ping_keepalive=0)
    return made


class Drive:
    """One client connection inside a tunnel to api.test; every origin connection opens at once."""

    def __init__(
        self,
        hook: Hook | None = None,
        *,
        alpn: bytes = b"http/1.1",
        origin_alpn: bytes = b"http/1.1",
        watcher: Watcher | None = None,
    ) -> None:
        self.client = Client(
            peername=("127.0.0.1", 1),
            sockname=("127.0.0.1", 2),
            timestamp_start=0,
            state=ConnectionState.OPEN,
            proxy_mode=mode_specs.ProxyMode.parse("regular"),
        )
        self.client.tls = True
        self.client.alpn = alpn
        if watcher is not None:
            attach(self.client, watcher)
        context = Context(self.client, _options())
        context.server.address = ("api.test", 443)
        self.layer = layers_http.HttpLayer(context, HTTPMode.transparent)
        self.hook = hook or (lambda name, data: None)
        self.origin_alpn = origin_alpn
        self.sent: dict[Connection, bytearray] = defaultdict(bytearray)
        self.origins: list[Connection] = []
        self.closed: set[Connection] = set()
        self.wakeups = 0
        self.event(events.Start())

    @property
    def to_client(self) -> bytes:
        """What the client would have got."""
        return bytes(self.sent[self.client])

    @property
    def to_origin(self) -> bytes:
        """What the origins would have got, over all connections."""
        return b"".join(bytes(self.sent[o]) for o in self.origins)

    def from_client(self, data: bytes) -> None:
        """Bytes from the client."""
        self.event(events.DataReceived(self.client, data))

    def from_origin(self, data: bytes, number: int = -1) -> None:
        """Bytes from an origin connection (default: the last)."""
        self.event(events.DataReceived(self.origins[number], data))

    def event(self, event: events.Event) -> None:
        """One event, and whatever follows from it."""
        queue: list[events.Event] = [event]
        while queue:
            for command in self.layer.handle_event(queue.pop(0)):
                if isinstance(command, commands.SendData):
                    self.sent[command.connection] += command.data
                elif isinstance(command, commands.StartHook):
                    self.hook(command.name, command.args()[0])
                    queue.append(events.HookCompleted(command))
                elif isinstance(command, commands.OpenConnection):
                    command.connection.state = ConnectionState.OPEN
                    command.connection.alpn = self.origin_alpn
                    self.origins.append(command.connection)
                    queue.append(events.OpenConnectionCompleted(command, None))
                elif isinstance(command, commands.CloseConnection):
                    self.closed.add(command.connection)
                elif isinstance(command, commands.RequestWakeup):
                    self.wakeups += 1


def stream(name: str, data: Any) -> None:
    """A hook: bodies go through as they come."""
    if name == "requestheaders":
        data.request.stream = True
    if name == "responseheaders":
        data.response.stream = True


def deny(name: str, data: Any) -> None:
    """A hook: 403 at the head."""
    if name == "requestheaders":
        data.response = http.Response.make(403, b"no")


def h2_client() -> h2.connection.H2Connection:
    """A client that sends whatever it is told to."""
    config = h2.config.H2Configuration(
        client_side=True,
        header_encoding="latin-1",
        validate_outbound_headers=False,
        normalize_outbound_headers=False,
        validate_inbound_headers=False,
    )
    client = h2.connection.H2Connection(config)
    client.initiate_connection()
    return client


def h2_head(**changes: str) -> list[tuple[str, str]]:
    """The pseudo-fields of a request."""
    fields = {"method": "GET", "scheme": "https", "authority": "api.test", "path": "/a", **changes}
    return [(f":{name}", value) for name, value in fields.items()]


def statuses(client: h2.connection.H2Connection, data: bytes) -> list[int]:
    """Of the answers in `data`."""
    found = client.receive_data(data)
    return [int(dict(e.headers)[":status"]) for e in found if isinstance(e, h2.events.ResponseReceived)]


def origin_end(drive: Drive) -> h2.connection.H2Connection:
    """The origin's end of the last connection, which has read what was sent so far."""
    config = h2.config.H2Configuration(client_side=False, header_encoding="latin-1", validate_inbound_headers=False)
    origin = h2.connection.H2Connection(config)
    origin.initiate_connection()
    origin.receive_data(drive.to_origin)
    return origin
