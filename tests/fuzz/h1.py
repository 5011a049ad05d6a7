"""HTTP/1 of any kind from a client, inside a tunnel, to an HTTP/1 or HTTP/2 origin.

Lives here: inputs and how they are cut. May not live here: the gate and the judges (gateway.py).

An input is what the client sends. Its first byte: where the stream is cut into two reads, and in its lowest bit the origin's
protocol.
"""

from __future__ import annotations

from collections.abc import Iterable

from tests.fuzz.gateway import Through

_GET = b"GET /v1/a HTTP/1.1\r\nHost: api.test\r\n\r\n"
_POST = b"POST /v1/b HTTP/1.1\r\nHost: api.test\r\n"


class H1:
    """Request smuggling and splitting, as the origin would read it."""

    name = "h1"
    words = (
        b"GET ", b"POST ", b"HEAD ", b"OPTIONS * ", b"PUT ", b"CONNECT ", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"/v1/a", b"/v1/secret/a",
        b"/other", b"/v1/../other", b"https://api.test/v1/a", b"//evil/v1/a", b"?q=1", b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", b"\r\n",
        b"\r\n\r\n", b"\n", b"\n\n", b"\r", b"\0", b"\t", b" ", b"\x0b", b"\x0c", b"\x85", b"\xa0", b"\xff", b":", b"Host: api.test\r\n",
        b"Host: evil.test\r\n", b"Host:api.test", b"Content-Length: 4\r\n", b"Content-Length: 0\r\n", b"Content-Length: 41\r\n",
        b"Content-Length: +4\r\n", b"Content-Length: 4, 4\r\n", b"Content-Length: 0x4\r\n", b"Content_Length: 4\r\n",
        b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: xchunked\r\n", b"Transfer-Encoding : chunked\r\n",
        b"Transfer-Encoding:\tchunked\r\n", b"Transfer-Encoding: \x0bchunked\r\n", b"transfer-encoding: CHUNKED\r\n",
        b"Transfer-Encoding: identity\r\n", b"Transfer-Encoding: chunked, identity\r\n", b" Transfer-Encoding: chunked\r\n",
        b"X: y\r\n", b"X: y\r\n folded\r\n", b"Connection: close\r\n", b"Connection: keep-alive, host\r\n", b"Expect: 100-continue\r\n",
        b"Connection: content-length\r\n", b"Connection: transfer-encoding\r\n", b"Keep-Alive: 5\r\n", b"Trailer: x\r\n", b"TE: trailers\r\n",
        b"Upgrade: h2c\r\n", b"Upgrade: websocket\r\n", b"Connection: Upgrade\r\n", b"Outpass-Token: x\r\n", b"Proxy-Authorization: Bearer x\r\n",
        b"0\r\n\r\n", b"4\r\nabcd\r\n", b"4;ext=\"\r\n\"\r\nabcd\r\n", b"4;x\nabcd\r\n", b"00000004\r\nabcd\r\n", b"0x4\r\nabcd\r\n", b"4 \r\nabcd\r\n",
        b"-4\r\nabcd\r\n", b"ffffffffffffffff4\r\nabcd\r\n", b"4\nabcd\n0\n\n", b"0\r\nX: y\r\n\r\n", b"0\r\nHost: evil.test\r\n\r\n", b"abcd", _GET, _POST,
    )  # fmt: skip

    def seeds(self) -> Iterable[bytes]:
        """Plain requests, bodies of both framings, pipelines."""
        chunked = _POST + b"Transfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n"
        sized = _POST + b"Content-Length: 4\r\n\r\nabcd"
        for first in (b"\0", b"\x01", b"\x40"):
            yield first + _GET
            yield first + chunked + _GET
            yield first + sized + _GET
            yield first + _GET + chunked + sized

    def run(self, data: bytes) -> str:
        """As Target.run."""
        first, stream = (data[0], data[1:]) if data else (0, b"")
        through = Through(b"http/1.1", b"h2" if first & 1 else b"http/1.1")
        cut = len(stream) * first // 256
        through.client(stream[:cut])
        through.client(stream[cut:])
        through.end()
        return f"{'h2' if first & 1 else 'h1'}|{through.judge()}"
