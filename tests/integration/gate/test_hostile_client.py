"""A client in the jail that holds good passes for a granted host and tries to make the gate, or the origin, misread it.

Judged at the origin: what arrived there, and what did not.
"""

from __future__ import annotations

import os
import signal
import socket
import ssl
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from outpass.reasons import Reason
from tests.integration.gate.conftest import POLICY
from tests.support.gate import Gate
from tests.support.h2_client import H2
from tests.support.raw_origin import RawOrigin
from tests.support.wire import Wire

API = "api.test:443"


def _opened(gate: Gate, dst: str = API) -> Wire:
    """A connection with a tunnel to `dst`, before TLS."""
    wire = gate.connect()
    text = gate.mint(dst, "stripe", use="connect")
    assert wire.ask(f"CONNECT {dst} HTTP/1.1\r\nHost: {dst}\r\nProxy-Authorization: Bearer {text}\r\n\r\n").status == 200
    return wire


def _token(gate: Gate) -> list[tuple[str, str]]:
    return [("outpass-token", gate.mint(API, "stripe"))]


@pytest.mark.parametrize("method", ["head", "Head", "connect", "Connect"])
@pytest.mark.parametrize("alpn", ["http/1.1", "h2"])
def test_a_method_that_two_parsers_end_differently_is_refused(gate: Gate, origin: RawOrigin, method: str, alpn: str) -> None:
    """The engine ends the answer to `head` at its head; an origin that knows only HEAD sends a body, the next answer."""
    with gate.tunnel(API, "stripe", alpn=(alpn,)) as wire:
        if alpn == "h2":
            client = H2(wire)
            answer = client.answer(client.request("/v1/a", "api.test", method=method, extra=_token(gate)))
        else:
            answer = wire.ask(
                f"{method} /v1/a HTTP/1.1\r\nHost: api.test\r\nOutpass-Token: {gate.mint(API, 'stripe')}\r\n\r\n".encode()
            )
    assert (answer.status, answer.code) == (400, Reason.BAD_REQUEST)
    assert not origin.seen


def test_the_same_on_the_proxy_itself(gate: Gate, plain: RawOrigin) -> None:
    with gate.connect() as wire:
        answer = wire.plain("http://plain.test:80/v1/a", "plain.test", "stripe", dst="plain.test:80", method="connect")
    assert (answer.status, answer.code) == (400, Reason.BAD_REQUEST)
    assert not plain.seen


@pytest.mark.parametrize("coding", ["gzip, chunked", "chunked, chunked", "identity", "chunked,", "chunked;q=1", '"chunked"'])
def test_only_the_one_transfer_coding_that_every_origin_knows_is_carried(gate: Gate, origin: RawOrigin, coding: str) -> None:
    with gate.tunnel(API, "stripe") as wire:
        head = (
            f"POST /v1/a HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: {coding}\r\nOutpass-Token: {gate.mint(API, 'stripe')}"
        )
        answer = wire.ask(f"{head}\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
    assert (answer.status, answer.code) == (400, Reason.BAD_REQUEST)
    assert not origin.seen


CHUNKS = {
    "extensions": ("3;a=b;\x0bc\r\nabc\r\n0;d\r\n\r\n", b"abc"),
    "white space after the size": ("3 \t\r\nabc\r\n0\r\n\r\n", b"abc"),
    "many zeros": ("3\r\nabc\r\n0000\r\n\r\n", b"abc"),
    "trailers, without those that frame": (
        "3\r\nabc\r\n0\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\nHost: evil.test\r\nX-Trailer: 9\r\n\r\n",
        b"abcx-trailer: 9\r\n",
    ),
}


@pytest.mark.parametrize("case", CHUNKS)
def test_chunks_are_framed_anew(gate: Gate, origin: RawOrigin, case: str) -> None:
    chunks, body = CHUNKS[case]
    with gate.tunnel(API, "stripe") as wire:
        head = f"POST /v1/a HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: chunked\r\nOutpass-Token: {gate.mint(API, 'stripe')}"
        assert wire.ask(f"{head}\r\n\r\n{chunks}").status == 200
        assert wire.get("/v1/next", "api.test", "stripe").status == 200
    assert [(s.line, s.body) for s in origin.seen] == [("POST /v1/a HTTP/1.1", body), ("GET /v1/next HTTP/1.1", b"")]


@pytest.mark.parametrize("framing", ["Content-Length: 500", "Transfer-Encoding: chunked", "Content-Length: 0"])
def test_what_follows_a_refused_request_is_not_taken_for_one_unless_it_is(gate: Gate, origin: RawOrigin, framing: str) -> None:
    """A request hidden in the body of one that is refused; with no body, it is a request, and has its own pass."""
    with gate.tunnel(API, "stripe") as wire:
        hidden = f"GET /v1/hidden HTTP/1.1\r\nHost: api.test\r\nOutpass-Token: {gate.mint(API, 'stripe')}\r\n\r\n"
        head = f"POST /nope HTTP/1.1\r\nHost: api.test\r\n{framing}\r\nOutpass-Token: {gate.mint(API, 'stripe')}\r\n\r\n"
        wire.sock.sendall((head + hidden).encode())
        # Chunked is broken by what follows: the framing is faulted before or after the decision, and either way nothing passes.
        assert wire.answer().status in ((403,) if "Content" in framing else (400, 403))
        if framing.endswith(" 0"):
            assert wire.answer().status == 200
    assert [s.line for s in origin.seen] == (["GET /v1/hidden HTTP/1.1"] if framing.endswith(" 0") else [])


PATHS = {
    "overlong dots": ("/v1/%c0%ae%c0%ae/other/a", 400, Reason.BAD_TARGET),
    "overlong slash": ("/v1/..%c0%afother/a", 400, Reason.BAD_TARGET),
    "dots escaped twice": ("/v1/%252e%252e/other/a", 400, Reason.BAD_TARGET),
    "slash escaped twice": ("/v1/x%252f..%252f..%252fother", 400, Reason.BAD_TARGET),
    "parameter on a denied segment": ("/v1/secret;x=1/a", 403, Reason.DENIED_BY_RULE),
    "escaped parameter on a denied segment": ("/v1/secret%3Bx/a", 403, Reason.DENIED_BY_RULE),
    "denied segment escaped twice": ("/v1/%2573ecret/a", 403, Reason.DENIED_BY_RULE),
    "parameter, slash and all": ("/v1/;a//secret;b%2Fa", 403, Reason.DENIED_BY_RULE),
}


@pytest.mark.parametrize("case", PATHS)
def test_paths_that_an_origin_may_read_as_another_are_refused(gate: Gate, origin: RawOrigin, case: str) -> None:
    path, status, reason = PATHS[case]
    with gate.tunnel(API, "stripe") as wire:
        answer = wire.get(path, "api.test", "stripe")
    assert (answer.status, answer.code) == (status, reason)
    assert not origin.seen


def test_a_body_that_is_announced_and_never_comes_is_refused_in_http2(gate: Gate, origin: RawOrigin) -> None:
    with gate.tunnel(API, "stripe", alpn=("h2",)) as wire:
        client = H2(wire)
        extra = [*_token(gate), ("content-length", "50")]
        answer = client.answer(client.request("/v1/a", "api.test", method="POST", extra=extra))
    assert (answer.status, answer.code) == (400, Reason.BAD_REQUEST)
    assert not origin.seen


@pytest.fixture(scope="module")
def strange(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gate, RawOrigin, list[object]]]:
    """A gate before an origin that would rather speak something else than HTTP, and its TLS handshakes' server names."""
    names: list[object] = []
    with RawOrigin("api.test", alpn=("h3", "acme-tls/1", "http/1.1")) as origin:
        assert origin.ca is not None
        origin.context.sni_callback = lambda sock, name, _: names.append((name, sock))
        path = tmp_path_factory.mktemp("ca") / "upstream.pem"
        origin.ca.cert_pem.write_to_path(str(path))
        with Gate(POLICY, connect_to=[("api.test", 443, "127.0.0.1", origin.port)], bundle=Path(path)) as gate:
            yield gate, origin, names
            assert not gate.errors, gate.errors


@pytest.mark.parametrize("offer", [("h3", "http/1.1"), ("acme-tls/1", "http/1.1"), ("h3",), ("acme-tls/1",)])
def test_no_protocol_but_http_is_agreed_with_either_side(
    strange: tuple[Gate, RawOrigin, list[object]], offer: tuple[str, ...]
) -> None:
    gate, origin, names = strange
    origin.seen.clear()
    names.clear()
    with _opened(gate).secure("api.test", verify="api.test", alpn=offer) as wire:
        assert wire.get("/v1/a", "api.test", "stripe").status == 200
        assert isinstance(wire.sock, ssl.SSLSocket)
        assert wire.sock.selected_alpn_protocol() in ("http/1.1", None)
        ((_, upstream),) = names
        assert upstream.selected_alpn_protocol() in ("http/1.1", None)  # type: ignore[attr-defined]
    assert len(origin.seen) == 1


@pytest.mark.parametrize("sni", ["API.TEST", "api.test.", "aPi.TesT."])
def test_the_origin_is_told_the_one_spelling_of_its_name(strange: tuple[Gate, RawOrigin, list[object]], sni: str) -> None:
    gate, _, names = strange
    names.clear()
    with _opened(gate).secure(sni) as wire:
        assert wire.get("/v1/a", "api.test", "stripe").status == 200
    assert [name for name, _ in names] == ["api.test"]  # type: ignore[misc]


@pytest.mark.parametrize("first", [b"\x16\x03\x09", b"\x16\x03\xff\x00\x00"])
def test_bytes_that_begin_like_tls_and_are_not_are_answered_and_not_collected(gate: Gate, first: bytes) -> None:
    with _opened(gate) as wire:
        wire.sock.settimeout(5)
        answer = wire.ask(first)
        assert (answer.status, answer.code) == (501, Reason.UNSUPPORTED)


def test_a_client_hello_without_end_is_cut_off(gate: Gate) -> None:
    with _opened(gate) as wire:
        record = b"\x16\x03\x01\x40\x00"
        sent = 0
        try:
            wire.sock.sendall(record + b"\x01\xff\xff\xff" + bytes(0x4000 - 4))
            while sent < 15_000_000:
                wire.sock.sendall(record + bytes(0x4000))
                sent += 0x4000
        except OSError:
            pass
        assert sent < 15_000_000, "nobody stopped it"


def test_what_follows_bytes_that_are_no_client_hello_is_ignored(gate: Gate) -> None:
    with _opened(gate) as wire:
        try:
            for _ in range(50):
                wire.sock.sendall(b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00" * 10)
        except OSError:
            pass
        wire.sock.settimeout(10)
        assert wire.closed()


def test_spellings_of_a_host_do_not_fill_the_memory(gate: Gate) -> None:
    """Every spelling of an address is that address, so there are endless ones, each as long as a head, and all were kept."""
    before = _rss(gate)
    with gate.tunnel("192.0.2.7:443", "stripe") as wire:
        for n in range(400):
            wire.sock.sendall(f"GET /{n} HTTP/1.1\r\nHost: {'0' * 60_000}{n % 8}.{n // 8}.{n}\r\n\r\n".encode())
            assert wire.answer().code in (Reason.BAD_HOST, Reason.AUTHORITY_MISMATCH)
    assert _rss(gate) - before < 12_000_000


def _rss(gate: Gate) -> int:
    status = Path(f"/proc/{gate.process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


def test_a_pass_is_good_at_the_listener_of_its_jail_only_and_burned_nowhere_else(gate: Gate, origin: RawOrigin) -> None:
    other = gate.add(POLICY, "j-neighbour")
    text = gate.mint(API, "stripe", use="connect")
    head = f"CONNECT {API} HTTP/1.1\r\nHost: {API}\r\nProxy-Authorization: Bearer {text}\r\n\r\n"
    assert gate.connect(other).ask(head).code == Reason.PASS_FOREIGN_JAIL
    assert gate.connect().ask(head).status == 200
    assert gate.connect().ask(head).code == Reason.PASS_REPLAYED
    with _opened(gate).secure("api.test") as wire:
        theirs = gate.mint(API, "stripe", jail="j-neighbour")
        assert (
            wire.ask(f"GET /v1/a HTTP/1.1\r\nHost: api.test\r\nOutpass-Token: {theirs}\r\n\r\n").code == Reason.PASS_FOREIGN_JAIL
        )
    assert not origin.seen


FORMS = ["{0}, {1}", "{0} {1}", "Bearer {0}", "{0}.{1}", "{0}\u00a0", "{0}=", '"{0}"', "{0};{0}"]


@pytest.mark.parametrize("form", FORMS)
def test_a_pass_has_one_form_in_its_field(gate: Gate, origin: RawOrigin, form: str) -> None:
    with gate.tunnel(API, "stripe") as wire:
        value = form.format(gate.mint(API, "stripe"), gate.mint(API, "stripe"))
        answer = wire.ask(f"GET /v1/a HTTP/1.1\r\nHost: api.test\r\nOutpass-Token: {value}\r\n\r\n")
    assert answer.status in (400, 403)
    assert answer.code in (Reason.PASS_MALFORMED, Reason.PASS_FORGED, Reason.PASS_DUPLICATED)
    assert not origin.seen


def test_the_field_of_the_other_place_is_no_pass(gate: Gate, origin: RawOrigin, plain: RawOrigin) -> None:
    with gate.tunnel(API, "stripe") as wire:
        inner = f"Proxy-Authorization: Bearer {gate.mint(API, 'stripe')}\r\n"
        assert wire.ask(f"GET /v1/a HTTP/1.1\r\nHost: api.test\r\n{inner}\r\n").code == Reason.UNATTRIBUTED
    outer = f"Outpass-Token: {gate.mint('plain.test:80', 'stripe')}\r\n"
    answer = gate.connect().ask(f"GET http://plain.test/v1/a HTTP/1.1\r\nHost: plain.test\r\n{outer}\r\n")
    assert (answer.status, answer.code) == (407, Reason.PASS_MISSING)
    assert not origin.seen and not plain.seen


def test_a_spawn_pass_is_no_pass_for_a_request_inside_and_ends_with_its_time(gate: Gate, origin: RawOrigin) -> None:
    spawn = gate.mint("*:0", "stripe", use="spawn", exp=int(time.time()) + 3600)
    with gate.tunnel(API, "stripe") as wire:
        assert wire.ask(f"GET /v1/a HTTP/1.1\r\nHost: api.test\r\nOutpass-Token: {spawn}\r\n\r\n").code == Reason.PASS_WRONG_USE
    brief = gate.mint("*:0", "stripe", use="spawn", exp=int(time.time()) + 2)
    with gate.connect() as wire:
        assert wire.basic(API, brief).status == 200
        inner = wire.secure("api.test")
        end = time.monotonic() + 10
        while (answer := inner.get("/v1/a", "api.test")).status == 200:
            assert time.monotonic() < end, "the tunnel outlived its pass"
            time.sleep(0.1)
        assert answer.code == Reason.PASS_EXPIRED


def test_every_request_that_reached_the_origin_has_a_record_and_no_record_holds_raw_text(gate: Gate, origin: RawOrigin) -> None:
    ugly = ["/v1/%1b[31m", "/v1/a\u202eb", "/v1/\u2028x", '/v1/"><script>', "/v1/a?\u202e=\u0085&token=hush", "/v1/\x7f"]
    for n, path in enumerate(ugly):
        with gate.tunnel(API, "stripe") as wire:
            token = gate.mint(API, "stripe")
            wire.ask(f"GET {path}{n} HTTP/1.1\r\nHost: api.test\r\nOutpass-Token: {token}\r\n\r\n".encode())
    reached = {s.line.split()[1].partition("?")[0] for s in origin.seen}
    allowed = gate.wait_records(len(reached), verdict="allow")
    assert len([r for r in allowed if r["path"].startswith("/v1/")]) >= len(reached)
    for record in gate.records:
        text = [v for v in record.values() if isinstance(v, str)]
        assert all(c.isascii() and c.isprintable() for v in text for c in v.replace("…", "").replace("\n", "")), record
        assert "hush" not in str(record)


def test_clients_that_are_gone_before_they_are_accepted_leave_nothing(gate: Gate) -> None:
    os.kill(gate.process.pid, signal.SIGSTOP)
    for _ in range(20):
        sock = socket.create_connection(("127.0.0.1", gate.jail.port), 20)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
    os.kill(gate.process.pid, signal.SIGCONT)
    with gate.connect() as wire:
        assert wire.ask("GET / HTTP/1.1\r\nHost: x\r\n\r\n").status == 400
    assert not gate.errors, "each was a line on standard error once, and a connection that only the garbage collector closed"
