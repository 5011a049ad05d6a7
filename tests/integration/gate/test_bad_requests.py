"""HTTP/1 that two parsers could read differently, or that names another place than it goes to: refused with a reason, and
nothing of it reaches the origin.
"""

from __future__ import annotations

import pytest

from outpass.reasons import Reason
from tests.support.gate import Gate
from tests.support.raw_origin import RawOrigin

API = "api.test:443"

INNER = {
    "another Host than CONNECT": ("GET /v1/a HTTP/1.1\r\nHost: open.test\r\n{pass}\r\n", 421, Reason.AUTHORITY_MISMATCH),
    "another port than CONNECT": ("GET /v1/a HTTP/1.1\r\nHost: api.test:8443\r\n{pass}\r\n", 421, Reason.AUTHORITY_MISMATCH),
    "two Hosts": ("GET /v1/a HTTP/1.1\r\nHost: api.test\r\nHost: open.test\r\n{pass}\r\n", 400, Reason.BAD_HOST),
    "no Host": ("GET /v1/a HTTP/1.1\r\n{pass}\r\n", 400, Reason.BAD_HOST),
    "user in Host": ("GET /v1/a HTTP/1.1\r\nHost: u@api.test\r\n{pass}\r\n", 400, Reason.BAD_HOST),
    "empty Host": ("GET /v1/a HTTP/1.1\r\nHost:\r\n{pass}\r\n", 400, Reason.BAD_HOST),
    "absolute form to elsewhere": ("GET https://open.test/v1/a HTTP/1.1\r\nHost: api.test\r\n{pass}\r\n", 400, Reason.BAD_TARGET),
    "absolute form": ("GET https://api.test/v1/a HTTP/1.1\r\nHost: api.test\r\n{pass}\r\n", 400, Reason.BAD_TARGET),
    "CONNECT in the tunnel": ("CONNECT open.test:443 HTTP/1.1\r\nHost: open.test\r\n{pass}\r\n", 501, Reason.UNSUPPORTED),
    "fragment": ("GET /v1/a#b HTTP/1.1\r\nHost: api.test\r\n{pass}\r\n", 400, Reason.BAD_TARGET),
    "two spaces": ("GET  /v1/a HTTP/1.1\r\nHost: api.test\r\n{pass}\r\n", 400, Reason.BAD_REQUEST),
    "space in path": ("GET /v1/a b HTTP/1.1\r\nHost: api.test\r\n{pass}\r\n", 400, Reason.BAD_REQUEST),
    "tab in request line": ("GET\t/v1/a HTTP/1.1\r\nHost: api.test\r\n{pass}\r\n", 400, Reason.BAD_REQUEST),
    "bad method": ("GE(T /v1/a HTTP/1.1\r\nHost: api.test\r\n{pass}\r\n", 400, Reason.BAD_REQUEST),
    "HTTP/2.0 by text": ("GET /v1/a HTTP/2.0\r\nHost: api.test\r\n{pass}\r\n", 400, Reason.BAD_REQUEST),
    "dot segment": ("GET /v1/../other/a HTTP/1.1\r\nHost: api.test\r\n{pass}\r\n", 400, Reason.BAD_TARGET),
    "encoded dot segment": ("GET /v1/%2e%2e/other/a HTTP/1.1\r\nHost: api.test\r\n{pass}\r\n", 400, Reason.BAD_TARGET),
    "backslash": ("GET /v1/%5c..%5cother HTTP/1.1\r\nHost: api.test\r\n{pass}\r\n", 400, Reason.BAD_TARGET),
    "bytes that are not UTF-8": ("GET /v1/\xff HTTP/1.1\r\nHost: api.test\r\n{pass}\r\n", 400, Reason.BAD_TARGET),
    "bare CR": ("GET /v1/a HTTP/1.1\r\nHost: api.test\r\nX: a\rb\r\n{pass}\r\n", 400, Reason.BAD_HEADER),
    "NUL": ("GET /v1/a HTTP/1.1\r\nHost: api.test\r\nX: a\0b\r\n{pass}\r\n", 400, Reason.BAD_HEADER),
    "obs-fold": ("GET /v1/a HTTP/1.1\r\nHost: api.test\r\nX: a\r\n Outpass: b\r\n{pass}\r\n", 400, Reason.BAD_HEADER),
    "escape sequence": ("GET /v1/a HTTP/1.1\r\nHost: api.test\r\nX: \x1b[31m\r\n{pass}\r\n", 400, Reason.BAD_HEADER),
    "space before colon": ("GET /v1/a HTTP/1.1\r\nHost: api.test\r\nX : a\r\n{pass}\r\n", 400, Reason.BAD_HEADER),
    "no colon": ("GET /v1/a HTTP/1.1\r\nHost: api.test\r\nX\r\n{pass}\r\n", 400, Reason.BAD_HEADER),
    "length and chunked": (
        "POST /v1/a HTTP/1.1\r\nHost: api.test\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n{pass}\r\n",
        400,
        Reason.BAD_REQUEST,
    ),
    "two lengths": ("POST /v1/a HTTP/1.1\r\nHost: api.test\r\nContent-Length: 3\r\nContent-Length: 4\r\n{pass}\r\n", 400, Reason.BAD_HEADER),
    "signed length": ("POST /v1/a HTTP/1.1\r\nHost: api.test\r\nContent-Length: +3\r\n{pass}\r\n", 400, Reason.BAD_REQUEST),
    "length list": ("POST /v1/a HTTP/1.1\r\nHost: api.test\r\nContent-Length: 3, 3\r\n{pass}\r\n", 400, Reason.BAD_REQUEST),
    "unknown coding": ("POST /v1/a HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: xchunked\r\n{pass}\r\n", 400, Reason.BAD_REQUEST),
    "chunked in HTTP/1.0": ("POST /v1/a HTTP/1.0\r\nHost: api.test\r\nTransfer-Encoding: chunked\r\n{pass}\r\n", 400, Reason.BAD_REQUEST),
    "Connection names Host": ("GET /v1/a HTTP/1.1\r\nHost: api.test\r\nConnection: Host\r\n{pass}\r\n", 400, Reason.BAD_HEADER),
    "Expect": ("POST /v1/a HTTP/1.1\r\nHost: api.test\r\nExpect: 200-ok\r\nContent-Length: 0\r\n{pass}\r\n", 501, Reason.UNSUPPORTED),
    "not HTTP at all": ("\x01\x02\x03\r\n\r\n", 400, Reason.BAD_REQUEST),
}  # fmt: skip


@pytest.mark.parametrize("case", INNER)
def test_a_request_in_a_tunnel_is_refused_before_anything_is_sent(gate: Gate, origin: RawOrigin, case: str) -> None:
    text, status, reason = INNER[case]
    with gate.tunnel(API, "stripe") as wire:
        data = text.replace("{pass}", f"Outpass-Token: {gate.mint(API, 'stripe')}\r\n")
        answer = wire.ask(data, method="GET")
    assert (answer.status, answer.code) == (status, reason)
    assert not origin.seen
    assert gate.wait_records(1, id=answer.problem["instance"].rpartition(":")[2])[0]["reason"] == reason


PROXY = {
    "userinfo": ("CONNECT user@api.test:443 HTTP/1.1\r\nHost: api.test\r\n\r\n", 400, Reason.USERINFO),
    "user and password": ("CONNECT u:p@api.test:443 HTTP/1.1\r\nHost: api.test\r\n\r\n", 400, Reason.USERINFO),
    "CONNECT without port": ("CONNECT api.test HTTP/1.1\r\nHost: api.test\r\n\r\n", 400, Reason.BAD_TARGET),
    "CONNECT to port 0": ("CONNECT api.test:0 HTTP/1.1\r\nHost: api.test\r\n\r\n", 400, Reason.BAD_REQUEST),
    "CONNECT with a path": ("CONNECT api.test:443/x HTTP/1.1\r\nHost: api.test\r\n\r\n", 400, Reason.BAD_TARGET),
    "CONNECT with a body": (
        "CONNECT api.test:443 HTTP/1.1\r\nHost: api.test\r\nContent-Length: 3\r\n\r\nabc",
        400,
        Reason.BAD_REQUEST,
    ),
    "CONNECT to an address": ("CONNECT 198.51.100.1:443 HTTP/1.1\r\nHost: x\r\n\r\n", 407, Reason.PASS_MISSING),
    "CONNECT to a disguised loopback": ("CONNECT 0x7f.1:443 HTTP/1.1\r\nHost: x\r\n\r\n", 407, Reason.PASS_MISSING),
    "CONNECT to an IPv6 loopback": ("CONNECT [::1]:443 HTTP/1.1\r\nHost: x\r\n\r\n", 407, Reason.PASS_MISSING),
    "path": ("GET /v1/a HTTP/1.1\r\nHost: plain.test\r\n\r\n", 400, Reason.BAD_TARGET),
    "OPTIONS *": ("OPTIONS * HTTP/1.1\r\nHost: plain.test\r\n\r\n", 400, Reason.BAD_TARGET),
    "https in absolute form": ("GET https://api.test/v1/a HTTP/1.1\r\nHost: api.test\r\n\r\n", 501, Reason.UNSUPPORTED),
    "another scheme": ("GET ftp://api.test/v1/a HTTP/1.1\r\nHost: api.test\r\n\r\n", 400, Reason.BAD_TARGET),
    "userinfo in absolute form": ("GET http://u:p@plain.test/v1/a HTTP/1.1\r\nHost: plain.test\r\n\r\n", 400, Reason.USERINFO),
    "no host": ("GET http:///v1/a HTTP/1.1\r\nHost: plain.test\r\n\r\n", 400, Reason.BAD_TARGET),
    "backslash host": ("GET http://plain.test\\@evil.test/v1/a HTTP/1.1\r\nHost: plain.test\r\n\r\n", 400, Reason.USERINFO),
    "HTTP/2 preface": ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 501, Reason.UNSUPPORTED),
    "TLS on the listener": ("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + "a" * 80, 400, Reason.BAD_REQUEST),
}


@pytest.mark.parametrize("case", PROXY)
def test_a_request_to_the_proxy_itself_is_refused(gate: Gate, origin: RawOrigin, plain: RawOrigin, case: str) -> None:
    text, status, reason = PROXY[case]
    before = origin.connections + plain.connections
    with gate.connect() as wire:
        wire.sock.sendall(text.encode("latin-1"))
        answer = wire.answer()
    assert (answer.status, answer.code) == (status, reason)
    assert origin.connections + plain.connections == before


def test_the_target_wins_over_a_host_that_differs(gate: Gate, plain: RawOrigin) -> None:
    answer = gate.connect().plain("http://plain.test/v1/a", "evil.test", "stripe", dst="plain.test:80")
    assert answer.status == 200
    assert plain.seen[0].header("host") == ["plain.test"]


@pytest.mark.parametrize("where", ["listener", "tunnel"])
def test_a_head_of_more_than_64_kib_is_refused_and_the_answer_arrives(gate: Gate, origin: RawOrigin, where: str) -> None:
    padding = "X-Padding: " + "a" * 8000 + "\r\n"
    if where == "tunnel":
        with gate.tunnel(API, "stripe") as wire:
            answer = wire.get("/v1/a", "api.test", "stripe", extra=padding * 20)
    else:
        with gate.connect() as wire:
            answer = wire.ask(f"CONNECT {API} HTTP/1.1\r\nHost: {API}\r\n{padding * 20}")
    assert (answer.status, answer.code) == (431, Reason.HEAD_TOO_LARGE)
    assert not origin.seen


def test_a_large_head_that_fits_passes(gate: Gate, origin: RawOrigin) -> None:
    with gate.tunnel(API, "stripe") as wire:
        assert wire.get("/v1/a", "api.test", "stripe", extra=("X-Padding: " + "a" * 8000 + "\r\n") * 6).status == 200
    assert len(origin.seen[0].head) > 48_000


@pytest.mark.parametrize(
    "first", [b"SSH-2.0-OpenSSH_9\r\n", b"GET / HTTP/1.1\r\nHost: api.test\r\n\r\n", b"\x00\x00\x00\x01", b"\x17\x03\x03\x00\x01"]
)
def test_bytes_in_a_tunnel_that_are_not_tls_are_refused_and_the_tunnel_closed(
    gate: Gate, origin: RawOrigin, first: bytes
) -> None:
    before = origin.connections
    with gate.connect() as wire:
        text = gate.mint(API, "stripe", use="connect")
        assert wire.ask(f"CONNECT {API} HTTP/1.1\r\nHost: {API}\r\nProxy-Authorization: Bearer {text}\r\n\r\n").status == 200
        answer = wire.ask(first)
        assert (answer.status, answer.code) == (501, Reason.UNSUPPORTED)
        assert wire.closed()
    assert origin.connections == before


@pytest.mark.parametrize(
    "sni, reason", [("open.test", Reason.SNI_MISMATCH), (None, Reason.SNI_MISSING), ("sub.api.test", Reason.SNI_MISMATCH)]
)
def test_a_tls_name_other_than_the_tunnels_host_is_told_inside(
    gate: Gate, origin: RawOrigin, sni: str | None, reason: Reason
) -> None:
    before = origin.connections
    with gate.connect() as wire:
        text = gate.mint(API, "stripe", use="connect")
        assert wire.ask(f"CONNECT {API} HTTP/1.1\r\nHost: {API}\r\nProxy-Authorization: Bearer {text}\r\n\r\n").status == 200
        inner = wire.secure(sni)
        answer = inner.get("/v1/a", "api.test", "stripe")
    assert (answer.status, answer.code) == (421, reason)
    assert origin.connections == before


def test_an_address_that_a_rule_names_is_reached_without_a_tls_name(gate: Gate, origin: RawOrigin) -> None:
    with gate.connect() as wire:
        text = gate.mint("192.0.2.7:443", "stripe", use="connect")
        head = f"CONNECT 192.0.2.7:443 HTTP/1.1\r\nHost: 192.0.2.7:443\r\nProxy-Authorization: Bearer {text}\r\n\r\n"
        assert wire.ask(head).status == 200
        inner = wire.secure(None)
        assert inner.get("/v1/a", "192.0.2.7", "stripe").status in (200, 502)
    assert gate.wait_records(1, host="192.0.2.7")[0]["verdict"] == "allow"


@pytest.mark.parametrize("host", ["API.test", "api.test.", "api.test:443"])
def test_other_spellings_of_the_tunnels_host_are_that_host_and_leave_in_one_spelling(
    gate: Gate, origin: RawOrigin, host: str
) -> None:
    with gate.tunnel(API, "stripe") as wire:
        assert wire.get("/v1/a", host, "stripe", dst=API).status == 200
    assert origin.seen[0].header("host") == ["api.test"]


def test_options_star_asks_for_the_root(gate: Gate, origin: RawOrigin) -> None:
    with gate.tunnel(API, "stripe") as wire:
        assert (
            wire.ask(f"OPTIONS * HTTP/1.1\r\nHost: api.test\r\nOutpass-Token: {gate.mint(API, 'stripe')}\r\n\r\n").code
            == Reason.NO_RULE
        )
    with gate.tunnel("open.test:443", "stripe") as wire:
        assert wire.ask("OPTIONS * HTTP/1.1\r\nHost: open.test\r\n\r\n").status == 200
    assert [s.line for s in origin.seen] == ["OPTIONS * HTTP/1.1"]


def test_methods_are_exact(gate: Gate, origin: RawOrigin) -> None:
    with gate.tunnel(API, "stripe") as wire:
        assert wire.get("/v1/a", "api.test", "stripe", method="get").status == 200
    assert origin.seen[0].line == "get /v1/a HTTP/1.1"
    assert gate.wait_records(1, method="get")


def test_pipelined_requests_are_each_judged(gate: Gate, origin: RawOrigin) -> None:
    with gate.tunnel(API, "stripe") as wire:
        heads = "".join(
            f"GET {path} HTTP/1.1\r\nHost: api.test\r\nOutpass-Token: {gate.mint(API, 'stripe')}\r\n\r\n"
            for path in ("/v1/a", "/other/b", "/v1/c")
        )
        wire.sock.sendall(heads.encode())
        stream = wire.sock.makefile("rb")
        statuses = []
        for _ in range(3):
            statuses.append(int(stream.readline().split()[1]))
            length = 0
            while (line := stream.readline()) not in (b"\r\n", b""):
                if line.lower().startswith(b"content-length"):
                    length = int(line.split(b":")[1])
            stream.read(length)
    assert statuses == [200, 403, 200]
    assert [s.line.split()[1] for s in origin.seen] == ["/v1/a", "/v1/c"]


def test_head_is_refused_without_a_body(gate: Gate) -> None:
    with gate.tunnel(API, "stripe") as wire:
        answer = wire.get("/nope", "api.test", "stripe", method="HEAD")
        assert (answer.status, answer.body) == (403, b"")
        assert int(answer.headers["content-length"]) > 0
        assert wire.get("/v1/a", "api.test", "stripe").status == 200, "and the connection is still in step"
