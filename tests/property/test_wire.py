"""What was judged is what went out, and what the other side reads: the canonicaliser against parsers that are not ours."""

from __future__ import annotations

import http.client
import ipaddress
import re
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import h11
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from outpass.model import EgressRequest
from outpass.policy import decide, names
from tests.support.gate import Gate, policy_of
from tests.support.h2_client import H2
from tests.support.origin import Origin
from tests.support.raw_origin import RawOrigin
from tests.support.wire import Answer, Wire

API = "api.test:443"
POLICY = """
version: 1
packages:
  stripe:
    allow: [network:http]
    http: ["https://api.test/v1/**", "https://api.test/a/*/c", "POST https://api.test/only"]
    deny: {http: ["https://api.test/v1/secret/**", "https://api.test/v1/x"]}
"""
COMPILED = decide.compile(policy_of(POLICY))

PIECES = st.sampled_from(
    ["/", "//", "v1", "secret", "a", "c", "x", "only", ".", "..", ";", ";p=1", "?", "?q=/v1", "&", "=", "*", "~", ":", "@", "+",
     "%2e", "%2E", "%2f", "%2F", "%5c", "%00", "%0a", "%25", "%3b", "%3f", "%23", "%c0%ae", "%c0%af", "%61", "%7E", "%", "%4",
     "\\", "#", " ", "\t", "\x00", "\x7f", "é", "\u202e", "\uff0e", "\ud800", "{", "}", "|", "^", "[", "]", '"', "<", ">", "'"]
)  # fmt: skip
TARGETS = st.lists(PIECES, max_size=8).map("".join).flatmap(lambda t: st.sampled_from([t, "/" + t, "/v1/" + t, "/a/" + t]))
HOSTS = st.sampled_from(
    ["api.test", "API.test", "api.test.", "api.test:443", "api.test:0443", "api.test:80", "evil.test", "", "api.test@evil"]
)


@pytest.fixture(scope="module")
def origins() -> Iterator[tuple[RawOrigin, Origin]]:
    """One that keeps the bytes (HTTP/1.1), and hypercorn behind h2."""
    with RawOrigin("api.test") as raw, Origin(("h2.test",)) as real:
        yield raw, real


@pytest.fixture(scope="module")
def gate(origins: tuple[RawOrigin, Origin], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    """A gate before both."""
    raw, real = origins
    path = tmp_path_factory.mktemp("ca") / "upstream.pem"
    assert raw.ca is not None
    path.write_bytes(raw.ca.cert_pem.bytes() + Path(real.ca_file).read_bytes())
    overrides = [("api.test", 443, "127.0.0.1", raw.port), ("h2.test", 443, "127.0.0.1", real.port)]
    with Gate(POLICY.replace("api.test/v1/**", "*.test/v1/**"), connect_to=overrides, bundle=path) as made:
        yield made
        assert not made.errors, made.errors


def _allowed(method: str, target: str) -> bool:
    """What decide() says about a target as an origin was asked for it."""
    path = target.partition("?")[0]
    request = EgressRequest(
        "network:http", ("stripe",), (None,), "https", "api.test", 443, method, path, ("127.0.0.1",), connect_to=True
    )
    return decide.decide(COMPILED, request, now=0).allowed


def _escaped(target: bytes) -> bytes:
    """What may differ between asked and sent: bytes that no URL may hold are escaped."""
    return re.sub(rb"[\x80-\xff]", lambda found: b"%%%02X" % found[0][0], target)


def _read(head: bytes) -> h11.Request:
    """The head as h11 reads it, and it reads no more than one."""
    server = h11.Connection(h11.SERVER)
    server.receive_data(head)
    event = server.next_event()
    assert isinstance(event, h11.Request)
    rest, _ = server.trailing_data
    assert rest == b""
    return event


def _ask(wire: Wire, data: bytes) -> Answer | None:
    try:
        return wire.ask(data)
    except (http.client.HTTPException, ConnectionError, ssl.SSLError):
        return None


common = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@common
@given(TARGETS, HOSTS, st.sampled_from(["GET", "POST", "PUT", "get", "OPTIONS"]))
@example("/v1/a", "API.TEST.:443", "GET")
@example("*", "api.test", "OPTIONS")
@example("/v1/é?é", "api.test", "GET")
def test_over_http1_judged_sent_and_read_are_one(
    gate: Gate, origins: tuple[RawOrigin, Origin], target: str, host: str, method: str
) -> None:
    """Invariant: whatever arrives is one request, is allowed as the origin reads it, is as it was asked for, for this host."""
    origin, _ = origins
    origin.seen.clear()
    raw = target.encode("utf-8", "surrogatepass")
    with gate.tunnel(API, "stripe") as wire:
        token = gate.mint(API, "stripe")
        line = b"%s %s HTTP/1.1\r\n" % (method.encode(), raw)
        answer = _ask(wire, line + f"Host: {host}\r\nOutpass-Token: {token}\r\nContent-Length: 0\r\n\r\n".encode())
    assert answer is not None
    if answer.status != 200:
        assert not origin.seen and answer.code
        return
    (seen,) = origin.seen
    read = _read(seen.head)
    assert (read.method, read.target) == (method.encode(), _escaped(raw))
    assert [v for n, v in read.headers if n == b"host"] == [b"api.test"]
    assert not any(b"outpass" in n or b"proxy" in n for n, _ in read.headers)
    assert _allowed(method, "/" if target == "*" else target)


@common
@given(TARGETS, st.sampled_from(["GET", "POST"]))
@example("/v1/a", "GET")
@example("/v1/é", "GET")
def test_over_http2_judged_sent_and_read_are_one(gate: Gate, origins: tuple[RawOrigin, Origin], target: str, method: str) -> None:
    """Invariant: as above, for a head that comes as fields and leaves as lines."""
    origin, _ = origins
    assume("\ud800" not in target)
    origin.seen.clear()
    with gate.tunnel(API, "stripe", alpn=("h2",)) as wire:
        client = H2(wire)
        extra = [("outpass-token", gate.mint(API, "stripe"))]
        path = target.encode().decode("latin-1")
        client.conn.config.header_encoding = None
        fields = [(":method", method), (":scheme", "https"), (":authority", "api.test"), (":path", path), *extra]
        stream = client.conn.get_next_available_stream_id()
        client.conn.send_headers(stream, [(n.encode("latin-1"), v.encode("latin-1")) for n, v in fields], end_stream=True)
        client.conn.config.header_encoding = "latin-1"
        client.flush()
        answer = client.answer(stream)
    if answer.status != 200:
        assert not origin.seen
        return
    (seen,) = origin.seen
    read = _read(seen.head)
    assert (read.method, read.target) == (method.encode(), _escaped(target.encode()))
    assert _allowed(method, target)


@common
@given(TARGETS)
@example("/v1/a;b")
def test_a_server_that_decodes_paths_reads_one_that_is_allowed(
    gate: Gate, origins: tuple[RawOrigin, Origin], target: str
) -> None:
    """Invariant: the path as hypercorn hands it to an application lies where the rule says, decoded or not."""
    _, origin = origins
    assume("\ud800" not in target)
    origin.seen.clear()
    dst = "h2.test:443"
    with gate.tunnel(dst, "stripe") as wire:
        line = b"GET %s HTTP/1.1\r\n" % target.encode()
        answer = _ask(wire, line + f"Host: h2.test\r\nOutpass-Token: {gate.mint(dst, 'stripe')}\r\n\r\n".encode())
    assert answer is not None
    if answer.status in (400, 403, 421, 501):
        assert not origin.seen
        return
    for seen in origin.wait(1):
        for path in (seen.path, unquote(seen.path), unquote(unquote(seen.path))):
            assert path.startswith("/v1/") and "/../" not in path + "/" and "/./" not in path + "/"


NUMBERS = st.text("0123456789abxXfF.", max_size=24)


@settings(max_examples=1500, deadline=None)
@given(NUMBERS)
@example("0x7f.1")
@example("0177.0.0.01")
@example("127.0.0.1.")
@example("2130706433")
def test_what_the_resolver_takes_for_an_address_is_that_address_or_nothing(text: str) -> None:
    """Invariant: a host that inet_aton(3) reads as an address is never a name to us, and never another address."""
    try:
        theirs = socket.inet_ntoa(socket.inet_aton(text))
    except OSError:
        return
    try:
        ours = names.host(text)
    except ValueError:
        return
    assert ours == theirs


@settings(max_examples=500, deadline=None)
@given(st.one_of(st.ip_addresses(v=6).map(str), st.text("0123456789abcdef:.%", max_size=40)))
@example("::ffff:127.0.0.1")
@example("::ffff:7f00:1")
def test_an_ipv6_spelling_is_read_as_the_kernel_reads_it(text: str) -> None:
    """Invariant: our form of an IPv6 address is the address that inet_pton(3) reads; mapped ones are IPv4."""
    try:
        ours = names.host(f"[{text}]")
    except ValueError:
        return
    theirs = ipaddress.IPv6Address(socket.inet_pton(socket.AF_INET6, text))
    assert ipaddress.ip_address(ours) == (theirs.ipv4_mapped or theirs)
