"""Clients and origins that would hold the gate up: each is cut off with what the table says, and an honest one beside it is served."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import h2.errors
import hyperframe.frame as frames
import pytest

from outpass.reasons import Reason
from tests.integration.gate.conftest import POLICY
from tests.support.gate import Gate
from tests.support.h2_client import H2
from tests.support.raw_origin import RawOrigin
from tests.support.wire import Answer, Wire

API = "api.test:443"
BOUNDS = {"head_s": 1, "body_s": 1, "handshake_s": 3, "first_byte_s": 3, "stall_s": 2, "connections": 24, "sweep_s": 0.1}
RSS_BOUND = 60 << 20
"""Bytes by which the gate may grow under an attack."""


class Deaf:
    """Accepts, and says nothing; reads only when told to."""

    def __init__(self) -> None:
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listening.getsockname()[1]
        self.kept: list[socket.socket] = []

    def __enter__(self) -> Deaf:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self.kept.append(self.listening.accept()[0])

    def __exit__(self, *_: object) -> None:
        self.listening.close()
        for sock in self.kept:
            sock.close()


@pytest.fixture(scope="module")
def deaf() -> Iterator[Deaf]:
    with Deaf() as made:
        yield made


@pytest.fixture(scope="module")
def gate(origin: RawOrigin, plain: RawOrigin, deaf: Deaf, bundle: Path) -> Iterator[Gate]:
    to = [
        ("api.test", 443, "127.0.0.1", origin.port),
        ("open.test", 443, "127.0.0.1", deaf.port),
        ("plain.test", 80, "127.0.0.1", plain.port),
        ("open.test", 80, "127.0.0.1", deaf.port),
    ]
    with Gate(POLICY, connect_to=to, bundle=bundle, start={"bounds": BOUNDS}) as made:
        yield made
        assert not made.errors, made.errors


@pytest.fixture(autouse=True)
def _served_and_small(gate: Gate, origin: RawOrigin) -> Iterator[None]:
    """After each attack: an honest client is served, and the gate has not grown."""
    before = _rss(gate)
    gate.records.clear()
    yield
    with gate.tunnel(API, "stripe") as wire:
        assert wire.get("/v1/honest", "api.test", "stripe").status == 200
    assert _rss(gate) - before < RSS_BOUND


def _rss(gate: Gate) -> int:
    return int(Path(f"/proc/{gate.process.pid}/statm").read_text().split()[1]) * 4096


def _head(gate: Gate, path: str = "/v1/a", method: str = "GET", extra: str = "") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: api.test\r\nOutpass-Token: {gate.mint(API, 'stripe')}\r\n{extra}\r\n".encode()


def _fields(gate: Gate, path: str = "/v1/a") -> list[tuple[str, str]]:
    return [("outpass-token", gate.mint(API, "stripe"))]


def _recorded(gate: Gate, reason: Reason, detail: str = "") -> None:
    end = time.monotonic() + 30
    while not any(r["reason"] == reason and detail in (r["detail"] or "") for r in list(gate.records)):
        assert time.monotonic() < end, gate.records
        time.sleep(0.02)


@pytest.mark.parametrize("end", [b"", b" HTTP/1.1\r\nHost: api.test\r\n\r\n"])
def test_a_request_line_has_a_bound(gate: Gate, origin: RawOrigin, end: bytes) -> None:
    with gate.tunnel(API, "stripe") as wire:
        answer = wire.ask(b"GET /v1/" + b"a" * 17_000 + end)
    assert (answer.status, answer.code) == (414, Reason.TARGET_TOO_LONG)


def test_a_path_of_http2_has_the_same_bound(gate: Gate) -> None:
    with gate.tunnel(API, "stripe", alpn=("h2",)) as wire:
        client = H2(wire)
        answer = client.answer(client.request("/v1/" + "a" * 17_000, "api.test", extra=_fields(gate)))
    assert (answer.status, answer.code) == (414, Reason.TARGET_TOO_LONG)


@pytest.mark.parametrize("alpn", ["http/1.1", "h2"])
def test_a_head_has_so_many_fields_and_no_more(gate: Gate, alpn: str) -> None:
    with gate.tunnel(API, "stripe", alpn=(alpn,)) as wire:
        if alpn == "h2":
            client = H2(wire)
            many = [*_fields(gate), *((f"x-{n}", "1") for n in range(200))]
            answer = client.answer(client.request("/v1/a", "api.test", extra=many))
        else:
            answer = wire.ask(_head(gate, extra="".join(f"X-{n}: 1\r\n" for n in range(200))))
    assert (answer.status, answer.code) == (431, Reason.HEAD_TOO_LARGE)


def test_a_head_that_drips_in_is_cut_off(gate: Gate) -> None:
    with gate.tunnel(API, "stripe") as wire:
        answer = _drip(wire, b"GET /v1/a HTTP/1.1\r\nHost: api.test\r\n" + b"X: y\r\n" * 1000)
    assert (answer.status, answer.code) == (408, Reason.CLIENT_TIMEOUT)
    _recorded(gate, Reason.CLIENT_TIMEOUT, "head")


def test_the_same_on_the_proxy_itself(gate: Gate) -> None:
    with gate.connect() as wire:
        answer = _drip(wire, b"GET http://plain.test/v1/a HTTP/1.1\r\nHost: plain.test\r\n" + b"X: y\r\n" * 1000)
    assert (answer.status, answer.code) == (408, Reason.CLIENT_TIMEOUT)


@pytest.mark.parametrize("extra", ["Content-Length: 100000\r\n", "Transfer-Encoding: chunked\r\n"])
def test_a_body_that_drips_in_is_cut_off(gate: Gate, origin: RawOrigin, extra: str) -> None:
    with gate.tunnel(API, "stripe") as wire:
        answer = _drip(wire, _head(gate, method="POST", extra=extra), b"1\r\nx\r\n" if "chunked" in extra else b"x")
    assert (answer.status, answer.code) == (408, Reason.CLIENT_TIMEOUT)
    _recorded(gate, Reason.CLIENT_TIMEOUT, "body")


def _drip(wire: Wire, data: bytes, then: bytes = b"") -> Answer:
    """Send `data` byte by byte (or, with `then`, at once and then that again and again) until there is an answer."""
    wire.sock.settimeout(0.05)
    pieces = iter([data, *([then] * 1000)] if then else [data[n : n + 1] for n in range(len(data))])
    end = time.monotonic() + 30
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            wire.sock.sendall(next(pieces))
        try:
            if wire.sock.recv(1, socket.MSG_PEEK) if not isinstance(wire.sock, ssl.SSLSocket) else _readable(wire.sock):
                break
        except TimeoutError:
            continue
    wire.sock.settimeout(20)
    return wire.answer()


def _readable(sock: ssl.SSLSocket) -> bool:
    import select

    return bool(sock.pending() or select.select([sock], [], [], 0.05)[0])


def test_a_stream_of_events_that_is_long_quiet_is_not_cut_off(gate: Gate, origin: RawOrigin) -> None:
    """Server-sent events, a language model, a long poll: quiet for longer than any bound of a request, to clients of either version."""

    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        writer.write(head + b"9\r\ndata: 1\n\n\r\n")
        await writer.drain()
        await asyncio.sleep(4)  # the longest bound is 3
        writer.write(b"9\r\ndata: 2\n\n\r\n0\r\n\r\n")

    origin.scripts["/v1/quiet"] = script
    with gate.tunnel(API, "stripe", alpn=("h2",)) as second, gate.tunnel(API, "stripe") as wire:
        client = H2(second)
        stream = client.request("/v1/quiet", "api.test", extra=_fields(gate))
        assert wire.get("/v1/quiet", "api.test", "stripe").body == b"data: 1\n\ndata: 2\n\n"
        assert client.answer(stream).body == b"data: 1\n\ndata: 2\n\n"


@pytest.mark.parametrize("alpn", ["http/1.1", "h2"])
def test_an_origin_that_does_not_begin_to_answer_is_given_up(gate: Gate, origin: RawOrigin, alpn: str) -> None:
    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(60)

    origin.scripts["/v1/never"] = script
    with gate.tunnel(API, "stripe", alpn=(alpn,)) as wire:
        if alpn == "h2":
            client = H2(wire)
            stuck = client.request("/v1/never", "api.test", extra=_fields(gate))
            assert client.answer(client.request("/v1/a", "api.test", extra=_fields(gate))).status == 200
            answer = client.answer(stuck)
            assert client.answer(client.request("/v1/a", "api.test", extra=_fields(gate))).status == 200
        else:
            answer = wire.get("/v1/never", "api.test", "stripe")
    assert (answer.status, answer.code) == (504, Reason.UPSTREAM_TIMEOUT)


def test_an_origin_that_stalls_its_tls_handshake_is_given_up(gate: Gate) -> None:
    with gate.connect() as wire:
        assert wire.ask("CONNECT open.test:443 HTTP/1.1\r\nHost: open.test\r\n\r\n").status == 200
        with wire.secure("open.test", verify="open.test") as inside:
            answer = inside.get("/x", "open.test")
    assert (answer.status, answer.code) == (504, Reason.UPSTREAM_TIMEOUT)


def test_a_client_that_stalls_its_tls_handshake_is_cut_off(gate: Gate) -> None:
    with gate.connect() as wire:
        text = gate.mint(API, "stripe", use="connect")
        head = f"CONNECT {API} HTTP/1.1\r\nHost: {API}\r\nProxy-Authorization: Bearer {text}\r\n\r\n"
        assert wire.ask(head).status == 200
        wire.sock.sendall(b"\x16\x03\x01")
        with contextlib.suppress(OSError):
            assert wire.sock.recv(100) == b""
    _recorded(gate, Reason.CLIENT_TIMEOUT, "TLS")


def test_an_origin_that_reads_nothing_is_given_up(gate: Gate, deaf: Deaf) -> None:
    with gate.connect() as wire:
        head = b"POST http://open.test/x HTTP/1.1\r\nHost: open.test\r\nContent-Length: 200000000\r\n\r\n"
        threading.Thread(target=_pour, args=(wire.sock, head + b"x" * 50_000_000), daemon=True).start()
        answer = wire.answer("POST")
    assert (answer.status, answer.code) == (504, Reason.UPSTREAM_TIMEOUT)


def _pour(sock: socket.socket, data: bytes) -> None:
    with contextlib.suppress(OSError):
        sock.sendall(data)


def _endless(size: int) -> Callable[..., object]:
    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        for _n in range(size >> 18):
            writer.write(bytes(1 << 18))
            await writer.drain()

    return script


@pytest.mark.parametrize("alpn", ["http/1.1", "h2"])
def test_a_client_that_takes_nothing_of_its_answer_is_cut_off(gate: Gate, origin: RawOrigin, alpn: str) -> None:
    origin.scripts["/v1/large"] = _endless(200 << 20)  # type: ignore[assignment]
    with gate.tunnel(API, "stripe", alpn=(alpn,)) as wire:
        if alpn == "h2":
            client = H2(wire, stalled=True)
            client.request("/v1/large", "api.test", extra=_fields(gate))
            while not client.goaway:
                try:
                    client.pump()
                except OSError:
                    break
        else:
            wire.sock.sendall(_head(gate, "/v1/large"))
        _recorded(gate, Reason.CLIENT_TIMEOUT, "reads nothing")


def _flooded(gate: Gate, flood: Callable[[H2], None], reason: Reason) -> None:
    with gate.tunnel(API, "stripe", alpn=("h2",)) as wire:
        client = H2(wire)
        client.pump()
        with contextlib.suppress(OSError):
            flood(client)
        codes: list[int] = []
        with contextlib.suppress(OSError):
            while not client.goaway:
                data = wire.sock.recv(65536)
                if not data:
                    break
                codes += [e.error_code for e in client.conn.receive_data(data) if hasattr(e, "last_stream_id")]
                client.goaway = bool(codes)
    _recorded(gate, reason)
    assert not codes or h2.errors.ErrorCodes.ENHANCE_YOUR_CALM in codes


def _reset(client: H2) -> None:
    for _ in range(400):
        stream = client.request("/v1/a", "api.test", method="GET", extra=[("x", "y")], end=False)
        client.conn.reset_stream(stream)
        client.flush()


def _many(frame: Callable[[int], frames.Frame], count: int) -> Callable[[H2], None]:
    def flood(client: H2) -> None:
        for start in range(0, count, 100):
            client.wire.sock.sendall(b"".join(frame(n).serialize() for n in range(start, start + 100)))

    return flood


def _continued(client: H2) -> None:
    first = frames.HeadersFrame(1, b"\x82" * 1000)
    client.wire.sock.sendall(first.serialize())
    for _ in range(60):
        client.wire.sock.sendall(frames.ContinuationFrame(1, b"\x82" * 16_000).serialize())


def _bomb(client: H2) -> None:
    """One large entry in the table, then references to it: 60 bytes on the wire stand for 240 kB."""
    value = "a" * 4000
    head = [(":method", "GET"), (":scheme", "https"), (":authority", "api.test"), (":path", "/v1/a"), ("x-bomb", value)]
    client.send(head, end=True)
    block = client.conn.encoder.encode([*head, *[("x-bomb", value)] * 60])
    client.wire.sock.sendall(frames.HeadersFrame(3, block, flags=["END_HEADERS", "END_STREAM"]).serialize())


FLOODS: dict[str, tuple[Callable[[H2], None], Reason]] = {
    "rapid reset (CVE-2023-44487)": (_reset, Reason.FLOOD),
    "PING": (_many(lambda n: frames.PingFrame(0, n.to_bytes(8)), 3000), Reason.FLOOD),
    "SETTINGS": (_many(lambda n: frames.SettingsFrame(0, {4: 65535 + n}), 3000), Reason.FLOOD),
    "HPACK bomb": (_bomb, Reason.HEAD_TOO_LARGE),
    "CONTINUATION (CVE-2024-27316)": (_continued, Reason.HEAD_TOO_LARGE),
}


@pytest.mark.parametrize("attack", FLOODS)
def test_a_flood_of_frames_ends_the_connection(gate: Gate, attack: str) -> None:
    flood, reason = FLOODS[attack]
    _flooded(gate, flood, reason)


def test_a_flood_of_empty_data_ends_the_connection(gate: Gate) -> None:
    def flood(client: H2) -> None:
        stream = client.request("/v1/a", "api.test", method="POST", extra=_fields(gate), end=False)
        _many(lambda _n: frames.DataFrame(stream, b""), 3000)(client)

    _flooded(gate, flood, Reason.FLOOD)


def test_more_streams_than_were_announced_end_the_connection(gate: Gate) -> None:
    def flood(client: H2) -> None:
        client.conn.remote_settings.max_concurrent_streams = 1 << 30
        client.conn.remote_settings.acknowledge()
        for _ in range(150):
            client.request("/v1/a", "api.test", method="POST", extra=[("x", "y")], end=False)

    _flooded(gate, flood, Reason.FLOOD)


def test_a_header_block_that_never_ends_is_cut_off(gate: Gate) -> None:
    def stop(client: H2) -> None:
        client.wire.sock.sendall(frames.HeadersFrame(1, b"\x82").serialize())

    _flooded(gate, stop, Reason.CLIENT_TIMEOUT)


def test_one_jail_gets_half_of_the_connections_and_leaves_the_rest_to_others(gate: Gate, origin: RawOrigin) -> None:
    other = gate.add(POLICY, "j-beside")
    held = []
    refused: Answer | None = None
    try:
        for _ in range(20):
            wire = gate.connect()
            held.append(wire)
            wire.sock.settimeout(0.3)
            with contextlib.suppress(TimeoutError):
                refused = wire.answer()
                break
        assert refused is not None, "nobody was refused"
        assert (refused.status, refused.code) == (503, Reason.TOO_MANY_CONNECTIONS)
        assert 8 <= len(held) <= 14
        text = gate.mint(API, "stripe", use="connect", jail="j-beside")
        beside = gate.connect(other)
        head = f"CONNECT {API} HTTP/1.1\r\nHost: {API}\r\nProxy-Authorization: Bearer {text}\r\n\r\n"
        assert beside.ask(head).status == 200
        with beside.secure("api.test", verify="api.test") as inside:
            assert inside.get("/v1/a", "api.test", "stripe", jail="j-beside").status == 200
        _recorded(gate, Reason.TOO_MANY_CONNECTIONS)
    finally:
        for wire in held:
            wire.sock.close()
    end = time.monotonic() + 30
    while True:  # until the gate has seen that they are gone
        with contextlib.suppress(OSError, AssertionError), gate.tunnel(API, "stripe"):
            break
        assert time.monotonic() < end
