"""The bytes of a request head: every way to make two parsers disagree, and the ordinary heads that must pass."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpass.gate.head import judge_http1, judge_http2
from outpass.reasons import Reason

HOST = b"Host: api.test"


def _judge(*lines: bytes, tunnelled: bool = True) -> Reason | None:
    flaw = judge_http1(lines, tunnelled=tunnelled)
    return None if flaw is None else flaw.reason


GOOD = [
    [b"GET / HTTP/1.1", HOST],
    [b"GET /a?b=c%20d HTTP/1.1", HOST, b"Accept: */*", b"X-Empty:", b"X-Tab: a\tb", b"X-Latin: \xe4\xff"],
    [b"POST /a HTTP/1.1", HOST, b"Content-Length: 3", b"Expect: 100-Continue"],
    [b"POST /a HTTP/1.1", HOST, b"Transfer-Encoding: chunked", b"Content-Type: application/grpc-web"],
    [b"OPTIONS * HTTP/1.1", HOST],
    [b"GET / HTTP/1.0"],
    [b"M-SEARCH /a HTTP/1.1", HOST],
    [b"GET / HTTP/1.1", HOST, b"Cookie: a=1", b"Cookie: b=2", b"Accept: a", b"Accept: b"],
]


@pytest.mark.parametrize("lines", GOOD)
def test_ordinary_heads_in_a_tunnel_have_no_flaw(lines: list[bytes]) -> None:
    assert _judge(*lines) is None


@pytest.mark.parametrize(
    "line",
    [
        b"CONNECT api.test:443 HTTP/1.1",
        b"CONNECT [2001:db8::1]:443 HTTP/1.1",
        b"GET http://api.test/a HTTP/1.1",
        b"GET HTTP://api.test HTTP/1.1",
    ],
)
def test_ordinary_heads_to_the_proxy_have_no_flaw(line: bytes) -> None:
    assert _judge(line, HOST, tunnelled=False) is None


@pytest.mark.parametrize("value", [bytes([c]) for c in range(0x20) if c != 0x09] + [b"\x7f"])
def test_no_control_character_passes_in_a_value(value: bytes) -> None:
    assert _judge(b"GET / HTTP/1.1", HOST, b"X: a" + value + b"b") is Reason.BAD_HEADER


@pytest.mark.parametrize("name", [b"", b"X ", b" X", b"X\t", b"X\0", b"X(", b"\xc3\xa4"])
def test_no_name_but_a_token_passes(name: bytes) -> None:
    assert _judge(b"GET / HTTP/1.1", HOST, name + b": a") is Reason.BAD_HEADER


@pytest.mark.parametrize("target", [b"/a b", b"/a\x0bb", b"/a#b", b"/\x00", b"/a\x7f"])
def test_no_target_with_a_character_that_ends_it_elsewhere_passes(target: bytes) -> None:
    assert _judge(b"GET " + target + b" HTTP/1.1", HOST) in (Reason.BAD_TARGET, Reason.BAD_REQUEST)


@pytest.mark.parametrize("name", [b"Outpass-Token", b"OUTPASS-TOKEN", b"Proxy-Authorization"])
def test_two_passes_are_one_too_many_in_any_spelling(name: bytes) -> None:
    assert _judge(b"GET / HTTP/1.1", HOST, name + b": a", name.lower() + b": b") is Reason.PASS_DUPLICATED


def test_http2_heads_have_their_pseudo_fields_once_and_first() -> None:
    head = [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"api.test"), (b":path", b"/")]
    assert judge_http2(head) is None
    assert judge_http2([*head, (b"host", b"api.test")]) is None
    for broken in ([*head, (b":path", b"/b")], [(b"x", b"1"), *head], [*head, (b"x", b"1"), (b":path", b"/b")]):
        flaw = judge_http2(broken)
        assert flaw is not None and flaw.reason is Reason.BAD_REQUEST
    for missing in (b":method", b":scheme", b":authority", b":path"):
        assert judge_http2([pair for pair in head if pair[0] != missing]) is not None


@given(st.lists(st.binary(max_size=60), min_size=1, max_size=6), st.booleans())
def test_any_bytes_are_judged(lines: list[bytes], tunnelled: bool) -> None:
    """Invariant: no head raises, and one without a flaw holds no byte that could end a line or a request target."""
    flaw = judge_http1(lines, tunnelled=tunnelled)
    if flaw is None:
        assert len(lines[0].split()) == 3
        assert not any(set(line) & {0x00, 0x0A, 0x0D} for line in lines)


@given(st.lists(st.tuples(st.binary(max_size=20), st.binary(max_size=20)), max_size=8))
def test_any_field_list_is_judged(fields: list[tuple[bytes, bytes]]) -> None:
    """Invariant: no HTTP/2 head raises, and one without a flaw has a path and no line ends."""
    if judge_http2(fields) is None:
        assert dict(fields)[b":path"][:1] in (b"/", b"*")
        assert not any(set(value) & {0x00, 0x0A, 0x0D} for _, value in fields)


@pytest.mark.parametrize("length", [b"18446744073709551652", b"+3", b"3, 3", b"0x3", b"\xb2", b"", b"-3", b"3_0"])
def test_a_length_that_servers_may_count_otherwise_is_refused(length: bytes) -> None:
    assert _judge(b"POST /a HTTP/1.1", HOST, b"Content-Length: " + length) is Reason.BAD_REQUEST
    head = [(b":method", b"POST"), (b":scheme", b"https"), (b":authority", b"api.test"), (b":path", b"/a")]
    flaw = judge_http2([*head, (b"content-length", length)])
    assert flaw is not None and flaw.reason is Reason.BAD_REQUEST
