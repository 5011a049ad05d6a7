"""From the engine's request to what policy understands, and from what was decided back to what is sent upstream.

Lives here: the destination of a request in normal form, and the fields that never leave. May not live here: who asks
(principal.py), whether it may (policy/). Hosts and paths are made canonical by policy.names and nowhere else.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NamedTuple

from mitmproxy import http

from outpass.gate.engine import handshake
from outpass.gate.head import PROXY_PASS_HEADER, TOKEN_HEADER
from outpass.policy import names
from outpass.reasons import Reason


class Refused(Exception):
    """Raised where a request is refused before policy is asked; `detail` is safe to show to the client."""

    def __init__(self, reason: Reason, detail: str = "", status: int | None = None) -> None:
        super().__init__(detail or reason.value)
        self.reason = reason
        self.detail = detail
        self.status = status


class Target(NamedTuple):
    """Where a request goes: canonical host, path as it came (decide() puts it in normal form), query raw or None."""

    scheme: str
    host: str
    port: int
    method: str
    path: str
    query: str | None


_HOP: Final = frozenset(
    (TOKEN_HEADER, PROXY_PASS_HEADER, b"proxy-connection", b"proxy-authenticate", b"keep-alive", b"proxy-status")
) | {b"te", b"upgrade", b"http2-settings"}
"""Never forwarded as it came: passes, and what RFC 9110, section 7.6.1 calls hop-by-hop."""
_FRAMING: Final = frozenset((b"host", b"content-length", b"transfer-encoding", b"authorization", b"cookie", b"expect"))
_BEYOND_ASCII: Final = re.compile(rb"[\x80-\xff]")
_KEPT: Final = (b"close", b"keep-alive")
_RESPONSE_HOP: Final = frozenset(
    (b"alt-svc", b"proxy-authenticate", b"proxy-connection", b"proxy-status", b"upgrade", TOKEN_HEADER)
)
"""Alt-Svc would lead a client to QUIC, past the gate (RFC 7838); the others speak to the gate, not to its client. With
Proxy-Status an origin could pass its own words off as a refusal of ours, line to add included."""


def connect_target(request: http.Request) -> tuple[str, int]:
    """Host and port of CONNECT, canonical. Raises Refused."""
    try:
        return names.authority(request.data.authority.decode("utf-8"), None)
    except ValueError as e:
        raise Refused(Reason.BAD_HOST, str(e)) from None


def index(request: http.Request) -> dict[bytes, bytes]:
    """The fields of a request by lower-case name; of a repeated one the last (head.py refused those that matter)."""
    return {name.lower(): value for name, value in request.data.headers.fields}


def inner_target(request: http.Request, fields: dict[bytes, bytes], host: str, port: int, scheme: str = "https") -> Target:
    """The target of a request inside the tunnel to host:port, which must name that host. Raises Refused."""
    data = request.data
    authority = data.authority if request.is_http2 else fields.get(b"host", b"")
    try:
        read = _named if len(authority) <= _LONGEST_AUTHORITY else _named.__wrapped__
        named = read(authority, names.DEFAULT_PORTS[scheme])
    except ValueError as e:
        raise Refused(Reason.BAD_HOST, str(e)) from None
    if named != (host, port):
        raise Refused(Reason.AUTHORITY_MISMATCH, "the request names another host than the tunnel was opened to")
    return _target(scheme, host, port, data)


@lru_cache(maxsize=1024)
def _named(authority: bytes, default_port: int) -> tuple[str, int]:
    """Host and port, canonical. Raises ValueError, which is not kept."""
    return names.authority(authority.decode("utf-8"), default_port)


_LONGEST_AUTHORITY: Final = 262
"""A name (253), brackets or a colon, and a port: what is longer is not worth keeping."""


def absolute_target(request: http.Request) -> Target:
    """The target of a plain request in absolute form, `GET http://host/path`. Raises Refused."""
    data = request.data
    try:
        host, port = names.host(data.host), names.port(str(data.port))
    except ValueError as e:
        raise Refused(Reason.BAD_HOST, str(e)) from None
    return _target("http", host, port, data)


def seal(request: http.Request, target: Target, fields: dict[bytes, bytes]) -> None:
    """Make the engine send exactly what was decided: one spelling of the host, no pass, nothing hop-by-hop.

    The engine would send an absolute-form target inside a tunnel, and the client's own Host beside an absolute-form target;
    the target wins over Host, which is replaced (RFC 9112, section 3.2.2). Raises Refused.
    """
    data = request.data
    spelt = _authority(target.scheme, target.host, target.port)
    data.host, data.port = target.host, target.port
    data.authority = spelt if request.is_http2 else b""
    if not data.path.isascii():
        # RFC 3986, section 2: a URL is ASCII. Servers differ in what they make of other bytes; policy judged them escaped.
        data.path = _BEYOND_ASCII.sub(lambda found: b"%%%02X" % found[0][0], data.path)
    drop = _HOP
    connection: tuple[tuple[bytes, bytes], ...] = ()
    if b"connection" in fields:
        pairs = data.headers.fields
        options = {t.strip().lower() for n, v in pairs if n.lower() == b"connection" for t in v.split(b",")}
        if options & _FRAMING:
            # Hop-by-hop abuse: Connection may name any field, and a proxy that obeys removes what others rely on.
            raise Refused(Reason.BAD_HEADER, "Connection names a field that is not hop-by-hop")
        drop = _HOP | options | {b"connection"}
        connection = tuple((b"Connection", option) for option in _KEPT if option in options)
    if b"te" in fields and _wants_trailers(data.headers):
        connection += ((b"te", b"trailers"),)
    if b"upgrade" in fields and handshake.asks(request):
        connection += ((b"Connection", b"Upgrade"), (b"Upgrade", b"websocket"))
    host = [] if b"host" in fields or request.is_http2 else [(b"Host", spelt)]
    kept = [
        (name, spelt) if lower == b"host" else (name, value)
        for name, value in data.headers.fields
        if (lower := name.lower()) not in drop
    ]
    data.headers.fields = (*host, *kept, *connection)


def _wants_trailers(headers: http.Headers) -> bool:
    """Whether the client takes trailers; of TE nothing else is passed on, as the gate decodes no transfer coding."""
    codings = (c.partition(";")[0].strip().lower() for value in headers.get_all("te") for c in value.split(","))
    return "trailers" in codings


def strip_response(response: http.Response) -> None:
    """Remove the fields by which an origin would speak to the gate, or lead a client past it."""
    fields = response.data.headers.fields
    drop = _RESPONSE_HOP if response.status_code != 101 else _RESPONSE_HOP - {b"upgrade"}
    kept = tuple(pair for pair in fields if pair[0].lower() not in drop)
    if len(kept) != len(fields):
        response.data.headers.fields = kept


def _target(scheme: str, host: str, port: int, data: http.RequestData) -> Target:
    try:
        raw, mark, query = data.path.decode("utf-8").partition("?")
        # OPTIONS * asks about the server as a whole: whoever may ask for its root may.
        path = "/" if raw == "*" else raw
    except ValueError as e:
        raise Refused(Reason.BAD_TARGET, str(e)) from None
    return Target(scheme, host, port, data.method.decode("ascii"), path, query if mark else None)


@lru_cache(maxsize=1024)
def _authority(scheme: str, host: str, port: int) -> bytes:
    """The spelling of a target's canonical host and port that goes into Host and :authority."""
    if port == names.DEFAULT_PORTS[scheme]:
        return (f"[{host}]" if ":" in host else host).encode()
    return names.format_authority(host, port).encode()
