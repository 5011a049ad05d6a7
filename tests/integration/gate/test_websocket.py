"""Websockets with real clients and servers: decided at the handshake, asked again at every frame, counted at the end."""

from __future__ import annotations

import asyncio
import base64
import datetime
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import trustme
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from outpass.reasons import Reason
from tests.support.gate import Gate
from tests.support.waiting import until
from tests.support.wire import Wire

WS = "ws.test:443"
POLICY = """
version: 1
packages:
  stripe: {allow: [network:http], http: ["https://ws.test/v1/**"]}
  talker: {allow: [network:http], http: [{url: "https://ws.test/v1/**", limits: {bytes_out: 100kB/day}}]}
  listener: {allow: [network:http], http: [{url: "https://ws.test/v1/**", limits: {bytes_in: 200kB/day}}]}
"""
NOBODY = "version: 1\npackages:\n  stripe: {allow: [network:http], http: ['https://ws.test/v2/**']}\n"
MIB = 1024 * 1024


@dataclass
class Chat:
    """Echoes; `/v1/deaf` reads nothing; `/v1/flood` sends for ever; `/v1/late` says `now` when `go` is set."""

    ca: trustme.CA
    got: list[str | bytes] = field(default_factory=list)
    heads: list[dict[str, str]] = field(default_factory=list)
    closes: list[int | None] = field(default_factory=list)
    go: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Chat:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.ca.issue_cert("ws.test").configure_cert(context)
        self._loop = asyncio.new_event_loop()
        ready = threading.Event()

        async def run() -> None:
            self._stop = asyncio.Event()
            async with serve(
                self._serve, "127.0.0.1", 0, ssl=context, max_size=64 * MIB, ping_interval=None, close_timeout=1
            ) as s:
                self.port: int = next(iter(s.sockets)).getsockname()[1]
                ready.set()
                await self._stop.wait()

        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(run(),), daemon=True)
        self._thread.start()
        assert ready.wait(20)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)

    async def _serve(self, peer: ServerConnection) -> None:
        assert peer.request is not None
        self.heads.append({k.lower(): v for k, v in peer.request.headers.raw_items()})
        try:
            if peer.request.path == "/v1/deaf":
                peer.transport.pause_reading()
                while not self.go.is_set():
                    await asyncio.sleep(0.02)
                peer.transport.resume_reading()
            if peer.request.path == "/v1/flood":
                while True:
                    await peer.send(bytes(MIB))
                    await asyncio.sleep(0)  # else a connection that was cut is never noticed, and nobody else is served
            if peer.request.path == "/v1/late":
                while not self.go.is_set():
                    await asyncio.sleep(0.02)
                await peer.send("now")
            async for message in peer:
                self.got.append(message)
                await peer.send(message)
        except ConnectionClosed:
            pass
        finally:
            self.closes.append(peer.close_code)


@pytest.fixture(scope="module")
def server(ca: tuple[trustme.CA, Path]) -> Iterator[Chat]:
    with Chat(ca[0]) as made:
        yield made


@pytest.fixture
def chat(server: Chat) -> Chat:
    """The server, which remembers nothing of other tests."""
    server.got.clear()
    server.heads.clear()
    server.closes.clear()
    server.go.clear()
    return server


@pytest.fixture(scope="module")
def shared(server: Chat, ca: tuple[trustme.CA, Path]) -> Iterator[Gate]:
    with Gate(POLICY, connect_to=[("ws.test", 443, "127.0.0.1", server.port)], bundle=ca[1]) as made:
        yield made
        assert not made.errors, made.errors


@pytest.fixture
def gate(shared: Gate) -> Gate:
    """The gate, without the records of other tests."""
    shared.records.clear()
    return shared


def _tunnel(gate: Gate) -> socket.socket:
    """A CONNECT with a pass, in the clear: the client does its own TLS in it."""
    wire = gate.connect()
    text = gate.mint(WS, "stripe", use="connect")
    assert wire.ask(f"CONNECT {WS} HTTP/1.1\r\nHost: {WS}\r\nProxy-Authorization: Bearer {text}\r\n\r\n").status == 200
    return wire.sock


def _trust(gate: Gate) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=gate.keys.ca_cert)


@contextmanager
def _opened(
    gate: Gate, path: str = "/v1/chat", sid: str = "s-test", who: str = "stripe", **other: Any
) -> Iterator[ClientConnection]:
    """The `websockets` client, with a pass for the handshake."""
    headers = {"Outpass-Token": gate.mint(WS, who, sid=sid)}
    with connect(
        f"wss://ws.test{path}",
        sock=_tunnel(gate),
        ssl=_trust(gate),
        additional_headers=headers,
        ping_interval=None,
        close_timeout=2,
        **{"max_size": 64 * MIB, **other},
    ) as made:
        yield made


@pytest.mark.parametrize("compression", ["deflate", None])
def test_messages_pass_both_ways_untouched_and_their_bytes_are_counted(gate: Gate, chat: Chat, compression: str | None) -> None:
    with _opened(gate, compression=compression) as client:
        until("the server and the clock are so far", lambda: bool(chat.heads))
        assert ("permessage-deflate" in chat.heads[0].get("sec-websocket-extensions", "")) is (compression is not None)
        client.send("häl" * 1000)
        assert client.recv(30) == "häl" * 1000
        client.send([b"a", b"b", b"c"])  # three fragments
        assert client.recv(30) == b"abc"
        assert client.ping("x").wait(30)
    until("the server and the clock are so far", lambda: chat.closes == [1000])
    assert chat.got == ["häl" * 1000, b"abc"] and "outpass-token" not in chat.heads[0]
    (opened,) = gate.wait_records(1, kind="decision", verdict="allow")
    (closed,) = gate.wait_records(1, kind="close")
    assert (opened["principal"], opened["method"], opened["path"]) == ("stripe", "GET", "/v1/chat")
    assert closed["principal"] == "stripe" and closed["reason"] == Reason.ALLOWED
    least = 4000 if compression is None else 20
    assert closed["bytes_out"] > least and closed["bytes_in"] > least


def test_aiohttp_speaks_through_the_gate_too(gate: Gate, chat: Chat) -> None:
    async def talk() -> Any:
        async with aiohttp.ClientSession() as session:
            async with session.ws_connect(
                "https://ws.test/v1/chat",
                proxy=f"http://127.0.0.1:{gate.jail.port}",
                proxy_headers={"Proxy-Authorization": f"Bearer {gate.mint(WS, 'stripe', use='connect')}"},
                headers={"Outpass-Token": gate.mint(WS, "stripe")},
                ssl=_trust(gate),
                compress=15,
            ) as peer:
                await peer.send_str("hello" * 100)
                answer = await peer.receive(30)
                await peer.ping(b"1")
                await peer.send_bytes(b"\0" * 300_000)
                return answer.data, (await peer.receive(30)).data

    assert asyncio.run(talk()) == ("hello" * 100, b"\0" * 300_000)
    until("the server and the clock are so far", lambda: chat.closes == [1000])


def test_a_handshake_without_the_right_is_an_answer_and_does_not_arrive(gate: Gate, chat: Chat) -> None:
    with gate.tunnel(WS, "stripe") as wire:
        answer = _handshake(wire, "/other", "stripe")
        assert (answer.status, answer.code) == (403, Reason.NO_RULE)
        assert (answer := _handshake(wire, "/v1/chat")).status == 403 and answer.code == Reason.UNATTRIBUTED
        assert _handshake(wire, "/v1/chat", "stripe").status == 101, "and the connection goes on"
    until("the server and the clock are so far", lambda: len(chat.heads) == 1)


def _handshake(wire: Wire, path: str, *chain: str) -> Any:
    key = base64.b64encode(os.urandom(16)).decode()
    extra = f"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
    return wire.get(path, "ws.test", *chain, extra=extra)


def _lost(client: ClientConnection) -> int | None:
    """The close code with which the next thing on this connection fails."""
    try:
        for _ in range(100):
            client.recv(30)
    except ConnectionClosed:
        return client.close_code
    raise AssertionError("it goes on")


def test_a_reload_that_takes_the_right_away_closes_with_1008(gate: Gate, chat: Chat) -> None:
    with _opened(gate) as client:
        client.send("one")
        assert client.recv(30) == "one"
        assert gate.change(POLICY)["op"] == "ack"
        client.send("two")
        assert client.recv(30) == "two", "a reload that changes nothing disturbs nothing"
        assert gate.change(NOBODY)["op"] == "ack"
        assert _lost(client) == 1008
    assert gate.change(POLICY)["op"] == "ack"
    until("the server and the clock are so far", lambda: 1008 in chat.closes)
    assert chat.got == ["one", "two"]
    (record,) = gate.wait_records(1, verdict="deny")
    assert (record["reason"], record["bytes_out"] > 0, record["bytes_in"] > 0) == (Reason.NO_RULE, True, True)


def test_the_message_after_the_end_of_its_session_is_refused_with_1008(gate: Gate, chat: Chat) -> None:
    with _opened(gate, sid="s-sends") as client:
        client.send("one")
        assert client.recv(30) == "one"
        assert gate.call({"op": "session.end", "sids": ["s-sends"]})["op"] == "ack"
        client.send("two")
        assert _lost(client) == 1008
    until("the server and the clock are so far", lambda: 1008 in chat.closes)
    assert chat.got == ["one"]
    assert gate.wait_records(1, verdict="deny")[0]["reason"] == Reason.PASS_SESSION_ENDED


def test_the_message_after_its_rule_has_expired_is_refused_with_1008(gate: Gate, chat: Chat) -> None:
    end = time.time() + 2
    stamp = datetime.datetime.fromtimestamp(end, datetime.UTC).isoformat(timespec="milliseconds")
    expiring = f'{{url: "https://ws.test/v1/**", expires: "{stamp}"}}'
    assert gate.change(POLICY.replace('"https://ws.test/v1/**"', expiring, 1))["op"] == "ack"
    with _opened(gate) as client:
        client.send("one")
        assert client.recv(30) == "one"
        until("the server and the clock are so far", lambda: time.time() > end)
        client.send("two")
        assert _lost(client) == 1008
    assert gate.change(POLICY)["op"] == "ack"
    assert chat.got == ["one"]
    assert gate.wait_records(1, verdict="deny")[0]["reason"] == Reason.EXPIRED


def test_revoking_a_session_ends_its_websockets_without_waiting_for_a_message(gate: Gate, chat: Chat) -> None:
    with _opened(gate, sid="s-revoked") as client:
        client.send("one")
        assert client.recv(30) == "one"
        assert gate.call({"op": "session.end", "sids": ["s-revoked"], "revoked": True})["op"] == "ack"
        assert _lost(client) in (1006, 1008)
    record = gate.wait_records(1, verdict="deny")[0]
    assert (record["reason"], record["bytes_in"] > 0) == (Reason.PASS_SESSION_ENDED, True)


def test_a_message_from_the_origin_needs_the_right_too(gate: Gate, chat: Chat) -> None:
    with _opened(gate, "/v1/late", "s-hears") as client:
        assert gate.call({"op": "session.end", "sids": ["s-hears"]})["op"] == "ack"
        chat.go.set()
        assert _lost(client) == 1008


@pytest.mark.parametrize(
    "frame",
    [
        b"\x81\x02ok",
        b"\x83\x80abcd",
        b"\x09\x80abcd",
        b"\x89\xfe\x00\x80abcd",
        b"\x81\xff" + b"\xff" * 8 + b"abcd",
        b"GET /v1/x HT",
    ],
    ids=["unmasked", "reserved opcode", "cut ping", "long ping", "size of 2**64-1", "HTTP"],
)
def test_what_is_no_frame_ends_the_connection_and_does_not_arrive(gate: Gate, chat: Chat, frame: bytes) -> None:
    with gate.tunnel(WS, "stripe") as wire:
        assert _handshake(wire, "/v1/chat", "stripe").status == 101
        wire.sock.sendall(frame)
        assert wire.sock.recv(100)[:4] == b"\x88\x17\x03\xea", "1002"
        assert wire.closed()
    until("the server and the clock are so far", lambda: 1002 in chat.closes)
    assert chat.got == []
    assert gate.wait_records(1, reason=Reason.BAD_REQUEST)


def _rss(gate: Gate) -> int:
    status = Path(f"/proc/{gate.process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


def test_a_big_message_is_streamed(gate: Gate, chat: Chat) -> None:
    with _opened(gate, compression=None) as client:
        before = _rss(gate)
        big = bytes(48 * MIB)
        client.send(big)
        assert client.recv(60) == big
        assert _rss(gate) - before < 16 * MIB


@pytest.mark.parametrize("side", ["origin", "client"])
def test_a_side_that_does_not_read_costs_the_gate_nothing(gate: Gate, chat: Chat, side: str) -> None:
    """Both kernels' buffers fill, and then the writer waits; the gate keeps none of it."""
    sent = 0
    with gate.tunnel(WS, "stripe") as wire:
        assert _handshake(wire, "/v1/deaf" if side == "origin" else "/v1/flood", "stripe").status == 101
        before = _rss(gate)
        if side == "origin":
            wire.sock.settimeout(2)
            frame = b"\x82\xff" + (MIB).to_bytes(8, "big") + b"\0\0\0\0" + bytes(MIB)
            try:
                while sent < 200:
                    wire.sock.sendall(frame)
                    sent += 1
            except TimeoutError:
                pass
            assert sent < 100
        else:
            last, still = -1, 0
            while still < 20:  # the gate's memory has stopped moving
                now = _rss(gate) // MIB
                still = still + 1 if now == last else 0
                last = now
                time.sleep(0.05)
        assert _rss(gate) - before < 16 * MIB
        chat.go.set()


@pytest.mark.parametrize("who, reason", [("talker", Reason.LIMIT_BYTES_OUT), ("listener", Reason.LIMIT_BYTES_IN)])
def test_a_websocket_is_cut_where_the_limit_of_its_rule_is(gate: Gate, chat: Chat, who: str, reason: Reason) -> None:
    with pytest.raises((ConnectionClosed, OSError)):
        _use_up(gate, who)
    (record,) = gate.wait_records(1, 30, reason=reason.value)
    assert (record["verdict"], record["principal"]) == ("deny", who)
    assert record["bytes_out"] <= 100_000 and record["bytes_in"] <= 200_000
    talked = [got for got in chat.got if got[:1] in ("x", b"x")]  # frames of an earlier test may still be coming in
    assert sum(len(got) for got in talked) < 100_000


def _use_up(gate: Gate, who: str) -> None:
    with _opened(gate, "/v1/chat" if who == "talker" else "/v1/flood", who=who, compression=None) as client:
        while True:
            if who == "talker":
                client.send(b"x" * 10_000)
            client.recv(30)


def test_a_gate_that_leaves_says_so(gate: Gate, chat: Chat) -> None:
    """The last test: the gate is gone after it."""
    with _opened(gate) as client:
        client.send("one")
        assert client.recv(30) == "one"
        gate.send({"op": "drain"})
        assert _lost(client) == 1001
    assert gate.process.wait(30) == 0
