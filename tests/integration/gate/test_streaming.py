"""Bodies: streamed both ways in flat memory, refused at once when they are not wanted, and bounded when nobody reads."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from pathlib import Path

import pytest

from outpass.reasons import Reason
from tests.support.gate import Gate
from tests.support.h2_client import H2
from tests.support.raw_origin import RawOrigin

API = "api.test:443"
GIB = 1 << 30
BOUND = 150 * 1024 * 1024


def _rss(gate: Gate, field: str = "VmHWM") -> int:
    """Bytes that the gate's process uses (VmRSS), or used at its worst (VmHWM)."""
    status = Path(f"/proc/{gate.process.pid}/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) * 1024


def _down(size: int) -> object:
    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        block = bytes(1 << 18)
        for _n in range(size // len(block)):
            writer.write(block)
            await writer.drain()

    return script


@pytest.mark.slow
def test_a_gibibyte_down_and_up_leaves_the_gate_small(gate: Gate, origin: RawOrigin) -> None:
    origin.scripts["/v1/down"] = _down(GIB)  # type: ignore[assignment]
    with gate.tunnel(API, "stripe") as wire:
        wire.sock.sendall(
            f"GET /v1/down HTTP/1.1\r\nHost: api.test\r\nOutpass-Token: {gate.mint(API, 'stripe')}\r\n\r\n".encode()
        )
        got = 0
        while got < GIB:
            data = wire.sock.recv(1 << 18)
            assert data
            got += len(data)
    with gate.tunnel(API, "stripe") as wire:
        head = f"POST /v1/up HTTP/1.1\r\nHost: api.test\r\nOutpass-Token: {gate.mint(API, 'stripe')}\r\nContent-Length: {GIB}\r\n\r\n"
        wire.sock.sendall(head.encode())
        block = bytes(1 << 18)
        for _ in range(GIB // len(block)):
            wire.sock.sendall(block)
        assert wire.answer().status == 200
    assert origin.seen[-1].body_bytes == GIB
    assert _rss(gate) < BOUND


def test_an_http2_reader_that_stalls_costs_a_few_megabytes_and_loses_nothing(gate: Gate, origin: RawOrigin) -> None:
    size = 200 * 1024 * 1024
    origin.scripts["/v1/stalled"] = _down(size)  # type: ignore[assignment]
    before = _rss(gate, "VmRSS")
    with gate.tunnel(API, "stripe", alpn=("h2",)) as wire:
        client = H2(wire, stalled=True)
        stream = client.request("/v1/stalled", "api.test", extra=[("outpass-token", gate.mint(API, "stripe"))])
        while len(client.body[stream]) < 60_000:
            client.pump()
        _settled(gate)
        assert _rss(gate, "VmRSS") - before < 40 * 1024 * 1024
        client.stalled = False
        client.conn.acknowledge_received_data(len(client.body[stream]), stream)
        client.flush()
        while stream not in client.ended:
            client.pump()
            assert not client.goaway and stream not in client.reset
        assert len(client.body[stream]) == size


def _settled(gate: Gate, seconds: float = 20) -> None:
    """Wait until the gate's memory has not grown for half a second."""
    end = time.monotonic() + seconds
    last, since = 0, time.monotonic()
    while time.monotonic() < end:
        now = _rss(gate, "VmRSS")
        if now > last + (1 << 20):
            last, since = now, time.monotonic()
        if time.monotonic() - since > 0.5:
            return
        time.sleep(0.02)


def test_a_client_that_stops_reading_stops_the_origin(gate: Gate, origin: RawOrigin) -> None:
    origin.scripts["/v1/slow"] = _down(256 * 1024 * 1024)  # type: ignore[assignment]
    before = _rss(gate, "VmRSS")
    with gate.tunnel(API, "stripe") as wire:
        wire.sock.sendall(
            f"GET /v1/slow HTTP/1.1\r\nHost: api.test\r\nOutpass-Token: {gate.mint(API, 'stripe')}\r\n\r\n".encode()
        )
        _settled(gate)
        assert _rss(gate, "VmRSS") - before < 40 * 1024 * 1024


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_refused_upload_is_answered_at_once_and_the_connection_ends(gate: Gate, origin: RawOrigin, framing: str) -> None:
    with gate.tunnel(API, "stripe") as wire:
        how = "Content-Length: 1000000000" if framing == "length" else "Transfer-Encoding: chunked"
        answer = wire.get("/nope", "api.test", "stripe", extra=f"{how}\r\n", method="POST")
        assert (answer.status, answer.code) == (403, Reason.NO_RULE)
        assert answer.headers["connection"] == "close"
    assert not origin.seen


def test_a_refused_upload_that_is_here_already_does_not_cost_the_connection(gate: Gate, origin: RawOrigin) -> None:
    with gate.tunnel(API, "stripe") as wire:
        text = gate.mint(API, "stripe")
        head = f"POST /nope HTTP/1.1\r\nHost: api.test\r\nOutpass-Token: {text}\r\nContent-Length: 5\r\n\r\nhello"
        answer = wire.ask(head)
        assert (answer.status, "connection" in answer.headers) == (403, False)
        assert wire.get("/v1/a", "api.test", "stripe").status == 200
    assert [s.line for s in origin.seen] == ["GET /v1/a HTTP/1.1"]


def test_a_client_that_sends_its_whole_body_first_still_gets_the_answer(gate: Gate, origin: RawOrigin) -> None:
    body = bytes(8 * 1024 * 1024)
    with gate.tunnel(API, "stripe") as wire:
        text = gate.mint(API, "stripe")
        wire.sock.sendall(
            f"POST /nope HTTP/1.1\r\nHost: api.test\r\nOutpass-Token: {text}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        )
        wire.sock.sendall(body)
        assert wire.answer().code == Reason.NO_RULE
    assert not origin.seen


def test_an_endless_refused_upload_is_cut_off(gate: Gate, origin: RawOrigin) -> None:
    with gate.tunnel(API, "stripe") as wire:
        assert wire.get("/nope", "api.test", "stripe", extra="Transfer-Encoding: chunked\r\n", method="POST").status == 403
        sent, block = 0, b"10000\r\n" + bytes(0x10000) + b"\r\n"
        try:
            while sent < 300_000_000:
                wire.sock.sendall(block)
                sent += len(block)
        except OSError:
            pass
    assert sent < 200_000_000 and not origin.seen


def test_a_refused_request_does_not_invite_its_body(gate: Gate, origin: RawOrigin) -> None:
    with gate.tunnel(API, "stripe") as wire:
        answer = wire.get("/nope", "api.test", "stripe", extra="Content-Length: 5\r\nExpect: 100-continue\r\n", method="POST")
        assert (answer.status, answer.code) == (403, Reason.NO_RULE)
        text = gate.mint(API, "stripe")
    with gate.tunnel(API, "stripe") as wire:
        head = f"POST /v1/up HTTP/1.1\r\nHost: api.test\r\nOutpass-Token: {text}\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
        wire.sock.sendall(head.encode())
        assert wire.sock.recv(100).startswith(b"HTTP/1.1 100")
        wire.sock.sendall(b"hello")
        assert wire.answer().status == 200
    assert [s.line for s in origin.seen] == ["POST /v1/up HTTP/1.1"]


def test_events_arrive_one_by_one(gate: Gate, origin: RawOrigin) -> None:
    go = threading.Event()

    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n"
        )
        await writer.drain()
        while not go.is_set():
            await asyncio.sleep(0.01)
        writer.write(b"9\r\ndata: 2\n\n\r\n0\r\n\r\n")

    origin.scripts["/v1/events"] = script
    with gate.tunnel(API, "stripe") as wire:
        wire.sock.sendall(
            f"GET /v1/events HTTP/1.1\r\nHost: api.test\r\nOutpass-Token: {gate.mint(API, 'stripe')}\r\n\r\n".encode()
        )
        got = b""
        while b"data: 1" not in got:
            got += wire.sock.recv(1000)
        assert b"data: 2" not in got
        go.set()
        while not got.endswith(b"0\r\n\r\n"):
            got += wire.sock.recv(1000)


def test_a_response_that_ends_with_the_connection_is_whole(gate: Gate, origin: RawOrigin) -> None:
    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.0 200 OK\r\n\r\nuntil the end")
        await writer.drain()
        writer.close()

    origin.scripts["/v1/old"] = script
    with gate.tunnel(API, "stripe") as wire:
        assert wire.get("/v1/old", "api.test", "stripe").body == b"until the end"


def test_a_client_that_goes_away_ends_the_request_at_the_origin(gate: Gate, origin: RawOrigin) -> None:
    gone = threading.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n")
        await writer.drain()
        if await reader.read(1) == b"":
            gone.set()

    origin.scripts["/v1/left"] = script
    wire = gate.tunnel(API, "stripe")
    wire.sock.sendall(f"GET /v1/left HTTP/1.1\r\nHost: api.test\r\nOutpass-Token: {gate.mint(API, 'stripe')}\r\n\r\n".encode())
    assert wire.sock.recv(1000)
    wire.sock.close()
    assert gone.wait(10)
    assert isinstance(wire.sock, socket.socket)
