"""HTTP/1 in full: trailers, answers before the answer, upgrades, half-closed clients, HTTP/1.0, pipelines. Judged at the origin."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable

import pytest

from outpass.reasons import Reason
from tests.support.gate import Gate
from tests.support.raw_origin import OK, RawOrigin
from tests.support.wire import Wire

API = "api.test:443"
PLAIN = "plain.test:80"
Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def _post(gate: Gate, *lines: str, path: str = "/v1/a", version: str = "1.1", chain: str = "stripe") -> bytes:
    head = [f"POST {path} HTTP/{version}", "Host: api.test", f"Outpass-Token: {gate.mint(API, chain)}", *lines]
    return "\r\n".join([*head, "", ""]).encode()


def _plain(gate: Gate, path: str, *lines: str, version: str = "1.1") -> bytes:
    pass_ = gate.mint(PLAIN, "stripe")
    head = [f"GET http://plain.test{path} HTTP/{version}", "Host: plain.test", f"Proxy-Authorization: Bearer {pass_}", *lines]
    return "\r\n".join([*head, "", ""]).encode()


# --- trailers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("announced", [True, False])
def test_request_trailers_arrive_announced_or_not(gate: Gate, origin: RawOrigin, announced: bool) -> None:
    lines = ["Transfer-Encoding: chunked", *(["Trailer: X-Sum"] if announced else [])]
    with gate.tunnel(API, "stripe") as wire:
        assert wire.ask(_post(gate, *lines) + b"3\r\nabc\r\n0\r\nX-Sum: 9\r\n\r\n").status == 200
        assert wire.get("/v1/b", "api.test", "stripe").status == 200, "and the connection is in step"
    assert [(s.line, s.body) for s in origin.seen] == [
        ("POST /v1/a HTTP/1.1", b"abcx-sum: 9\r\n"),
        ("GET /v1/b HTTP/1.1", b""),
    ]
    assert origin.seen[0].header("trailer") == (["X-Sum"] if announced else [])


@pytest.mark.parametrize("name", ["Outpass-Token", "proxy-authorization"])
def test_a_pass_in_the_trailers_ends_the_request_and_the_origin_never_gets_the_end_of_it(
    gate: Gate, origin: RawOrigin, name: str
) -> None:
    with gate.tunnel(API, "stripe") as wire:
        answer = wire.ask(_post(gate, "Transfer-Encoding: chunked") + f"3\r\nabc\r\n0\r\n{name}: x\r\n\r\n".encode())
        assert (answer.status, answer.code) == (400, Reason.BAD_REQUEST)
        assert "trailers" in answer.problem["detail"]
        assert wire.closed()
    trace = answer.problem["instance"].rpartition(":")[2]
    assert gate.wait_records(1, id=trace)[0]["reason"] == Reason.BAD_REQUEST
    assert all(s.body in (b"", b"abc") and b"\r\n" not in s.body for s in origin.seen)


def test_response_trailers_arrive_without_those_that_frame_or_command(gate: Gate, origin: RawOrigin) -> None:
    origin.scripts["/v1/trailers"] = (
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n2\r\nok\r\n0\r\n"
        b'x-sum: 7\r\nalt-svc: h3=":443"\r\nset-cookie: a=b\r\ncontent-length: 99\r\n\r\n'
    )
    with gate.tunnel(API, "stripe") as wire:
        answer = wire.get("/v1/trailers", "api.test", "stripe", extra="TE: trailers\r\n")
        assert (answer.body, answer.trailers) == (b"ok", [b"x-sum: 7"])
        assert wire.get("/v1/b", "api.test", "stripe").status == 200
    assert origin.seen[0].header("te") == ["trailers"] and origin.seen[0].header("connection") == ["TE"]


@pytest.mark.parametrize("te, sent", [("trailers", ["trailers"]), ("gzip, trailers;q=0.5", ["trailers"]), ("gzip", []), ("", [])])
def test_of_te_only_trailers_go_on(gate: Gate, origin: RawOrigin, te: str, sent: list[str]) -> None:
    with gate.tunnel(API, "stripe") as wire:
        assert wire.get("/v1/a", "api.test", "stripe", extra=f"TE: {te}\r\nConnection: TE\r\n").status == 200
    assert origin.seen[0].header("te") == sent


# --- answers before the answer ------------------------------------------------------------------------------------------


def test_an_invitation_comes_from_the_origin_and_the_body_after_it(gate: Gate, origin: RawOrigin) -> None:
    with gate.tunnel(API, "stripe") as wire:
        wire.sock.sendall(_post(gate, "Content-Length: 5", "Expect: 100-continue"))
        assert wire.sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        wire.sock.sendall(b"hello")
        assert wire.answer().status == 200
    assert origin.seen[0].header("expect") == ["100-continue"] and origin.seen[0].body == b"hello"


def test_an_origin_that_does_not_want_the_body_says_so_before_it_is_sent(gate: Gate, origin: RawOrigin) -> None:
    origin.scripts["/v1/no"] = b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    origin.invites = False
    try:
        with gate.tunnel(API, "stripe") as wire:
            wire.sock.sendall(_post(gate, "Content-Length: 5", "Expect: 100-continue", path="/v1/no"))
            answer = wire.answer()
    finally:
        origin.invites = True
    assert (answer.status, answer.interim) == (413, [])
    assert origin.seen[0].body == b""


def test_a_denied_upload_is_not_invited(gate: Gate, origin: RawOrigin) -> None:
    with gate.tunnel(API, "stripe") as wire:
        wire.sock.sendall(_post(gate, "Content-Length: 5", "Expect: 100-continue", path="/nope"))
        first = wire.sock.recv(20)
        assert first.startswith(b"HTTP/1.1 403")
    assert not origin.seen


def test_early_hints_come_first_and_cannot_lead_past_the_gate(gate: Gate, origin: RawOrigin) -> None:
    origin.scripts["/v1/hints"] = (
        b'HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\nalt-svc: h3=":443"\r\ncontent-length: 5\r\n\r\n'
        b"HTTP/1.1 102 Processing\r\n\r\n" + OK
    )
    with gate.tunnel(API, "stripe") as wire:
        answer = wire.get("/v1/hints", "api.test", "stripe")
        assert (answer.status, answer.body) == (200, b"ok")
        assert answer.interim == [(103, [b"link: </a.css>"]), (102, [])]


def test_an_http10_client_is_spared_them(gate: Gate, plain: RawOrigin) -> None:
    plain.scripts["/v1/hints"] = b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK
    with gate.connect() as wire:
        wire.sock.sendall(_plain(gate, "/v1/hints", version="1.0"))
        assert wire.answer().interim == []


# --- upgrades -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lines",
    [
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n",
        "Connection: Upgrade\r\nUpgrade: TLS/1.0\r\n",
        "Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: short\r\nSec-WebSocket-Version: 13\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 8\r\n",
    ],
)
def test_an_upgrade_that_is_not_a_whole_websocket_handshake_is_an_ordinary_request(
    gate: Gate, origin: RawOrigin, lines: str
) -> None:
    with gate.tunnel(API, "stripe") as wire:
        assert wire.get("/v1/a", "api.test", "stripe", extra=lines).status == 200
    assert not origin.seen[0].header("upgrade") and not origin.seen[0].header("http2-settings")
    assert "upgrade" not in " ".join(origin.seen[0].header("connection")).lower()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\nGET /v1/x",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\nconnection: upgrade\r\n"
        b"sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: wrong\r\n\r\n",
    ],
)
@pytest.mark.parametrize("asked", [True, False])
def test_a_101_that_grants_no_websocket_is_a_fault(gate: Gate, origin: RawOrigin, answer: bytes, asked: bool) -> None:
    origin.scripts["/v1/switch"] = answer
    handshake = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    with gate.tunnel(API, "stripe") as wire:
        got = wire.get("/v1/switch", "api.test", "stripe", extra=handshake if asked else "")
    assert (got.status, got.code) == (502, Reason.UPSTREAM_PROTOCOL)


# --- the ends of things -------------------------------------------------------------------------------------------------


def test_a_client_that_ends_its_side_gets_what_it_waits_for(gate: Gate, plain: RawOrigin) -> None:
    go = threading.Event()

    async def slow(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not go.is_set():
            await asyncio.sleep(0.01)
        writer.write(OK)

    plain.scripts["/v1/slow"] = slow
    with gate.connect() as wire:
        wire.sock.sendall(_plain(gate, "/v1/slow") + _plain(gate, "/v1/after"))
        wire.sock.shutdown(socket.SHUT_WR)
        plain.wait(1)
        go.set()
        assert _statuses(wire) == [200, 200], "and the pipelined one too"
    assert [s.line for s in plain.seen] == ["GET /v1/slow HTTP/1.1", "GET /v1/after HTTP/1.1"]


def _statuses(wire: Wire) -> list[int]:
    """Of all answers until the connection ends."""
    got = b""
    while data := wire.sock.recv(65536):
        got += data
    return [int(part[:3]) for part in got.split(b"HTTP/1.1 ")[1:]]


def test_a_half_closed_client_whose_next_request_is_cut_gets_the_first_answer_and_the_end(gate: Gate, plain: RawOrigin) -> None:
    with gate.connect() as wire:
        wire.sock.sendall(_plain(gate, "/v1/a") + _plain(gate, "/v1/b", "Content-Length: 10") + b"abc")
        wire.sock.shutdown(socket.SHUT_WR)
        assert _statuses(wire)[0] == 200


@pytest.mark.parametrize("keep", [True, False])
def test_http10_keeps_its_connection_only_if_it_asks_to(gate: Gate, plain: RawOrigin, keep: bool) -> None:
    lines = ("Connection: keep-alive",) if keep else ()
    with gate.connect() as wire:
        first = wire.ask(_plain(gate, "/v1/a", *lines, version="1.0"))
        assert (first.status, first.headers["connection"]) == (200, "keep-alive" if keep else "close")
        if keep:
            assert wire.ask(_plain(gate, "/v1/b", version="1.0")).status == 200
        assert wire.closed()
    assert plain.seen[0].line == "GET /v1/a HTTP/1.1", "the gate speaks in its own version"


def test_http10_gets_no_chunks(gate: Gate, plain: RawOrigin) -> None:
    plain.scripts["/v1/chunks"] = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n1\r\n!\r\n0\r\n\r\n"
    with gate.connect() as wire:
        wire.sock.sendall(_plain(gate, "/v1/chunks", "Connection: keep-alive", version="1.0"))
        got = b""
        while data := wire.sock.recv(65536):
            got += data
    head, _, body = got.partition(b"\r\n\r\n")
    assert body == b"ok!" and b"chunked" not in head and b"connection: close" in head


def test_a_pipeline_longer_than_the_gate_keeps_is_held_back_and_every_request_has_its_own_pass(
    gate: Gate, origin: RawOrigin
) -> None:
    go = threading.Event()

    async def slow(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not go.is_set():
            await asyncio.sleep(0.01)
        writer.write(OK)

    origin.scripts["/v1/slow"] = slow
    with gate.tunnel(API, "stripe") as wire:
        paths = ["/v1/slow", "/v1/a", "/other/b", "/v1/c"]
        padding = "X-Padding: " + "a" * 40_000
        data = b"".join(
            f"GET {p} HTTP/1.1\r\nHost: api.test\r\n{padding}\r\nOutpass-Token: {gate.mint(API, 'stripe')}\r\n\r\n".encode()
            for p in (*paths, *["/v1/more"] * 40)
        )
        sender = threading.Thread(target=wire.sock.sendall, args=(data,), daemon=True)
        sender.start()
        origin.wait(1)
        go.set()
        answers = wire.sock.makefile("rb")
        statuses = []
        for _ in range(44):
            statuses.append(int(answers.readline().split()[1]))
            length = 0
            while (line := answers.readline()) not in (b"\r\n", b""):
                if line.lower().startswith(b"content-length"):
                    length = int(line.split(b":")[1])
            answers.read(length)
        sender.join(20)
    assert statuses == [200, 200, 403, 200] + [200] * 40
    assert [s.line.split()[1] for s in origin.seen] == ["/v1/slow", "/v1/a", "/v1/c", *["/v1/more"] * 40]
