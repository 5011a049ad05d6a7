"""The ways round a gate that newer protocols offer: QUIC, encrypted server names, addresses inside addresses. All closed."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import h2.connection
import pytest

from outpass.policy import names
from outpass.reasons import Reason
from tests.support.gate import Gate
from tests.support.h2_client import H2
from tests.support.h2_raw_origin import RawH2Origin
from tests.support.hello import client_hello
from tests.support.raw_origin import RawOrigin
from tests.support.wire import Wire

API = "api.test:443"
ECH = 0xFE0D
OUTER = b"\x00" + b"\x00\x01\x00\x01" + b"\x07" + b"\x00\x20" + secrets.token_bytes(32) + b"\x00\x90" + secrets.token_bytes(144)
"""An outer ECHClientHello (RFC 9849, section 5); of GREASE nothing tells it apart."""


def _opened(gate: Gate, dst: str = API) -> Wire:
    wire = gate.connect()
    text = gate.mint(dst, "stripe", use="connect")
    assert wire.ask(f"CONNECT {dst} HTTP/1.1\r\nHost: {dst}\r\nProxy-Authorization: Bearer {text}\r\n\r\n").status == 200
    return wire


def test_grease_in_the_place_of_an_encrypted_name_is_ignored(gate: Gate) -> None:
    with _opened(gate) as wire:
        wire.sock.sendall(client_hello("api.test", (ECH, OUTER)))
        answer = wire.sock.recv(16_384)
    assert answer[:1] == b"\x16" and answer[5:6] == b"\x02", "a ServerHello"
    assert not gate.errors


def test_an_encrypted_name_behind_another_one_is_refused_and_the_record_says_why(gate: Gate, origin: RawOrigin) -> None:
    before, known = origin.connections, len(gate.records)
    with _opened(gate) as wire:
        wire.sock.sendall(client_hello("public.test", (ECH, OUTER)))
        wire.sock.recv(16_384)
    records = [r for r in gate.wait_records(1, reason=Reason.SNI_MISMATCH) if "ECH" in (r["detail"] or "")]
    assert len(gate.records) > known and records[-1]["host"] == "api.test"
    assert origin.connections == before


def test_no_answer_leads_a_client_to_quic(gate: Gate, origin: RawOrigin) -> None:
    origin.scripts["/v1/quic"] = b'HTTP/1.1 200 OK\r\nalt-svc: h3=":443"\r\nAlt-Svc: h3=":8443"\r\ncontent-length: 2\r\n\r\nok'
    for alpn in ("http/1.1", "h2"):
        with gate.tunnel(API, "stripe", alpn=(alpn,)) as wire:
            if alpn == "h2":
                client = H2(wire)
                extra = [("outpass-token", gate.mint(API, "stripe"))]
                answer = client.answer(client.request("/v1/quic", "api.test", extra=extra))
            else:
                answer = wire.get("/v1/quic", "api.test", "stripe")
        assert answer.status == 200 and "alt-svc" not in answer.headers


def test_no_frame_leads_a_client_to_quic_either(h2_gate: Gate, h2_origin: RawH2Origin) -> None:
    def script(conn: h2.connection.H2Connection, stream: int) -> None:
        conn.advertise_alternative_service(b'h3=":443"', stream_id=stream)
        conn.advertise_alternative_service(b'h3=":443"', origin=b"https://h2.test")
        conn.send_headers(stream, [(b":status", b"103"), (b"alt-svc", b'h3=":443"'), (b"link", b"</a>")])
        conn.send_headers(stream, [(b":status", b"200"), (b"alt-svc", b'h3=":443"')])
        conn.send_data(stream, b"ok")
        conn.send_headers(stream, [(b"alt-svc", b'h3=":443"'), (b"x-sum", b"1")], end_stream=True)

    h2_origin.script = script
    dst = "h2.test:443"
    with h2_gate.tunnel(dst, "stripe", alpn=("h2",)) as wire:
        client = H2(wire)
        answer = client.answer(client.request("/a", "h2.test", extra=[("outpass-token", h2_gate.mint(dst, "stripe"))]))
    assert (answer.status, answer.body) == (200, b"ok") and "alt-svc" not in answer.headers
    assert client.interim == [[(":status", "103"), ("link", "</a>")]] and client.trailers == [[("x-sum", "1")]]
    assert client.alternatives == []


@pytest.fixture(scope="module")
def any_gate(bundle: Path) -> Iterator[Gate]:
    with Gate("version: 1\npackages:\n  stripe: {allow: [network:http]}\n", bundle=bundle) as made:
        yield made


ADDRESSES = {
    "private, mapped": ("[::ffff:10.0.0.1]", Reason.ADDRESS_PRIVATE),
    "private, in NAT64": ("[64:ff9b::10.0.0.1]", Reason.ADDRESS_PRIVATE),
    "loopback, mapped": ("[::ffff:7f00:1]", Reason.ADDRESS_LOOPBACK),
    "loopback, in NAT64": ("[64:ff9b::7f00:1]", Reason.ADDRESS_LOOPBACK),
    "metadata, mapped": ("[::ffff:169.254.169.254]", Reason.ADDRESS_METADATA),
    "metadata, in 6to4": ("[2002:a9fe:a9fe::1]", Reason.ADDRESS_METADATA),
    "loopback": ("[::1]", Reason.ADDRESS_LOOPBACK),
}


@pytest.mark.parametrize("case", ADDRESSES)
def test_an_address_inside_an_address_is_decided_as_what_it_is(any_gate: Gate, case: str) -> None:
    """A capability without a list means any public destination: that these are not public is what refuses them."""
    host, reason = ADDRESSES[case]
    dst = names.format_authority(names.host(host), 443)
    with any_gate.connect() as wire:
        text = any_gate.mint(dst, "stripe", use="connect")
        head = f"CONNECT {host}:443 HTTP/1.1\r\nHost: {host}:443\r\nProxy-Authorization: Bearer {text}\r\n\r\n"
        assert wire.ask(head).status == 200
        answer = wire.secure(None).get("/", host, "stripe", dst=dst)
    assert (answer.status, answer.code) == (403, reason)


@pytest.mark.parametrize("host", ["[::ffff:192.0.2.7]", "[::FFFF:c000:207]", "[0:0:0:0:0:ffff:192.0.2.7]", "192.0.2.7"])
def test_a_mapped_address_is_the_one_that_it_maps_in_connect_and_host(gate: Gate, origin: RawOrigin, host: str) -> None:
    with _opened(gate, "192.0.2.7:443") as wire:
        inner = wire.secure(None)
        assert inner.get("/v1/a", host, "stripe", dst="192.0.2.7:443").status == 200
    assert origin.seen[0].header("host") == ["192.0.2.7"]


@pytest.mark.parametrize("host", ["[::1", "[::1]x", "::1", "[fe80::1%25eth0]", "[::ffff:999.0.0.1]", "[]"])
def test_what_is_no_address_is_refused(gate: Gate, origin: RawOrigin, host: str) -> None:
    with gate.tunnel(API, "stripe") as wire:
        answer = wire.get("/v1/a", host, "stripe", dst=API)
    assert (answer.status, answer.code) == (400, Reason.BAD_HOST)
    assert not origin.seen
