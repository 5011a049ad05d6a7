"""`limits:` of the policy at a real gate: what is over them is told so, cut off and recorded, and nothing else is."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from outpass.reasons import Reason
from tests.support.gate import Gate
from tests.support.h2_client import H2
from tests.support.raw_origin import RawOrigin
from tests.support.streams import Streams
from tests.support.wire import Answer, Wire

API = "api.test:443"
POLICY = """
version: 1
packages:
  stripe:
    allow: [network:http, network:socket]
    http:
      - {url: "https://api.test/v1/rps/**", limits: {rps: 0.001}}
      - {url: "https://api.test/v1/other/**", limits: {rps: 0.001}}
      - {url: "https://api.test/v1/out/**", limits: {bytes_out: 100kB/day}}
      - {url: "https://api.test/v1/in/**", limits: {bytes_in: 100kB/day}}
      - {url: "https://api.test/v1/h2in/**", limits: {bytes_in: 100kB/day}}
      - {url: "https://api.test/v1/h2out/**", limits: {bytes_out: 100kB/day}}
      - {url: "https://api.test/v1/head/**", limits: {bytes_in: 50B/day}}
      - {url: "https://api.test/v1/url/**", limits: {bytes_out: 1kB/day}}
      - {url: "https://api.test/v1/reload/**", limits: {rps: 0.001}}
      - {url: "https://api.test/v1/shared/**", limits: {bytes_out: 1GB/day, rps: 0.001}}
      - "https://api.test/v1/free/**"
      - {url: "https://pin.test", intercept: false, limits: {bytes_in: 100kB/day, rps: 0.002}}
    socket:
      - {to: "echo.test:7", limits: {bytes_out: 100kB/day}}
      - {to: "sink.test:9", limits: {rps: 0.001}}
  wrapper: {allow: [network:http], http: ["https://api.test/"], limits: {rps: 0.001}}
  quiet: {mode: audit, allow: [network:http], http: ["https://api.test/"], limits: {rps: 0.001, bytes_in: 10B/day}}
"""


@pytest.fixture(scope="module")
def gate(origin: RawOrigin, bundle: Path) -> Iterator[Gate]:
    with Streams() as streams:
        ports = {"echo.test": (7, "echo"), "sink.test": (9, "sink"), "pin.test": (443, "half")}
        raw = [(host, port, "127.0.0.1", streams.ports[name]) for host, (port, name) in ports.items()]
        with Gate(POLICY, connect_to=[("api.test", 443, "127.0.0.1", origin.port), *raw], bundle=bundle) as made:
            yield made
            assert not made.errors, made.errors


def _pass(gate: Gate, *chain: str) -> list[tuple[str, str]]:
    return [("outpass-token", gate.mint(API, *(chain or ("stripe",))))]


def test_a_request_over_its_rate_is_told_when_to_come_back_and_never_leaves(gate: Gate, origin: RawOrigin) -> None:
    with gate.tunnel(API, "stripe") as wire:
        assert wire.get("/v1/rps/a", "api.test", "stripe").status == 200
        answer = wire.get("/v1/rps/b", "api.test", "stripe")
        assert (answer.status, answer.code) == (429, Reason.LIMIT_RPS)
        assert 900 < int(answer.headers["retry-after"]) <= 1017
        assert answer.problem["rule"]["text"] == "https://api.test/v1/rps/**"
        assert wire.get("/v1/other/a", "api.test", "stripe").status == 200, "each rule has its own"
        assert wire.get("/v1/free/a", "api.test", "stripe").status == 200
    assert [s.line.split()[1] for s in origin.seen] == ["/v1/rps/a", "/v1/other/a", "/v1/free/a"]
    (record,) = gate.wait_records(1, reason=Reason.LIMIT_RPS.value)
    assert (record["verdict"], record["status"], record["path"]) == ("deny", 429, "/v1/rps/b")


def test_a_limit_of_a_package_holds_wherever_it_stands_in_the_chain(gate: Gate, origin: RawOrigin) -> None:
    with gate.tunnel(API, "stripe") as wire:
        assert wire.get("/v1/free/a", "api.test", "stripe", "wrapper").status == 200
        answer = wire.get("/v1/free/b", "api.test", "stripe", "wrapper")
        assert (answer.status, answer.code) == (429, Reason.LIMIT_RPS)
        assert answer.problem["package"] == "wrapper"
        assert wire.get("/v1/free/c", "api.test", "stripe").status == 200
    assert [s.line.split()[1] for s in origin.seen] == ["/v1/free/a", "/v1/free/c"]


def test_an_upload_stops_where_the_limit_is_and_the_client_is_told(gate: Gate, origin: RawOrigin) -> None:
    with gate.tunnel(API, "stripe") as wire:
        token = gate.mint(API, "stripe")
        head = f"POST /v1/out/a HTTP/1.1\r\nHost: api.test\r\nOutpass-Token: {token}\r\nContent-Length: 400000\r\n\r\n"
        wire.sock.sendall(head.encode())
        with contextlib.suppress(OSError):
            wire.sock.sendall(b"x" * 400_000)
        answer = wire.answer("POST")
        assert (answer.status, answer.code) == (429, Reason.LIMIT_BYTES_OUT)
        assert int(answer.headers["retry-after"]) > 80_000
    gate.wait_records(1, reason=Reason.LIMIT_BYTES_OUT.value, verdict="deny")
    assert all(s.body_bytes <= 100_000 for s in origin.seen), "cut off before it was read: the origin may have seen none of it"
    with gate.tunnel(API, "stripe") as wire:
        assert wire.get("/v1/out/b", "api.test", "stripe").code == Reason.LIMIT_BYTES_OUT
        assert wire.get("/v1/free/a", "api.test", "stripe").status == 200
    assert origin.seen[-1].line.split()[1] == "/v1/free/a"


def test_what_is_sent_in_a_path_counts_as_sent(gate: Gate, origin: RawOrigin) -> None:
    with gate.tunnel(API, "stripe") as wire:
        answer = wire.get("/v1/url/" + "secret" * 200, "api.test", "stripe")
        assert (answer.status, answer.code) == (429, Reason.LIMIT_BYTES_OUT)
    assert not origin.seen


def _sends(total: int) -> object:
    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % total)
        for _n in range(total // 10_000):
            writer.write(b"y" * 10_000)
            await writer.drain()

    return script


def test_a_download_stops_where_the_limit_is_and_does_not_look_whole(gate: Gate, origin: RawOrigin) -> None:
    origin.scripts["/v1/in/a"] = _sends(400_000)  # type: ignore[assignment]
    with gate.tunnel(API, "stripe") as wire:
        token = gate.mint(API, "stripe")
        wire.sock.sendall(f"GET /v1/in/a HTTP/1.1\r\nHost: api.test\r\nOutpass-Token: {token}\r\n\r\n".encode())
        response = http.client.HTTPResponse(wire.sock)
        response.begin()
        with pytest.raises(http.client.IncompleteRead) as short:
            response.read()
    assert response.status == 200
    assert 50_000 < len(short.value.partial) <= 100_000
    (record,) = gate.wait_records(1, reason=Reason.LIMIT_BYTES_IN.value, verdict="deny", path="/v1/in/a")
    assert record["kind"] == "decision"
    with gate.tunnel(API, "stripe") as wire:
        assert wire.get("/v1/in/b", "api.test", "stripe").code == Reason.LIMIT_BYTES_IN


def test_a_head_over_the_limit_is_answered_in_its_place(gate: Gate, origin: RawOrigin) -> None:
    origin.scripts["/v1/head/a"] = b"HTTP/1.1 200 OK\r\nx: " + b"z" * 100 + b"\r\ncontent-length: 0\r\n\r\n"
    with gate.tunnel(API, "stripe") as wire:
        answer = wire.get("/v1/head/a", "api.test", "stripe")
    assert (answer.status, answer.code) == (429, Reason.LIMIT_BYTES_IN)


def test_in_http2_only_the_stream_ends(gate: Gate, origin: RawOrigin) -> None:
    origin.scripts["/v1/h2in/a"] = _sends(400_000)  # type: ignore[assignment]
    with gate.tunnel(API, "stripe", alpn=("h2",)) as wire:
        client = H2(wire)
        answer = client.answer(client.request("/v1/h2in/a", "api.test", extra=_pass(gate)))
        assert "reset" in answer.headers
        up = client.request("/v1/h2out/a", "api.test", method="POST", extra=_pass(gate), end=False)
        with contextlib.suppress(Exception):
            client.data(up, b"x" * 400_000, end=True)
        answer = client.answer(up)
        assert (answer.status, answer.code) == (429, Reason.LIMIT_BYTES_OUT)
        assert client.answer(client.request("/v1/free/a", "api.test", extra=_pass(gate))).status == 200
        assert not client.goaway
    assert sum(s.body_bytes for s in origin.seen) <= 100_000


def test_in_audit_mode_it_goes_on_and_is_recorded_once(gate: Gate, origin: RawOrigin) -> None:
    with gate.tunnel(API, "quiet") as wire:
        assert wire.get("/v1/free/q", "api.test", "quiet").status == 200
        assert wire.get("/v1/free/q", "api.test", "quiet").status == 200
    told = gate.wait_records(2, verdict="would_deny")
    assert {r["reason"] for r in told} == {Reason.LIMIT_RPS, Reason.LIMIT_BYTES_IN}
    assert len(origin.seen) == 2


def test_what_was_used_stays_used_over_a_reload(gate: Gate, origin: RawOrigin) -> None:
    with gate.tunnel(API, "stripe") as wire:
        assert wire.get("/v1/reload/a", "api.test", "stripe").status == 200
        assert gate.change("# moved\n" + POLICY)["op"] == "ack"
        assert wire.get("/v1/reload/b", "api.test", "stripe").code == Reason.LIMIT_RPS


def test_gates_share_one_limit_also_with_one_that_died_and_jails_have_one_each(
    gate: Gate, origin: RawOrigin, bundle: Path
) -> None:
    with Gate(POLICY, connect_to=[("api.test", 443, "127.0.0.1", origin.port)], bundle=bundle, shared=gate.quota) as other:
        with other.tunnel(API, "stripe") as wire:
            assert wire.get("/v1/shared/a", "api.test", "stripe").status == 200
        other.process.kill()
    with gate.tunnel(API, "stripe") as wire:
        assert wire.get("/v1/shared/d", "api.test", "stripe").code == Reason.LIMIT_RPS
    second = gate.add(POLICY, "j-second")
    text = gate.mint(API, "stripe", use="connect", jail="j-second")
    wire = gate.connect(second)
    assert wire.ask(f"CONNECT {API} HTTP/1.1\r\nHost: {API}\r\nProxy-Authorization: Bearer {text}\r\n\r\n").status == 200
    with wire.secure("api.test", verify="api.test") as inside:
        assert inside.get("/v1/shared/e", "api.test", "stripe", jail="j-second").status == 200


def _opened(gate: Gate, dst: str, **claims: str) -> tuple[Wire, Answer]:
    wire = gate.connect()
    text = gate.mint(dst, "stripe", use="connect", **({"tunnel": "opaque", "cap": "network:socket"} | claims))
    return wire, wire.ask(f"CONNECT {dst} HTTP/1.1\r\nHost: {dst}\r\nProxy-Authorization: Bearer {text}\r\n\r\n")


def test_a_raw_tunnel_is_cut_where_the_limit_is(gate: Gate) -> None:
    wire, answer = _opened(gate, "echo.test:7")
    assert answer.status == 200
    got = 0
    with wire, contextlib.suppress(OSError):
        threading.Thread(target=_pour, args=(wire.sock, 400_000), daemon=True).start()
        while data := wire.sock.recv(1 << 16):
            got += len(data)
    assert got <= 100_000
    (record,) = gate.wait_records(1, reason=Reason.LIMIT_BYTES_OUT.value, host="echo.test")
    assert (record["verdict"], record["bytes_out"]) == ("deny", 100_000)
    wire, answer = _opened(gate, "echo.test:7")
    with wire:
        assert (answer.status, answer.code) == (429, Reason.LIMIT_BYTES_OUT)
        assert int(answer.headers["retry-after"]) > 80_000


def test_raw_connections_are_counted_by_the_second(gate: Gate) -> None:
    for status in (200, 429):
        wire, answer = _opened(gate, "sink.test:9")
        wire.sock.close()
        assert answer.status == status
    assert (answer.code, answer.headers["retry-after"] > "0") == (Reason.LIMIT_RPS, True)


def test_a_closed_tunnel_of_http_has_the_limits_of_its_rule(gate: Gate) -> None:
    hello = _hello("pin.test")
    wire, answer = _opened(gate, "pin.test:443", cap="network:http")
    assert answer.status == 200
    got = 0
    with wire, contextlib.suppress(OSError):
        wire.sock.sendall(hello)
        wire.sock.shutdown(socket.SHUT_WR)
        while data := wire.sock.recv(1 << 16):
            got += len(data)
    assert got <= 100_000
    (record,) = gate.wait_records(1, reason=Reason.LIMIT_BYTES_IN.value, host="pin.test")
    assert (record["verdict"], record["bytes_in"]) == ("deny", 100_000)


def _pour(sock: socket.socket, count: int) -> None:
    with contextlib.suppress(OSError):
        sock.sendall(b"x" * count)


def _hello(name: str) -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname=name).do_handshake()
    return outgoing.read()
