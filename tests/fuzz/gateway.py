"""One client connection through the gate's own hooks and the engine's layers, without a socket; and who judges what came out.

Lives here: the gate's half, and the origins' half as two independent HTTP/1 parsers and an HTTP/2 one. May not live here: inputs.

Invariant: what an origin reads on its connections is what was allowed, request for request (method, path, host), whichever
parser reads it; none of it carries a pass.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h11
import httptools
from mitmproxy.proxy import events

from outpass.gate.addon import Addon
from outpass.gate.budget import Budgets
from outpass.gate.client import Client, Tunnel
from outpass.gate.engine import h1 as engine_h1
from outpass.gate.engine.install import install
from outpass.gate.jails import Jail
from outpass.gate.pins import Pins
from outpass.gate.principal import Passes
from outpass.gate.recorder import Recorder
from outpass.model import Decision, EgressRequest, Tier
from outpass.passes import quota
from outpass.passes.ledger import SIZE_BYTES, Ledger
from outpass.policy import decide
from tests.support.engine import Drive
from tests.support.gate import policy_of

POLICY: Final = """
version: 1
packages:
  unattributed:
    allow: [network:http]
    http: ["https://api.test/v1/**"]
    deny: {http: ["https://api.test/v1/secret/**"]}
"""
_COMPILED: Final = decide.compile(policy_of(POLICY))
OK: Final = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
TURNS: Final = 24


class Seen(NamedTuple):
    """A request as an origin's parser read it; the path without query."""

    method: str
    path: str
    host: str


class Through:
    """`Through(alpn, origin_alpn)`: feed it with `client(bytes)`, let the origins answer with `turn()`, then `judge()`."""

    def __init__(self, alpn: bytes, origin_alpn: bytes, answer: bytes = OK) -> None:
        install()
        assert engine_h1.is_origin_form
        self.records: list[Mapping[str, Any]] = []
        self._answer, self._h2_origin = answer, origin_alpn == b"h2"
        self._answered: Counter[int] = Counter()
        self._origins: dict[int, h2.connection.H2Connection] = {}
        self._h2_seen: list[Seen] = []
        jail = Jail("j-fuzz", Tier.ATTRIBUTED.value, "no-jail", _decide)
        recorder = Recorder(self, lambda: 0.0)
        passes = Passes({"k": b"k" * 32}, Ledger(memoryview(bytearray(SIZE_BYTES))), frozenset(), lambda: 0.0, "fuzz")
        budgets = Budgets(quota.Quota(memoryview(bytearray(quota.SIZE_BYTES))), lambda: 0)
        addon = Addon(passes, recorder, lambda: None, None, None, budgets)  # type: ignore[arg-type]  # nobody asks the broker
        pins = Pins({("api.test", 443): ("127.0.0.1", 443)}, _nowhere, lambda: 0.0)
        client = Client(jail, "test", recorder, pins, lambda: None)
        client.tunnel = Tunnel("api.test", 443, None, None, None)

        def hook(name: str, data: Any) -> None:
            found = addon.table.get(name)
            if found is not None:
                assert found(data) is None, f"the hook {name} waits"

        self.drive = Drive(hook, alpn=alpn, origin_alpn=origin_alpn, watcher=client)

    def record(self, record: Mapping[str, Any], *, now: bool) -> None:
        """Recorder's sink."""
        self.records.append(record)

    def encoded(self, text: bytes) -> None:
        """Recorder's sink."""
        self.records.append(json.loads(text))

    def client(self, data: bytes) -> None:
        """Bytes from the client, and what the origins say to what comes of it, until nothing more happens."""
        if self.drive.client not in self.drive.closed:
            self.drive.from_client(data)
        for _ in range(TURNS):
            said = [self._turn(number) for number in range(len(self.drive.origins))]
            if True not in said:
                break

    def end(self) -> None:
        """The client hangs up."""
        self.drive.event(events.ConnectionClosed(self.drive.client))

    def _turn(self, number: int) -> bool:
        conn = self.drive.origins[number]
        if conn in self.drive.closed:
            return False
        sent = bytes(self.drive.sent[conn])
        if self._h2_origin:
            reply = self._h2_turn(number, sent)
        else:
            try:
                done = sum(1 for r in by_h11(sent) if r is not None)
            except h11.RemoteProtocolError:
                return False
            reply = self._answer if done > self._answered[number] else b""
            self._answered[number] += bool(reply)
        if reply:
            self.drive.from_origin(reply, number)
        return bool(reply)

    def _h2_turn(self, number: int, sent: bytes) -> bytes:
        if number not in self._origins:
            config = h2.config.H2Configuration(client_side=False, header_encoding="latin-1")
            self._origins[number] = h2.connection.H2Connection(config)
            self._origins[number].initiate_connection()
        origin = self._origins[number]
        new, self._answered[number] = sent[self._answered[number] :], len(sent)
        for event in origin.receive_data(new):
            if isinstance(event, h2.events.RequestReceived):
                fields = {str(n): str(v) for n, v in event.headers}
                assert "outpass-token" not in fields and "proxy-authorization" not in fields, "a pass leaves the gate"
                path = fields[":path"].partition("?")[0]
                self._h2_seen.append(Seen(fields[":method"], path, fields[":authority"]))
            if isinstance(event, h2.events.StreamEnded):
                origin.send_headers(event.stream_id, [(":status", "200")], end_stream=True)
            if isinstance(event, h2.events.DataReceived):
                origin.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        return origin.data_to_send()

    def judge(self) -> str:
        """Compare what was allowed with what the origins read; a few words about the outcome."""
        allowed = Counter(_wanted(r) for r in self.records if r["kind"] == "decision" and r["verdict"] == "allow")
        if self._h2_origin:
            read = {"h2": self._h2_seen}
        else:
            streams = [bytes(self.drive.sent[c]) for c in self.drive.origins]
            read = {
                "h11": [s for data in streams for s in by_h11(data) if s is not None],
                "llhttp": [s for data in streams for s in by_llhttp(data)],
            }
        for parser, seen in read.items():
            extra = Counter(seen) - allowed
            assert not extra, f"an origin with {parser} reads requests that nobody allowed | {extra} of {allowed}"
        assert len({len(s) for s in read.values()}) == 1, f"two origins read another number of requests | {read}"
        seen = next(iter(read.values()))
        said = {f"{r['reason']}: {_words(str(r['detail'] or ''))}" for r in self.records if r["verdict"] != "allow"}
        return "|".join([f"{sum(allowed.values())} allowed, {len(seen)} read", *sorted(said)])


def by_h11(data: bytes) -> list[Seen | None]:
    """The requests in a stream of bytes, as h11 reads them. Raises h11.RemoteProtocolError for what it would refuse."""
    conn = h11.Connection(h11.SERVER)
    conn.receive_data(data)
    found: list[Seen | None] = []
    whole = False
    while True:
        event = conn.next_event()
        if isinstance(event, h11.Request):
            names = [bytes(n) for n, _ in event.headers]
            assert b"outpass-token" not in names and b"proxy-authorization" not in names, "a pass leaves the gate"
            hosts = [v.decode("latin-1") for n, v in event.headers if n == b"host"]
            found.append(Seen(event.method.decode(), event.target.decode("latin-1").partition("?")[0], ",".join(hosts)))
            whole = False
        elif isinstance(event, h11.EndOfMessage):
            whole = True
        elif event is h11.PAUSED or event is h11.NEED_DATA or isinstance(event, h11.ConnectionClosed):
            if event is h11.NEED_DATA or conn.our_state is not h11.SEND_RESPONSE or not whole:
                return found
            if conn.our_state is h11.SEND_RESPONSE:
                conn.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
                conn.send(h11.EndOfMessage())
            if conn.our_state is h11.MUST_CLOSE or conn.their_state is h11.MUST_CLOSE:
                return found
            conn.start_next_cycle()


class _Llhttp:
    """Callbacks of httptools, which is llhttp, the parser of Node."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.parser = httptools.HttpRequestParser(self)
        self._url, self._hosts = b"", list[str]()

    def on_message_begin(self) -> None:
        self._url, self._hosts = b"", []

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"host":
            self._hosts.append(value.decode("latin-1"))

    def on_headers_complete(self) -> None:
        path = self._url.decode("latin-1").partition("?")[0]
        self.seen.append(Seen(self.parser.get_method().decode(), path, ",".join(self._hosts)))


def by_llhttp(data: bytes) -> list[Seen]:
    """The requests in a stream of bytes, as Node would read them; a method that Node does not know ends the list."""
    reader = _Llhttp()
    try:
        while True:
            try:
                reader.parser.feed_data(data)
                break
            except httptools.HttpParserUpgrade as asked:  # no origin here agrees to it: what follows is the next request
                data = data[asked.args[0] :]
                reader.parser = httptools.HttpRequestParser(reader)
    except httptools.HttpParserInvalidMethodError:
        return [s for s in by_h11(data) if s is not None]
    return reader.seen


def _wanted(record: Mapping[str, Any]) -> Seen:
    path = "*" if record["method"] == "OPTIONS" and record["path"] == "/" else record["path"]
    return Seen(record["method"], path, record["host"])


def _words(detail: str) -> str:
    """What a detail says, without the name that it may begin with: those are as many as there are inputs."""
    return "" if "'" in detail else detail[-24:]


def _decide(request: EgressRequest) -> Decision:
    return decide.decide(_COMPILED, request, now=0.0)


async def _nowhere(host: str, port: int) -> tuple[str, ...]:
    raise OSError("nothing is resolved here")
