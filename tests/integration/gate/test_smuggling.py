"""Request smuggling, the public catalogues (PortSwigger's lists, http-garden, h2c and funky-chunk research), before real servers.

Judged there: each server read exactly the requests that the gate decided to allow, and no other; whatever else went wrong.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import trustme

from tests.support import upstreams
from tests.support.gate import Gate
from tests.support.h2_client import H2
from tests.support.upstreams import Upstream
from tests.support.waiting import until

POLICY = """
version: 1
packages:
  unattributed:
    allow: [network:http]
    http: ["https://nginx.test/v1/**", "https://nginx2.test/v1/**", "https://node.test/v1/**", "https://h11.test/v1/**"]
"""
EVIL = "GET /evil-{c} HTTP/1.1\r\nHost: {host}\r\n\r\n"
P = "POST /v1/{c} HTTP/1.1\r\nHost: {host}\r\n"
G = "GET /v1/{c} HTTP/1.1\r\nHost: {host}\r\n"
TE = "Transfer-Encoding: chunked\r\n"
END = "0\r\n\r\n"

H1 = {
    # one framing against another
    "CL.TE": P + "Content-Length: 6\r\n" + TE + "\r\n" + END + EVIL,
    "TE.CL": P + TE + "Content-Length: 4\r\n\r\n2c\r\n" + EVIL + "\r\n" + END,
    "CL.CL": P + "Content-Length: 0\r\nContent-Length: 40\r\n\r\n" + EVIL,
    "CL.CL in one field": P + "Content-Length: 0, 40\r\n\r\n" + EVIL,
    "CL.0": P + "Content-Length: {n}\r\n\r\n" + EVIL,
    "GET with a length": G + "Content-Length: {n}\r\n\r\n" + EVIL,
    "HEAD with a body": "HEAD /v1/{c} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {n}\r\n\r\n" + EVIL,
    "0.CL": P + "Content-Length : {n}\r\n\r\n" + EVIL,
    "length with a sign": P + "Content-Length: +{n}\r\n\r\n" + EVIL,
    "length in hexadecimal": P + "Content-Length: 0x{n}\r\n\r\n" + EVIL,
    "length with a tab": P + "Content-Length:\t36\r\n\r\n" + EVIL,
    "length with an underscore": P + "Content_Length: {n}\r\n\r\n" + EVIL,
    "length with digits of another script": P + "Content-Length: \xb2\r\n\r\n" + EVIL,
    "length too large": P + "Content-Length: 18446744073709551652\r\n\r\n" + EVIL,
    "negative length": P + "Content-Length: -{n}\r\n\r\n" + EVIL,
    "length by Connection": P + "Connection: Content-Length\r\nContent-Length: {n}\r\n\r\n" + EVIL,
    # Transfer-Encoding that one side sees
    "TE xchunked": P + "Content-Length: 5\r\nTransfer-Encoding: xchunked\r\n\r\n" + END + EVIL,
    "TE space before the colon": P + "Transfer-Encoding : chunked\r\n\r\n" + END + EVIL,
    "TE twice": P + TE + "Transfer-Encoding: x\r\n\r\n" + END + EVIL,
    "TE twice the same": P + TE + TE + "\r\n" + END + EVIL,
    "TE tab": P + "Transfer-Encoding:\tchunked\r\n\r\n" + END + EVIL,
    "TE vertical tab": P + "Transfer-Encoding: \x0bchunked\r\n\r\n" + END + EVIL,
    "TE form feed behind": P + "Transfer-Encoding: chunked\x0c\r\n\r\n" + END + EVIL,
    "TE no-break space": P + "Transfer-Encoding: \xa0chunked\r\n\r\n" + END + EVIL,
    "TE NUL": P + "Transfer-Encoding: chunked\x00\r\n\r\n" + END + EVIL,
    "TE quoted": P + 'Transfer-Encoding: "chunked"\r\n\r\n' + END + EVIL,
    "TE folded": P + "Transfer-Encoding:\r\n chunked\r\n\r\n" + END + EVIL,
    "TE folded into another": P + "X: x\r\n Transfer-Encoding: chunked\r\n\r\n" + END + EVIL,
    "TE behind a bare LF": P + "X: x\nTransfer-Encoding: chunked\r\n\r\n" + END + EVIL,
    "TE behind a bare CR": P + "X: x\rTransfer-Encoding: chunked\r\n\r\n" + END + EVIL,
    "TE on the first line": "POST /v1/{c} HTTP/1.1\r\n Transfer-Encoding: chunked\r\nHost: {host}\r\n\r\n" + END + EVIL,
    "TE with a parameter": P + "Transfer-Encoding: chunked;a=b\r\n\r\n" + END + EVIL,
    "TE list": P + "Transfer-Encoding: identity, chunked\r\n\r\n" + END + EVIL,
    "TE list, chunked first": P + "Transfer-Encoding: chunked, identity\r\n\r\n" + END + EVIL,
    "TE cow": P + "Transfer-Encoding: cow\r\n" + TE + "\r\n" + END + EVIL,
    "TE in capitals": P + "TRANSFER-ENCODING: CHUNKED\r\n\r\n" + END + EVIL,
    "TE in HTTP/1.0": "POST /v1/{c} HTTP/1.0\r\nHost: {host}\r\n" + TE + "\r\n" + END + EVIL,
    "TE by Connection": P + "Connection: Transfer-Encoding\r\n" + TE + "\r\n" + END + EVIL,
    "TE as Transfer_Encoding": P + "Transfer_Encoding: chunked\r\nContent-Length: 5\r\n\r\n" + END + EVIL,
    # chunks
    "chunk extension": P + TE + "\r\n3;x=y\r\nabc\r\n" + END + EVIL,
    "chunk extension with a bare LF": P + TE + "\r\n2;\nxx\r\n2d\r\n" + END + EVIL + END,
    "chunk extension with a bare CR": P + TE + "\r\n2;\rxx\r\n2d\r\n" + END + EVIL + END,
    "chunk extension that quotes": P + TE + '\r\n3;x="\r\n"\r\nabc\r\n' + END + EVIL,
    "chunk line with a bare LF": P + TE + "\r\n3\nabc\r\n" + END + EVIL,
    "chunk data ended by LF": P + TE + "\r\n3\r\nabc\n" + END + EVIL,
    "chunk data longer than said": P + TE + "\r\n3\r\nabcXX0\r\n\r\n" + EVIL,
    "chunk size overflows": P + TE + "\r\n100000000000000003\r\nabc\r\n" + END + EVIL,
    "chunk size signed": P + TE + "\r\n+3\r\nabc\r\n" + END + EVIL,
    "chunk size 0x": P + TE + "\r\n0x3\r\nabc\r\n" + END + EVIL,
    "chunk size with an underscore": P + TE + "\r\n0_3\r\nabc\r\n" + END + EVIL,
    "chunk size with spaces": P + TE + "\r\n3 \t\r\nabc\r\n" + END + EVIL,
    "chunk size missing": P + TE + "\r\n\r\nabc\r\n" + END + EVIL,
    "last chunk of many zeros": P + TE + "\r\n3\r\nabc\r\n00000000\r\n\r\n" + EVIL,
    "last chunk ended by LF": P + TE + "\r\n3\r\nabc\r\n0\n\n" + EVIL,
    "trailers": P + TE + "\r\n3\r\nabc\r\n0\r\nContent-Length: {n}\r\nHost: evil\r\n\r\n" + EVIL,
    "trailer that is a request": P + TE + "\r\n0\r\nGET /evil-{c} HTTP/1.1\r\nHost: {host}\r\n\r\n" + EVIL,
    # lines and targets
    "bare LF everywhere": "GET /v1/{c} HTTP/1.1\nHost: {host}\n\n" + EVIL,
    "empty lines first": "\r\n\r\n" + G + "\r\n" + EVIL,
    "obs-fold": G + "X: a\r\n GET /evil-{c} HTTP/1.1\r\n\r\n" + EVIL,
    "request line in a value": G + "X: a\rGET /evil-{c} HTTP/1.1\r\n\r\n",
    "NUL in a name": G + "X\x00: a\r\n\r\n" + EVIL,
    "HTTP/0.9": "GET /evil-{c}\r\n\r\n" + G + "\r\n",
    "two versions": "GET /v1/{c} HTTP/1.1 HTTP/1.1\r\nHost: {host}\r\n\r\n" + EVIL,
    "form feed in the request line": "GET\x0c/evil-{c}\x0cHTTP/1.1\r\nHost: {host}\r\n\r\n",
    "target with CRLF escaped": "GET /v1/{c}%0d%0aHost:evil HTTP/1.1\r\nHost: {host}\r\n\r\n" + EVIL,
    "absolute target": "GET https://{host}/evil-{c} HTTP/1.1\r\nHost: {host}\r\n\r\n" + G + "\r\n",
    "Host twice": "GET /v1/{c} HTTP/1.1\r\nHost: {host}\r\nHost: evil\r\n\r\n" + EVIL,
    # what changes the protocol, or when the body comes
    "h2c": G + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n" + EVIL,
    "websocket that is none": G + "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 777\r\n\r\n" + EVIL,
    "CONNECT": "CONNECT {host}:443 HTTP/1.1\r\nHost: {host}\r\n\r\n" + EVIL,
    "HTTP/2 preface": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + EVIL,
    "Expect": P + "Expect: 100-continue\r\nContent-Length: {n}\r\n\r\n" + EVIL,
    "Expect obscured": P + "Expect: y 100-continue\r\nContent-Length: {n}\r\n\r\n" + EVIL,
    "Expect on two lines": P + "Expect:\r\n 100-continue\r\nContent-Length: {n}\r\n\r\n" + EVIL,
    "method in another case": "head /v1/{c} HTTP/1.1\r\nHost: {host}\r\n\r\n" + EVIL,
}  # fmt: skip

_INJECT = "x\r\n\r\nGET /evil-{c} HTTP/1.1\r\nHost: {host}\r\n\r\n"
H2_FIELDS: dict[str, tuple[list[tuple[str, str]], bytes]] = {
    "H2.CL": ([("content-length", "0")], EVIL.encode()),
    "H2.CL short": ([("content-length", "4")], b"abcd" + EVIL.encode()),
    "H2.CL long": ([("content-length", "4000")], b"abcd"),
    "H2.CL list": ([("content-length", "4, 4")], b"abcd"),
    "H2.CL twice": ([("content-length", "4"), ("content-length", "0")], b"abcd"),
    "H2.TE": ([("transfer-encoding", "chunked")], END.encode() + EVIL.encode()),
    "H2.TE by name": ([("x\r\ntransfer-encoding", "chunked")], END.encode() + EVIL.encode()),
    "CRLF in a value": ([("x", _INJECT)], b""),
    "LF in a value": ([("x", "x\n\nGET /evil-{c} HTTP/1.1\nHost: {host}\n\n")], b""),
    "NUL in a value": ([("x", "a\0b")], b""),
    "CRLF in a name": ([("x: y\r\n\r\nGET /evil-{c} HTTP/1.1\r\nx", "y")], b""),
    "colon in a name": ([("x: y", "z")], b""),
    "space in a name": ([("x y", "z")], b""),
    "capitals in a name": ([("X-Y", "z")], b""),
    "connection": ([("connection", "close")], b""),
    "upgrade": ([("upgrade", "h2c"), ("connection", "upgrade")], b""),
    "te": ([("te", "gzip")], b""),
    "proxy-connection": ([("proxy-connection", "keep-alive")], b""),
    "host beside :authority": ([("host", "evil.test")], b""),
    "pseudo behind a field": ([("x", "y"), (":path", "/evil-{c}")], b""),
    "unknown pseudo": ([(":evil", "y")], b""),
    "cookie with CRLF": ([("cookie", "a=b\r\nx: y")], b""),
    "expect": ([("expect", "100-continue")], EVIL.encode()),
}
H2_PSEUDO = {
    "method with CRLF": {":method": "GET /evil-{c} HTTP/1.1\r\nHost: x\r\n\r\nGET"},
    "method with a space": {":method": "GET /evil-{c}"},
    "path with CRLF": {":path": "/v1/{c} HTTP/1.1\r\nHost: x\r\n\r\nGET /evil-{c}"},
    "path with a space": {":path": "/v1/{c} HTTP/1.1"},
    "path that is a URL": {":path": "https://evil-{c}.test/v1/{c}"},
    "path without a slash": {":path": "v1/a"},
    "path empty": {":path": ""},
    "path with a fragment": {":path": "/v1/{c}#b"},
    "authority with CRLF": {":authority": "{host}\r\nx: y"},
    "authority with a path": {":authority": "{host}/evil-{c}"},
    "authority with a user": {":authority": "a@{host}"},
    "authority of another": {":authority": "evil.test"},
    "scheme with a path": {":scheme": "https://evil-{c}.test/x?"},
    "scheme http": {":scheme": "http"},
    "CONNECT": {":method": "CONNECT"},
    "websocket by CONNECT": {":method": "CONNECT", ":protocol": "websocket"},
}


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gate, list[Upstream]]]:
    """A gate before nginx without and with HTTP/2, hypercorn, and Node where there is one."""
    where = tmp_path_factory.mktemp("servers")
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(where / "ca.pem"))
    with contextlib.ExitStack() as stack:
        found = [
            stack.enter_context(upstreams.nginx(ca, "nginx.test", where / "n1", h2=False)),
            stack.enter_context(upstreams.nginx(ca, "nginx2.test", where / "n2", h2=True)),
            stack.enter_context(upstreams.h11_server(ca, "h11.test")),
        ]
        if not upstreams.node_missing():
            found.append(stack.enter_context(upstreams.node(ca, "node.test", where / "node")))
        overrides = [(u.host, 443, "127.0.0.1", u.port) for u in found]
        yield stack.enter_context(Gate(POLICY, connect_to=overrides, bundle=where / "ca.pem")), found


PASSES = {
    "CL.0": 1, "GET with a length": 1, "length with a tab": 1, "length with an underscore": 1, "TE tab": 1, "TE in capitals": 1,
    "TE as Transfer_Encoding": 1, "chunk extension": 1, "empty lines first": 1, "Expect": 1, "HEAD with a body": 1,
    "last chunk of many zeros": 1, "trailers": 1, "TE twice the same": 0, "length too large": 0, "TE xchunked": 0,
}  # fmt: skip
"""Cases of which a request is legal, and how many are read: so that not all is refused for one dull reason."""


CASES = [*H1, *H2_FIELDS, *H2_PSEUDO]


def _filled(text: str, case: str, host: str) -> str:
    text = text.replace("{n}", str(len(EVIL.replace("{host}", host).replace("{c}", "00"))))
    return text.replace("{host}", host).replace("{c}", f"{CASES.index(case):02}")


def _over_h1(gate: Gate, host: str, case: str) -> None:
    with contextlib.suppress(OSError), gate.tunnel_bare(f"{host}:443") as wire:
        wire.sock.settimeout(20 if case in PASSES else 0.3)
        wire.sock.sendall(_filled(H1[case], case, host).encode("latin-1"))
        while wire.sock.recv(65_536) and case not in PASSES:
            wire.sock.settimeout(0.3)


def _over_h2(gate: Gate, host: str, case: str) -> None:
    fields, body = H2_FIELDS.get(case, ([], b""))
    pseudo = {":method": "POST" if body else "GET", ":scheme": "https", ":authority": "{host}", ":path": "/v1/{c}"}
    head = [*(pseudo | H2_PSEUDO.get(case, {})).items(), *fields]
    with contextlib.suppress(OSError), gate.tunnel_bare(f"{host}:443", alpn=("h2", "http/1.1")) as wire:
        client = H2(wire)
        stream = client.send([(n, _filled(v, case, host)) for n, v in head], end=not body)
        if body:
            client.data(stream, _filled(body.decode("latin-1"), case, host).encode("latin-1"), end=True)
        client.answer(stream)


def _reckon(gate: Gate, upstream: Upstream, read_before: int, records_before: int) -> Counter[str]:
    """What the server read since then; raises AssertionError if one request of it was not allowed.

    The other way round it need not be: a body that is wrong from its start ends a request before it is sent.
    """
    marker = f"/v1/end-{read_before}"
    with gate.tunnel_bare(f"{upstream.host}:443") as wire:
        assert wire.get(marker, upstream.host).status == 200

    def allowed() -> Counter[str]:
        mine = [r for r in gate.records[records_before:] if r["host"] == upstream.host]
        return Counter(f"{r['method']} {r['path']}" for r in mine if r["kind"] == "decision" and r["verdict"] == "allow")

    def read() -> Counter[str]:
        return Counter(upstream.read()[read_before:])

    until("the marker is read and recorded", lambda: f"GET {marker}" in read() and f"GET {marker}" in allowed())
    extra = read() - allowed()
    named = [case for number, case in enumerate(CASES) if any(line.endswith(f"{number:02}") for line in extra)]
    assert not extra, f"{upstream.host} read what nobody allowed: {extra}; {named}"
    return read()


SERVERS = ("nginx.test", "nginx2.test", "h11.test", "node.test")


def _of(found: list[Upstream], host: str) -> Upstream:
    if host == "node.test" and (why := upstreams.node_missing()):
        pytest.skip(why)
    return next(u for u in found if u.host == host)


@pytest.mark.parametrize("host", SERVERS)
def test_servers_read_what_was_allowed_and_nothing_else(servers: tuple[Gate, list[Upstream]], host: str) -> None:
    gate, found = servers
    upstream = _of(found, host)
    before = len(upstream.read()), len(gate.records)
    with ThreadPoolExecutor(12) as pool:  # most of them wait for a gate that waits for them
        list(pool.map(lambda case: _over_h1(gate, host, case), H1))
    read = _reckon(gate, upstream, *before)
    counts = {case: sum(n for line, n in read.items() if line.endswith(f"{CASES.index(case):02}")) for case in H1}
    assert {case: counts[case] for case in PASSES} == PASSES


@pytest.mark.parametrize("host", SERVERS)
def test_http2_heads_become_what_was_allowed_and_nothing_else(servers: tuple[Gate, list[Upstream]], host: str) -> None:
    gate, found = servers
    upstream = _of(found, host)
    before = len(upstream.read()), len(gate.records)
    for case in (*H2_FIELDS, *H2_PSEUDO):
        _over_h2(gate, host, case)
    with gate.tunnel_bare(
        f"{host}:443", alpn=("h2", "http/1.1")
    ) as wire:  # an empty DATA frame once ended the body of the downgraded request
        client = H2(wire)
        stream = client.request("/v1/empty", host, method="POST", end=False)
        client.conn.send_data(stream, b"")
        client.data(stream, EVIL.encode(), end=True)
        assert client.answer(stream).status == 200
    assert _reckon(gate, upstream, *before)["POST /v1/empty"] == 1
