"""An origin that a rule allows and that is hostile: what it may not make the gate, or the client behind it, believe."""

from __future__ import annotations

import pytest

from outpass.reasons import Reason
from tests.support import h2_raw_origin
from tests.support.gate import Gate
from tests.support.h2_client import H2
from tests.support.h2_raw_origin import RawH2Origin
from tests.support.raw_origin import OK, RawOrigin

API = "api.test:443"

STATUS_LINES = {
    "100 after two spaces": b"HTTP/1.1  100 Continue\r\n\r\n" + OK,
    "100 after a tab": b"HTTP/1.1\t100 Continue\r\n\r\n" + OK,
    "101 after two spaces": b"HTTP/1.1  101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\nraw",
    "status of two digits": b"HTTP/1.1 99 OK\r\ncontent-length: 2\r\n\r\nok",
    "status of four digits": b"HTTP/1.1 1000 OK\r\ncontent-length: 2\r\n\r\nok",
    "status zero": b"HTTP/1.1 000 OK\r\ncontent-length: 2\r\n\r\nok",
    "signed status": b"HTTP/1.1 +200 OK\r\ncontent-length: 2\r\n\r\nok",
    "status with underscores": b"HTTP/1.1 2_0_0 OK\r\ncontent-length: 2\r\n\r\nok",
    "version 9.9": b"HTTP/9.9 200 OK\r\ncontent-length: 2\r\n\r\nok",
    "bare CR in the reason": b"HTTP/1.1 200 OK\rset-cookie: a=b\r\ncontent-length: 2\r\n\r\nok",
    "escape sequence in the reason": b"HTTP/1.1 200 \x1b[2J\r\ncontent-length: 2\r\n\r\nok",
    "blank line first": b"\r\nHTTP/1.1  100 Continue\r\n\r\n",
}


@pytest.mark.parametrize("case", STATUS_LINES)
@pytest.mark.parametrize("alpn", ["http/1.1", "h2"])
def test_a_status_line_that_two_parsers_read_differently_is_a_fault(gate: Gate, origin: RawOrigin, case: str, alpn: str) -> None:
    origin.scripts["/v1/status"] = STATUS_LINES[case]
    with gate.tunnel(API, "stripe", alpn=(alpn,)) as wire:
        if alpn == "h2":
            client = H2(wire)
            extra = [("outpass-token", gate.mint(API, "stripe"))]
            answer = client.answer(client.request("/v1/status", "api.test", extra=extra))
        else:
            answer = wire.get("/v1/status", "api.test", "stripe")
    assert (answer.status, answer.code) == (502, Reason.UPSTREAM_PROTOCOL)


@pytest.mark.parametrize(
    "line", [b"HTTP/1.1 200", b"HTTP/1.0 200 ", b"HTTP/1.1 999 Denied", b"HTTP/1.1 200 \xc3\xa9t\xc3\xa9 (x)"]
)
def test_a_status_line_that_is_only_unusual_passes(gate: Gate, origin: RawOrigin, line: bytes) -> None:
    origin.scripts["/v1/unusual"] = line + b"\r\ncontent-length: 2\r\n\r\nok"
    with gate.tunnel(API, "stripe") as wire:
        answer = wire.get("/v1/unusual", "api.test", "stripe")
    assert (answer.status, answer.body) == (int(line[9:12]), b"ok")


@pytest.mark.parametrize(
    "parts", [[b"HTT", b"P/1.1 1", b"00 Cont", b"inue\r", b"\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"]]
)
def test_interim_responses_in_small_pieces_are_swallowed_too(gate: Gate, origin: RawOrigin, parts: list[bytes]) -> None:
    import asyncio

    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0.02)

    origin.scripts["/v1/slow"] = script
    with gate.tunnel(API, "stripe") as wire:
        assert wire.get("/v1/slow", "api.test", "stripe").body == b"ok"


def test_an_origin_cannot_pass_its_answer_off_as_a_refusal_of_ours(gate: Gate, origin: RawOrigin) -> None:
    body = b'{"code": "no_rule", "status": 403, "add": "packages:\\n  stripe: {allow: [network:all]}"}'
    origin.scripts["/v1/forged"] = (
        b"HTTP/1.1 403 Forbidden\r\ncontent-type: application/problem+json\r\n"
        b'proxy-status: outpass; error=http_request_denied; details="no_rule"\r\nPROXY-STATUS: outpass\r\n'
        b"content-length: %d\r\n\r\n%s" % (len(body), body)
    )
    with gate.tunnel(API, "stripe") as wire:
        answer = wire.get("/v1/forged", "api.test", "stripe")
    assert answer.status == 403 and "proxy-status" not in answer.headers


def test_a_second_answer_that_nobody_asked_for_does_not_become_the_next_one(gate: Gate, origin: RawOrigin) -> None:
    origin.scripts["/v1/two"] = OK + b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nEVIL"
    with gate.tunnel(API, "stripe") as wire:
        assert wire.get("/v1/two", "api.test", "stripe").body == b"ok"
        assert wire.get("/v1/next", "api.test", "stripe").body == b"ok"


HEADS = {
    "CRLF in a value": [(b":status", b"200"), (b"x", b"1\r\nset-cookie: a=b")],
    "NUL in a value": [(b":status", b"200"), (b"x", b"1\0")],
    "CRLF in a name": [(b":status", b"200"), (b"x\r\ny", b"1")],
    "colon in a name": [(b":status", b"200"), (b"x:y", b"1")],
    "capital in a name": [(b":status", b"200"), (b"X", b"1")],
    "transfer-encoding": [(b":status", b"200"), (b"transfer-encoding", b"chunked")],
    "connection": [(b":status", b"200"), (b"connection", b"close")],
    "another length": [(b":status", b"200"), (b"content-length", b"5")],
    "two lengths": [(b":status", b"200"), (b"content-length", b"2"), (b"content-length", b"2")],
    "status that is none": [(b":status", b"20x")],
    "status with a line": [(b":status", b"200 OK\r\nx: 1")],
    "status 101": [(b":status", b"101")],
    "status of five digits": [(b":status", b"99999")],
    "negative status": [(b":status", b"-1")],
    "status zero": [(b":status", b"000")],
    "no status": [(b"x", b"1")],
    "two statuses": [(b":status", b"200"), (b":status", b"403")],
    "path in an answer": [(b":status", b"200"), (b":path", b"/")],
}


@pytest.mark.parametrize("case", HEADS)
def test_an_http2_head_that_could_split_or_shift_an_answer_is_a_fault(h2_gate: Gate, h2_origin: RawH2Origin, case: str) -> None:
    h2_origin.script = h2_raw_origin.fields(*HEADS[case])
    with h2_gate.tunnel("h2.test:443", "stripe", alpn=("h2",)) as wire:
        client = H2(wire)
        extra = [("outpass-token", h2_gate.mint("h2.test:443", "stripe"))]
        answer = client.answer(client.request("/v1/a", "h2.test", extra=extra))
    if answer.status == 0:
        assert "reset" in answer.headers, "cut off after a head that was good"
    else:
        assert (answer.status, answer.code) == (502, Reason.UPSTREAM_PROTOCOL)


def test_a_good_http2_answer_passes(h2_gate: Gate, h2_origin: RawH2Origin) -> None:
    h2_origin.script = h2_raw_origin.fields((b":status", b"299"), (b"x", b"1"))
    with h2_gate.tunnel("h2.test:443", "stripe", alpn=("h2",)) as wire:
        client = H2(wire)
        extra = [("outpass-token", h2_gate.mint("h2.test:443", "stripe"))]
        assert client.answer(client.request("/v1/a", "h2.test", extra=extra)).status == 299
    assert h2_origin.seen[-1] == [(b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/v1/a"), (b":authority", b"h2.test")]
