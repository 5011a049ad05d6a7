"""The way out: resolved once, checked, dialled as checked, verified; and what the client is told when the origin fails."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from outpass.reasons import Reason
from tests.support.gate import Gate
from tests.support.h2_client import H2
from tests.support.raw_origin import OK, RawOrigin

API = "api.test:443"


async def _hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


def test_tls_requests_on_one_client_connection_share_one_origin_connection(gate: Gate, origin: RawOrigin) -> None:
    before = origin.connections
    with gate.tunnel(API, "stripe") as wire:
        for _ in range(5):
            assert wire.get("/v1/a", "api.test", "stripe").status == 200
    with gate.tunnel(API, "stripe") as wire:
        assert wire.get("/v1/a", "api.test", "stripe").status == 200
    assert origin.connections == before + 2, "and another client connection has its own"


def test_redirects_are_handed_back_and_not_followed(gate: Gate, origin: RawOrigin) -> None:
    origin.scripts["/v1/moved"] = b"HTTP/1.1 302 Found\r\nlocation: https://api.test/v1/b\r\ncontent-length: 0\r\n\r\n"
    with gate.tunnel(API, "stripe") as wire:
        answer = wire.get("/v1/moved", "api.test", "stripe")
    assert (answer.status, answer.headers["location"]) == (302, "https://api.test/v1/b")
    assert len(origin.seen) == 1


def test_what_would_lead_past_the_gate_is_stripped_from_answers(gate: Gate, origin: RawOrigin) -> None:
    origin.scripts["/v1/alt"] = (
        b'HTTP/1.1 200 OK\r\nalt-svc: h3=":443"\r\nupgrade: h2c\r\nproxy-authenticate: Basic\r\nx-kept: 1\r\ncontent-length: 0\r\n\r\n'
    )
    with gate.tunnel(API, "stripe") as wire:
        answer = wire.get("/v1/alt", "api.test", "stripe")
    assert answer.headers == {"x-kept": "1", "content-length": "0"}


@pytest.mark.parametrize(
    "script",
    [
        b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" + OK,
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n" + OK,
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x\r\n\r\n2\r\nok\r\n0\r\nx: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-Folded: a\r\n b\r\ncontent-length: 2\r\n\r\nok",
    ],
    ids=["103", "100 and 102", "trailers", "obs-fold"],
)
@pytest.mark.parametrize("alpn", ["http/1.1", "h2"])
def test_interim_responses_trailers_and_folds_of_an_origin_neither_hang_nor_break(
    gate: Gate, origin: RawOrigin, script: bytes, alpn: str
) -> None:
    origin.scripts["/v1/odd"] = script
    with gate.tunnel(API, "stripe", alpn=(alpn,)) as wire:
        if alpn == "h2":
            client = H2(wire)
            for _ in range(2):
                extra = [("outpass-token", gate.mint(API, "stripe"))]
                assert client.answer(client.request("/v1/odd", "api.test", extra=extra)).body == b"ok"
        else:
            for _ in range(2):
                answer = wire.get("/v1/odd", "api.test", "stripe")
                assert (answer.status, answer.body) == (200, b"ok")
                assert answer.headers.get("x-folded", "a b") == "a b"


FAULTS = {
    "hangs up": _hang_up,
    "not HTTP": b"SSH-2.0-x\r\n\r\n",
    "endless head": b"HTTP/1.1 200 OK\r\n" + b"x: " + b"a" * 80_000,
    "unasked switch": b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\r\n",
    "two framings": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "bare CR": b"HTTP/1.1 200 OK\r\nx: a\rb\r\ncontent-length: 0\r\n\r\n",
    "endless interim": b"HTTP/1.1 102 Processing\r\n\r\n" * 40,
}


@pytest.mark.parametrize("case", FAULTS)
@pytest.mark.parametrize("alpn", ["http/1.1", "h2"])
def test_an_origin_that_does_not_speak_http_is_a_fault_and_not_a_hang(
    gate: Gate, origin: RawOrigin, case: str, alpn: str
) -> None:
    origin.scripts["/v1/broken"] = FAULTS[case]
    with gate.tunnel(API, "stripe", alpn=(alpn,)) as wire:
        if alpn == "h2":
            client = H2(wire)
            answer = client.answer(client.request("/v1/broken", "api.test", extra=[("outpass-token", gate.mint(API, "stripe"))]))
        else:
            answer = wire.get("/v1/broken", "api.test", "stripe")
    assert (answer.status, answer.code) == (502, Reason.UPSTREAM_PROTOCOL)
    assert b"mitmproxy" not in answer.body.lower() and "server" not in answer.headers
    trace = answer.problem["instance"].rpartition(":")[2]
    record = gate.wait_records(1, id=trace)[0]
    assert (record["kind"], record["reason"], record["status"]) == ("fault", "upstream_protocol", 502)


@pytest.fixture(scope="module")
def strange(bundle: Path) -> Iterator[tuple[Gate, dict[str, RawOrigin]]]:
    """A gate before origins whose certificates must not be accepted, and places where nobody answers."""
    other = trustme.CA()
    origins = {
        "stranger.test": RawOrigin("stranger.test", ca=other),
        "wrong.test": RawOrigin("wrong.test", cert_hosts=("right.test",)),
    }
    for made in origins.values():
        made.__enter__()
    ca = origins["wrong.test"].ca
    assert ca is not None
    pem = bundle.read_bytes() + ca.cert_pem.bytes()
    (bundle.parent / "both.pem").write_bytes(pem)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        dead = probe.getsockname()[1]
    with socket.create_server(("127.0.0.1", 0)) as silent:
        overrides = [(n, 443, "127.0.0.1", o.port) for n, o in origins.items()]
        overrides += [("dead.test", 443, "127.0.0.1", dead), ("deaf.test", 443, "127.0.0.1", silent.getsockname()[1])]
        policy = "version: 1\npackages:\n  stripe: {allow: [network:http], http: ['https://*.test/**', 'https://localhost/**', 'https://127.0.0.1/**', 'https://*.invalid/**']}\n"
        with Gate(policy, connect_to=overrides, bundle=bundle.parent / "both.pem") as gate:
            yield gate, origins
            assert not gate.errors, gate.errors
    for made in origins.values():
        made.__exit__()


@pytest.mark.parametrize(
    "host, status, reason",
    [
        ("stranger.test", 502, Reason.UPSTREAM_TLS),
        ("wrong.test", 502, Reason.UPSTREAM_TLS),
        ("dead.test", 502, Reason.UPSTREAM_UNREACHABLE),
        ("nowhere.invalid", 502, Reason.RESOLVE_FAILED),
        ("localhost", 403, Reason.ADDRESS_LOOPBACK),
    ],
)
@pytest.mark.parametrize("alpn", ["http/1.1", "h2"])
def test_origins_that_must_not_or_cannot_be_reached(
    strange: tuple[Gate, dict[str, RawOrigin]], host: str, status: int, reason: Reason, alpn: str
) -> None:
    gate, origins = strange
    dst = f"{host}:443"
    with gate.tunnel(dst, "stripe", alpn=(alpn,)) as wire:
        if alpn == "h2":
            client = H2(wire)
            answers = [
                client.answer(client.request("/", host, extra=[("outpass-token", gate.mint(dst, "stripe"))])) for _ in range(2)
            ]
        else:
            answers = [wire.get("/", host, "stripe")]
    assert [(a.status, a.code) for a in answers] == [(status, reason)] * len(answers)
    assert not any(o.seen for o in origins.values())
    assert "127.0.0.1" not in answers[0].body.decode(), "nothing about the host goes back into the jail"
    kind = "decision" if status == 403 else "fault"
    trace = answers[0].problem["instance"].rpartition(":")[2]
    assert gate.wait_records(1, id=trace)[0]["kind"] in (kind, "refusal")


def test_certificate_faults_say_what_is_wrong_with_the_certificate(strange: tuple[Gate, dict[str, RawOrigin]]) -> None:
    gate, _ = strange
    with gate.tunnel("wrong.test:443", "stripe") as wire:
        assert "hostname mismatch" in wire.get("/", "wrong.test", "stripe").problem["detail"].lower()


def test_plain_origins_that_refuse_are_faults_in_absolute_form_too(gate: Gate) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        dead = probe.getsockname()[1]
    policy = "version: 1\npackages:\n  stripe: {allow: [network:http], http: ['http://dead.test/**']}\n"
    with Gate(policy, connect_to=[("dead.test", 80, "127.0.0.1", dead)]) as other, other.connect() as wire:
        answer = wire.plain("http://dead.test/", "dead.test", "stripe")
    assert (answer.status, answer.code) == (502, Reason.UPSTREAM_UNREACHABLE)


def test_an_address_literal_is_reached_only_by_a_rule_that_names_it(strange: tuple[Gate, dict[str, RawOrigin]]) -> None:
    gate, _ = strange
    for dst, expected in (("127.0.0.1:443", Reason.UPSTREAM_UNREACHABLE), ("127.0.0.2:443", Reason.NO_RULE)):
        with gate.connect() as wire:
            text = gate.mint(dst, "stripe", use="connect")
            assert wire.ask(f"CONNECT {dst} HTTP/1.1\r\nHost: {dst}\r\nProxy-Authorization: Bearer {text}\r\n\r\n").status == 200
            inner = wire.secure(None)
            assert inner.get("/", dst.rpartition(":")[0], "stripe").code == expected


def test_the_leaf_certifies_the_name_only_and_is_not_signed_with_its_own_key(gate: Gate) -> None:
    from cryptography import x509

    with gate.tunnel(API, "stripe") as wire:
        assert isinstance(wire.sock, ssl.SSLSocket)
        der = wire.sock.getpeercert(binary_form=True)
        assert der is not None
        leaf = x509.load_der_x509_certificate(der)
        assert wire.sock.version() == "TLSv1.3"
    ca = x509.load_pem_x509_certificate(gate.keys.ca_cert.encode())
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [x509.DNSName("api.test")]
    leaf.verify_directly_issued_by(ca)
    assert leaf.public_key() != ca.public_key()
    assert (leaf.not_valid_after_utc - leaf.not_valid_before_utc).total_seconds() <= 25 * 3600
