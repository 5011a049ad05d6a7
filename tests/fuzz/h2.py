"""HTTP/2 frames of any kind from a client, inside a tunnel, to an HTTP/1 origin (the downgrade) or an HTTP/2 one.

Lives here: a language of one line a frame, so that mutations make frames and not noise. May not live here: the gate and the
judges (gateway.py).

    2                         (alone in a line) the origin speaks HTTP/2
    H STREAM FLAGS FIELDS     HEADERS; FLAGS of e (END_STREAM) and n (no END_HEADERS); FIELDS: NAME=VALUE between tabs
    C STREAM FLAGS FIELDS     CONTINUATION; D STREAM FLAGS BYTES: DATA; W STREAM N; R STREAM N; S ID N; P STREAM N; X TYPE FLAGS STREAM BYTES
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final
from urllib.parse import unquote_to_bytes

import hpack
from mitmproxy.proxy import events as engine_events

from tests.fuzz.gateway import Through

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
_HEAD: Final = b":method=GET\t:scheme=https\t:authority=api.test\t:path=/v1/a"
_POST: Final = b":method=POST\t:scheme=https\t:authority=api.test\t:path=/v1/b"


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One frame (RFC 9113, section 4.1)."""
    return len(payload).to_bytes(3, "big") + bytes((kind & 255, flags & 255)) + (stream & 0xFFFFFFFF).to_bytes(4, "big") + payload


def _number(text: bytes) -> int:
    try:
        return int(text) & 0xFFFFFFFF
    except ValueError:
        return 0


def _block(encoder: hpack.Encoder, text: bytes) -> bytes:
    pairs = (part.partition(b"=")[::2] for part in text.split(b"\t") if part)
    return encoder.encode([(unquote_to_bytes(n), unquote_to_bytes(v)) for n, v in pairs], huffman=False)


def frames(program: bytes) -> Iterable[bytes]:
    """The frames that a program stands for; what it cannot mean is left out."""
    encoder = hpack.Encoder()
    for line in program.split(b"\n"):
        word, _, rest = line.partition(b" ")
        parts = rest.split(b" ", 2)
        stream, flags, body = _number(parts[0]), parts[1] if len(parts) > 1 else b"", parts[2] if len(parts) > 2 else b""
        end, open_ = b"e" in flags, b"n" in flags
        if word in (b"H", b"C"):
            kind = 1 if word == b"H" else 9
            yield frame(kind, (end and word == b"H") | (0 if open_ else 4), stream, _block(encoder, body))
        elif word == b"D":
            yield frame(0, int(end), stream, unquote_to_bytes(body))
        elif word == b"X":
            more = body.split(b" ", 1)
            yield frame(stream, _number(flags), _number(more[0]), unquote_to_bytes(more[1] if len(more) > 1 else b""))
        elif word == b"S":
            yield frame(4, 0, 0, (stream & 0xFFFF).to_bytes(2, "big") + _number(flags).to_bytes(4, "big"))
        elif word in (b"W", b"R"):
            yield frame(8 if word == b"W" else 3, 0, stream, _number(flags).to_bytes(4, "big"))
        elif word == b"P":
            yield frame(2, 0, stream, _number(flags).to_bytes(4, "big") + b"\x0f")


class H2:
    """HTTP/2 heads that mean something else in HTTP/1, and frames out of order."""

    name = "h2"
    words = (
        b"\n", b"\t", b" ", b"=", b"H 1 e ", b"H 3 e ", b"H 5  ", b"H 1 n ", b"C 1  ", b"D 1 e abcd", b"D 1  abcd", b"D 3 e ", b"W 0 1000",
        b"W 1 2147483647", b"R 1 8", b"R 3 8", b"S 4 0", b"S 1 0", b"S 5 16384", b"S 3 0", b"P 1 3", b"X 7 0 0 00000000", b"X 6 0 0 12345678",
        b"X 99 0 1 ", b"X 5 4 1 ", b"2\n", _HEAD, _POST, b":method=", b":path=", b":scheme=http", b":authority=evil.test", b":status=200",
        b":protocol=websocket", b":method=CONNECT", b"host=api.test", b"host=evil.test", b"content-length=4", b"content-length=0",
        b"content-length=+4", b"transfer-encoding=chunked", b"connection=close", b"connection=content-length", b"te=trailers", b"te=gzip",
        b"upgrade=h2c", b"x=a%0d%0aGET /other HTTP/1.1", b"x=%00", b"x%0d%0ay=1", b"x%3a y=1", b"X=1", b"%20x=1", b"x=%20y", b"cookie=a=b",
        b"expect=100-continue", b"outpass-token=x", b"proxy-authorization=x", b"trailer=x", b"keep-alive=5", b"%0d%0a", b"%0a", b"%00", b"%20",
        b"/v1/secret/a", b"/other", b"/v1/a?b", b"/v1/a#b", b"*", b"OPTIONS", b"http://evil.test/", b"//evil.test/v1/a", b"GET /v1/c HTTP/1.1%0d%0a",
        b"0%0d%0a%0d%0a", b"0%0d%0a%0d%0aGET /other HTTP/1.1%0d%0aHost: api.test%0d%0a%0d%0a", b"GET /other HTTP/1.1%0d%0aHost: api.test%0d%0a%0d%0a",
    )  # fmt: skip

    def seeds(self) -> Iterable[bytes]:
        """Plain requests, uploads, several streams, to either origin."""
        one = b"H 1 e " + _HEAD
        upload = b"H 1  " + _POST + b"\nD 1  abcd\nD 1 e "
        sized = b"H 1  " + _POST + b"\tcontent-length=4\nD 1 e abcd\nH 3 e " + _HEAD
        trailers = b"H 1  " + _POST + b"\nD 1  abcd\nH 1 e x=1"
        split = b"H 1 en " + _HEAD + b"\nC 1  x=1"
        empty = b"H 1  " + _POST + b"\nD 1  \nD 1 e GET /other HTTP/1.1%0d%0aHost: api.test%0d%0a%0d%0a"  # broke the framing once
        short = b"H 1  " + _POST + b"\tcontent-length=4\nH 1 e x=1"  # was sent on with its length and without its body
        for first in (b"", b"2\n"):
            for program in (one, upload, sized, trailers, split, empty, short):
                yield first + program

    def run(self, data: bytes) -> str:
        """As Target.run."""
        h2_origin = data.startswith(b"2\n")
        through = Through(b"h2", b"h2" if h2_origin else b"http/1.1")
        through.client(_PREFACE)
        for piece in frames(data.removeprefix(b"2\n")):
            through.client(piece)
        if through.drive.client not in through.drive.closed:
            through.drive.event(engine_events.ConnectionClosed(through.drive.client))
        return f"{'h2' if h2_origin else 'h1'}|{through.judge()}"
