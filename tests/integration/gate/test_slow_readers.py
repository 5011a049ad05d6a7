"""Peers that take nothing, of HTTP/1 and HTTP/2, on either side: the gate keeps a bound of it, and what is beside it goes on."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import h2.connection
import h2.events
import pytest

from tests.integration.gate.conftest import POLICY
from tests.support.gate import Gate
from tests.support.h2_client import H2
from tests.support.h2_raw_origin import RawH2Origin
from tests.support.raw_origin import OK, RawOrigin
from tests.support.wire import Wire

API = "api.test:443"
H2_API = "h2.test:443"
MIB = 1024 * 1024
BOUND = 24 * MIB
"""Growth of the gate's memory that is allowed: windows, sockets' buffers, and what an allocator keeps."""


def _rss(gate: Gate) -> int:
    status = Path(f"/proc/{gate.process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


def _push(wire: Wire, most: int = 256) -> int:
    """MiB that the other end takes until nothing has moved for a second."""
    wire.sock.settimeout(1)
    sent = 0
    try:
        while sent < most:
            wire.sock.sendall(bytes(MIB))
            sent += 1
    except TimeoutError:
        pass
    wire.sock.settimeout(30)
    return sent


def _fill(client: H2, stream: int) -> int:
    """Bytes that fit into the windows of a stream."""
    sent = 0
    while (room := min(client.conn.local_flow_control_window(stream), client.conn.max_outbound_frame_size)) > 0:
        client.conn.send_data(stream, bytes(room))
        client.flush()
        sent += room
        client.wire.sock.settimeout(0.3)
        try:
            while not client.conn.local_flow_control_window(stream):
                client.pump()
        except TimeoutError:
            pass
        client.wire.sock.settimeout(30)
    return sent


@pytest.fixture
def deaf(origin: RawOrigin) -> Iterator[threading.Event]:
    """`/v1/deaf` reads no body until the event is set, then all of it."""
    go = threading.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not go.is_set():
            await asyncio.sleep(0.01)
        await origin._body(reader, origin.seen[0])
        writer.write(OK)

    origin.scripts["/v1/deaf"] = script
    origin.invites = False
    yield go
    go.set()
    origin.invites = True


def test_an_http1_upload_to_an_origin_that_does_not_read_waits(gate: Gate, origin: RawOrigin, deaf: threading.Event) -> None:
    before = _rss(gate)
    with gate.tunnel(API, "stripe") as wire:
        head = (
            f"POST /v1/deaf HTTP/1.1\r\nHost: api.test\r\nOutpass-Token: {gate.mint(API, 'stripe')}\r\nExpect: 100-continue\r\n"
        )
        wire.sock.sendall(f"{head}Content-Length: {1024 * MIB}\r\n\r\n".encode())
        assert _push(wire) < 128
        assert _rss(gate) - before < BOUND


def test_an_http1_upload_while_the_origin_is_dialled_waits(bundle: Path) -> None:
    """A listener that accepts and says nothing: the handshake with the origin never ends, and the body comes meanwhile."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        overrides = [("api.test", 443, "127.0.0.1", silent.getsockname()[1])]
        with Gate(POLICY, connect_to=overrides, bundle=bundle) as gate, gate.tunnel(API, "stripe") as wire:
            before = _rss(gate)
            head = f"POST /v1/a HTTP/1.1\r\nHost: api.test\r\nOutpass-Token: {gate.mint(API, 'stripe')}\r\n"
            wire.sock.sendall(f"{head}Content-Length: {1024 * MIB}\r\n\r\n".encode())
            assert _push(wire) < 128
            assert _rss(gate) - before < BOUND


def test_an_http2_upload_that_nobody_reads_stops_neither_the_gate_nor_the_streams_beside_it(
    gate: Gate, origin: RawOrigin, deaf: threading.Event
) -> None:
    before = _rss(gate)
    with gate.tunnel(API, "stripe", alpn=("h2",)) as wire:
        client = H2(wire)
        extra = [("outpass-token", gate.mint(API, "stripe")), ("expect", "100-continue")]
        stuck = client.request("/v1/deaf", "api.test", method="POST", extra=extra, end=False)
        sent = _fill(client, stuck)
        assert 65_535 < sent < 16 * MIB, "its window, and what the kernel takes"
        assert _rss(gate) - before < BOUND
        for _ in range(3):
            beside = client.request("/v1/a", "api.test", extra=[("outpass-token", gate.mint(API, "stripe"))])
            assert client.answer(beside).status == 200
        deaf.set()
        client.data(stuck, bytes(3 * MIB), end=True)
        assert client.answer(stuck, 60).status == 200
    assert origin.seen[0].body_bytes == sent + 3 * MIB, "and nothing is lost"


def test_an_http2_upload_to_an_http2_origin_whose_window_is_closed_stops_its_stream_only(
    h2_gate: Gate, h2_origin: RawH2Origin
) -> None:
    before = _rss(h2_gate)
    h2_origin.script = _by_method(h2_origin)
    with h2_gate.tunnel(H2_API, "stripe", alpn=("h2",)) as wire:
        client = H2(wire)
        extra = [("outpass-token", h2_gate.mint(H2_API, "stripe"))]
        stuck = client.request("/a", "h2.test", method="POST", extra=extra, end=False)
        assert 65_535 < _fill(client, stuck) < 2 * MIB
        assert _rss(h2_gate) - before < BOUND
        beside = client.request("/a", "h2.test", extra=[("outpass-token", h2_gate.mint(H2_API, "stripe"))])
        assert client.answer(beside).body == b"ok"


def _by_method(origin: RawH2Origin):  # type: ignore[no-untyped-def]
    def script(conn: h2.connection.H2Connection, stream: int) -> None:
        if dict(origin.seen[-1])[b":method"] == b"GET":
            conn.send_headers(stream, [(b":status", b"200")])
            conn.send_data(stream, b"ok", end_stream=True)

    return script


@pytest.mark.parametrize("kind", ["h1 origin", "h2 origin"])
def test_an_http2_download_that_nobody_takes_stops_its_stream_only(
    gate: Gate, origin: RawOrigin, h2_gate: Gate, h2_origin: RawH2Origin, kind: str
) -> None:
    dst, host, path, through = (
        (API, "api.test", "/v1/flood", gate) if kind == "h1 origin" else (H2_API, "h2.test", "/flood", h2_gate)
    )
    size = 64 * MIB

    async def flood(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        for _n in range(size >> 18):
            writer.write(bytes(1 << 18))
            await writer.drain()

    def h2_flood(conn: h2.connection.H2Connection, stream: int) -> None:
        conn.send_headers(stream, [(b":status", b"200")])
        if dict(h2_origin.seen[-1])[b":path"] == b"/flood":
            while (room := min(conn.local_flow_control_window(stream), conn.max_outbound_frame_size)) > 0:
                conn.send_data(stream, bytes(room))
        else:
            conn.send_data(stream, b"ok", end_stream=True)

    origin.scripts["/v1/flood"] = flood
    h2_origin.script = h2_flood
    before = _rss(through)
    with through.tunnel(dst, "stripe", alpn=("h2",)) as wire:
        client = H2(wire)
        client.stalled = True
        stuck = client.request(path, host, extra=[("outpass-token", through.mint(dst, "stripe"))])
        while len(client.body[stuck]) < 60_000:
            client.pump()
        client.conn.increment_flow_control_window(16 * MIB)  # of the connection; the stream's own stays closed
        client.flush()
        for n in range(3):
            beside = client.request(f"/v1/{n}", host, extra=[("outpass-token", through.mint(dst, "stripe"))])
            assert client.answer(beside).body == b"ok"
        still, last = 0, 0
        while still < 10:
            now = _rss(through) // MIB
            still, last = (still + 1, now) if now == last else (0, now)
            time.sleep(0.05)
        assert _rss(through) - before < BOUND
