"""Bodies of a known length pass without a buffer, and end where their length says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st
from mitmproxy.proxy.layers.http import _http1

from outpass.gate.engine import lean
from tests.support.engine import Drive, engine

CUTS = st.lists(st.integers(1, 40), max_size=12)
FIRST = bytes(range(65, 91)) + bytes(range(97, 123))
HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n"


def _stream(_: str, flow: Any) -> None:
    flow.request.stream = True
    if flow.response is not None:
        flow.response.stream = True


def _in_pieces(data: bytes, cuts: list[int], send: Callable[[bytes], None]) -> None:
    for size in [*cuts, len(data)]:
        if piece := data[:size]:
            send(piece)
        data = data[size:]


def _asked(path: bytes, body: bytes) -> bytes:
    return b"POST %s HTTP/1.1\r\nhost: api.test\r\ncontent-length: %d\r\n\r\n%s" % (path, len(body), body)


@settings(max_examples=40)
@given(CUTS, CUTS)
def test_a_body_of_known_length_arrives_whole_and_the_next_message_is_not_part_of_it(out: list[int], back: list[int]) -> None:
    """Invariant: however two messages are cut into packets, both sides get each body, each message, and nothing else."""
    with engine("ours"), patch.object(_http1.Http1Connection, "_handle_event", lean.http1_event):
        drive = Drive(_stream)
        first, second = _asked(b"/1", FIRST), _asked(b"/2", b"second")
        _in_pieces(first + second, out, drive.from_client)
        assert drive.to_origin == first, "the second waits for the first answer"
        _in_pieces(HEAD % len(FIRST) + FIRST, back, drive.from_origin)
        assert drive.to_client == HEAD % len(FIRST) + FIRST
        assert drive.to_origin == first + second
        drive.from_origin(HEAD % 3 + b"end")
        assert drive.to_client == HEAD % len(FIRST) + FIRST + HEAD % 3 + b"end"
        assert not drive.closed


@settings(max_examples=20)
@given(st.integers(0, 60))
def test_bytes_behind_an_answer_are_not_sent_to_the_client(extra: int) -> None:
    """Invariant: what an origin sends beyond the length that it said goes nowhere."""
    with engine("ours"), patch.object(_http1.Http1Connection, "_handle_event", lean.http1_event):
        drive = Drive(_stream)
        drive.from_client(b"GET / HTTP/1.1\r\nhost: api.test\r\n\r\n")
        drive.from_origin(HEAD % len(FIRST))
        drive.from_origin(FIRST[:10])
        drive.from_origin(FIRST[10:] + b"x" * extra)
        assert drive.to_client == HEAD % len(FIRST) + FIRST
