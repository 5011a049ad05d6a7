"""HTTP/2 from the client, towards HTTP/1.1 and HTTP/2 origins: each stream its own pass, heads judged, framing kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from outpass.reasons import Reason
from tests.integration.gate.conftest import POLICY
from tests.support.gate import Gate
from tests.support.h2_client import H2
from tests.support.origin import Origin
from tests.support.raw_origin import RawOrigin

API = "api.test:443"


@pytest.fixture(scope="module")
def h2_origin() -> Iterator[Origin]:
    """An origin that prefers HTTP/2."""
    with Origin(("api.test",)) as made:
        yield made


@pytest.fixture(scope="module")
def h2_gate(h2_origin: Origin) -> Iterator[Gate]:
    """A gate before it."""
    overrides = [("api.test", 443, "127.0.0.1", h2_origin.port)]
    with Gate(POLICY, connect_to=overrides, bundle=Path(h2_origin.ca_file)) as made:
        yield made
        assert not made.errors, made.errors


def _token(gate: Gate, *chain: str) -> list[tuple[str, str]]:
    return [("outpass-token", gate.mint(API, *chain))]


def test_each_stream_is_charged_to_its_own_package(h2_gate: Gate, h2_origin: Origin) -> None:
    h2_origin.seen.clear()
    with h2_gate.tunnel(API, "stripe", alpn=("h2",)) as wire:
        client = H2(wire)
        streams = [
            client.request("/v1/a", "api.test", extra=_token(h2_gate, "stripe")),
            client.request("/v1/a", "api.test", extra=_token(h2_gate, "other")),
            client.request("/other/a", "api.test", extra=_token(h2_gate, "other")),
            client.request("/v1/a", "api.test"),
        ]
        answers = [client.answer(s) for s in streams]
    assert [a.status for a in answers] == [200, 403, 200, 403]
    assert [a.code for a in answers if a.status == 403] == [Reason.NO_RULE, Reason.UNATTRIBUTED]
    assert sorted(s.path for s in h2_origin.wait(2)) == ["/other/a", "/v1/a"]
    assert all(s.http_version == "2" and not s.header("outpass-token") for s in h2_origin.seen)


HEADS = {
    "absolute URL as :path": ([(":path", "http://evil.test/v1/a")], 400, Reason.BAD_TARGET),
    "space in :path": ([(":path", "/v1/a HTTP/1.1")], 400, Reason.BAD_TARGET),
    "smuggled line in :path": ([(":path", "/v1/a\r\nX: 1")], 400, Reason.BAD_TARGET),
    "empty :path": ([(":path", "")], 400, Reason.BAD_TARGET),
    "dot segment": ([(":path", "/v1/..%2f../other/a")], 400, Reason.BAD_TARGET),
    "another :authority": ([(":authority", "open.test")], 421, Reason.AUTHORITY_MISMATCH),
    "another port": ([(":authority", "api.test:8443")], 421, Reason.AUTHORITY_MISMATCH),
    "userinfo": ([(":authority", "u@api.test")], 400, Reason.USERINFO),
    "bad :authority": ([(":authority", "api.test:x")], 400, Reason.BAD_HOST),
    "another Host": ([("host", "open.test")], 421, Reason.AUTHORITY_MISMATCH),
    "http :scheme": ([(":scheme", "http")], 400, Reason.BAD_TARGET),
    "bad method": ([(":method", "GE T")], 400, Reason.BAD_REQUEST),
    "websocket over h2": ([(":method", "CONNECT"), (":protocol", "websocket")], 501, Reason.UNSUPPORTED),
    "two passes": ([("outpass-token", "a.b.c"), ("outpass-token", "a.b.c")], 400, Reason.PASS_DUPLICATED),
    "CONNECT": ([(":method", "CONNECT")], 501, Reason.UNSUPPORTED),
}


@pytest.mark.parametrize("case", HEADS)
def test_a_head_is_refused_on_its_stream_and_nothing_reaches_the_origin(gate: Gate, origin: RawOrigin, case: str) -> None:
    changes, status, reason = HEADS[case]
    with gate.tunnel(API, "stripe", alpn=("h2",)) as wire:
        client = H2(wire)
        head = {":method": "GET", ":scheme": "https", ":authority": "api.test", ":path": "/v1/a"}
        names = [n for n, _ in changes]
        pseudo = [(n, v) for n, v in {**head, **{n: v for n, v in changes if n.startswith(":")}}.items()]
        plain = [(n, v) for n, v in changes if not n.startswith(":")]
        token = [] if "outpass-token" in names else _token(gate, "stripe")
        answer = client.answer(client.send([*pseudo, *plain, *token]))
        if answer.status:
            assert (answer.status, answer.code) == (status, reason)
            after = client.answer(client.request("/v1/ok", "api.test", extra=_token(gate, "stripe")))
            assert after.status == 200, "the connection stays usable"
        else:
            assert "goaway" in answer.headers or "reset" in answer.headers, "the h2 library refused it by itself"
    assert [s.line for s in origin.seen] in ([], ["GET /v1/ok HTTP/1.1"])


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "a\0b"])
def test_header_values_with_line_ends_never_reach_an_origin(gate: Gate, origin: RawOrigin, value: str) -> None:
    with gate.tunnel(API, "stripe", alpn=("h2",)) as wire:
        client = H2(wire)
        answer = client.answer(client.request("/v1/a", "api.test", extra=[*_token(gate, "stripe"), ("x", value)]))
    assert answer.status in (0, 400)
    assert not origin.seen
    assert gate.wait_records(1, reason="bad_request" if answer.status == 0 else "bad_header")


def test_a_body_without_a_length_is_framed_towards_http1(gate: Gate, origin: RawOrigin) -> None:
    smuggled = b"GET /v1/SMUGGLED HTTP/1.1\r\nHost: api.test\r\n\r\n"
    with gate.tunnel(API, "stripe", alpn=("h2",)) as wire:
        client = H2(wire)
        stream = client.request("/v1/up", "api.test", method="POST", extra=_token(gate, "stripe"), end=False)
        client.data(stream, smuggled, end=True)
        assert client.answer(stream).status == 200
        assert client.answer(client.request("/v1/next", "api.test", extra=_token(gate, "stripe"))).status == 200
    assert [s.line for s in origin.wait(2)] == ["POST /v1/up HTTP/1.1", "GET /v1/next HTTP/1.1"]
    assert origin.seen[0].body == smuggled


def test_a_refused_upload_is_answered_before_it_ends_and_the_connection_goes_on(gate: Gate, origin: RawOrigin) -> None:
    with gate.tunnel(API, "stripe", alpn=("h2",)) as wire:
        client = H2(wire)
        stream = client.request("/nope", "api.test", method="POST", extra=_token(gate, "stripe"), end=False)
        answer = client.answer(stream)
        assert (answer.status, answer.code) == (403, Reason.NO_RULE)
        client.data(stream, b"x" * 1_000_000, end=True)
        assert client.answer(client.request("/v1/a", "api.test", extra=_token(gate, "stripe"))).status == 200
    assert [s.line for s in origin.seen] == ["GET /v1/a HTTP/1.1"]


def test_an_endless_refused_upload_is_cut_off(gate: Gate, origin: RawOrigin) -> None:
    with gate.tunnel(API, "stripe", alpn=("h2",)) as wire:
        client = H2(wire)
        stream = client.request("/nope", "api.test", method="POST", extra=_token(gate, "stripe"), end=False)
        assert client.answer(stream).status == 403
        sent, block = 0, b"x" * 16_000
        while stream not in client.reset and not client.goaway:
            assert sent < 200_000_000, "nobody stopped it"
            if client.conn.local_flow_control_window(stream) < len(block):
                client.pump()
                continue
            client.conn.send_data(stream, block)
            client.flush()
            sent += len(block)
            if sent % 1_600_000 == 0:
                wire.sock.settimeout(0.01)
                try:
                    client.pump()
                except TimeoutError:
                    pass
                wire.sock.settimeout(20)
    assert not origin.seen


def test_upstream_faults_are_problems_on_the_stream(gate: Gate) -> None:
    with gate.tunnel("open.test:443", "stripe", alpn=("h2",)) as wire:
        client = H2(wire)
        extra = [("outpass-token", gate.mint("open.test:443", "stripe"))]
        assert client.answer(client.request("/", "open.test", extra=extra)).code == Reason.NO_RULE


def test_more_requests_at_once_than_the_engine_lets_connect(gate: Gate, origin: RawOrigin) -> None:
    with gate.tunnel(API, "stripe", alpn=("h2",)) as wire:
        client = H2(wire)
        streams = [client.request(f"/v1/{n}", "api.test", extra=_token(gate, "stripe")) for n in range(12)]
        assert [client.answer(s).status for s in streams] == [200] * 12
    assert len(origin.seen) == 12
