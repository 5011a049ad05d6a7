"""Reads and writes the chunked coding of HTTP/1, trailers included.

Lives here: the reader that bounds what it reads and keeps trailers, and the last chunk. May not live here: which trailers may be
(gate/trailers.py), the messages around them (h1.py).
"""

from __future__ import annotations

from typing import Final

import h11
from h11._readers import ChunkedReader
from h11._receivebuffer import ReceiveBuffer
from mitmproxy import http
from mitmproxy.proxy.layers.http import _http1

from outpass.gate.engine.watcher import MAX_HEAD

LAST: Final = b"0\r\n\r\n"
"""What the engine writes at the end of every chunked body."""


class Chunks(ChunkedReader):
    """[H3] The stock reader hands trailers to an engine that raises NotImplementedError, and bounds nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.trailers: tuple[tuple[bytes, bytes], ...] = ()
        """Lower-case names; set when the body is over."""

    def __call__(self, buf: ReceiveBuffer) -> h11.Data | h11.EndOfMessage | None:
        event = super().__call__(buf)
        if event is None and len(buf) > MAX_HEAD:
            raise h11.LocalProtocolError("chunk header or trailer section is too large")
        if isinstance(event, h11.EndOfMessage) and event.headers:
            self.trailers = tuple((bytes(name), bytes(value)) for name, value in event.headers)
            return h11.EndOfMessage()
        return event


def make_body_reader(expected_size: int | None) -> _http1.TBodyReader:
    """The engine's function of that name, with our chunk reader; None = chunked, -1 = until EOF."""
    return Chunks() if expected_size is None else stock_body_reader(expected_size)


stock_body_reader = _http1.make_body_reader


def last(trailers: http.Headers | None) -> bytes:
    """The end of a chunked body: the last chunk and the trailer section (RFC 9112, section 7.1.2)."""
    if trailers is None:
        return LAST
    return b"0\r\n" + b"".join(b"%s: %s\r\n" % pair for pair in trailers.fields) + b"\r\n"
