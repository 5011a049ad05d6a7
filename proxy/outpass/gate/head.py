"""Judges the head of a request as raw bytes, before the engine makes anything of it.

Lives here: pure checks of one head, HTTP/1 lines or HTTP/2 field lists, each for a known way to make two parsers disagree.
May not live here: which host or path is allowed, passes beyond counting them, the engine.

The engine keeps bare CR, NUL and obs-fold in values and emits them again, splits the request line at any white space and
takes the first of several Host fields: what was judged would not be what is sent. So a head is refused for all of these.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from outpass.gate.bounds import Bounds
from outpass.reasons import Reason

TOKEN_HEADER: Final = b"outpass-token"
PROXY_PASS_HEADER: Final = b"proxy-authorization"


class Flaw(NamedTuple):
    """Why a head is refused; `detail` is safe to show to the client."""

    reason: Reason
    detail: str


_SPECIAL: Final = frozenset((b"CONNECT", b"HEAD"))
"""Methods by which the engine chooses how a message ends, in any case; an origin knows only the exact word."""
_TOKEN: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
"""RFC 9110, section 5.6.2."""
_VALUE: Final = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
"""RFC 9110, section 5.5, without obs-fold: CR, LF, NUL and every other control character are out."""
_TARGET: Final = re.compile(rb"[\x21-\x22\x24-\x7e\x80-\xff]+")
"""No space, control character, DEL or fragment. Bytes above 0x7e are left to policy.names."""
_LENGTH: Final = re.compile(rb"[0-9]{1,18}")
"""RFC 9110, section 8.6, as far as every origin can count."""
_VERSION: Final = re.compile(rb"HTTP/1\.[01]")
_AUTHORITY: Final = re.compile(rb"(?:\[[^\[\]/?]+\]|[^\[\]/?:]+):[0-9]{1,5}")
_SCHEME: Final = re.compile(rb"([A-Za-z][A-Za-z0-9+.\-]*)://([^/?]*)")

_ONCE: Final = frozenset((b"host", TOKEN_HEADER, PROXY_PASS_HEADER, b"content-length", b"transfer-encoding", b"expect"))
_TWICE: Final = {
    TOKEN_HEADER: Reason.PASS_DUPLICATED,
    PROXY_PASS_HEADER: Reason.PASS_DUPLICATED,
    b"host": Reason.BAD_HOST,
}


def judge_http1(lines: Sequence[bytes | bytearray], *, tunnelled: bool) -> Flaw | None:
    """The flaw of an HTTP/1 head given as its lines without line ends, request line first; None if there is none.

    `tunnelled`: inside CONNECT, where only paths are asked for; else on the proxy itself, where only CONNECT and URLs are.
    """
    parts = bytes(lines[0]).split(b" ")
    if len(parts) != 3:
        return Flaw(Reason.BAD_REQUEST, "the request line is not method, target and version, separated by one space")
    method, target, version = parts
    flaw = _method(method)
    if flaw is not None:
        return flaw
    if method == b"PRI" and version == b"HTTP/2.0":
        return Flaw(Reason.UNSUPPORTED, "HTTP/2 without TLS is not supported")
    if not _VERSION.fullmatch(version):
        return Flaw(Reason.BAD_REQUEST, "the HTTP version is not 1.0 or 1.1")
    flaw = _inner_target(method, target) if tunnelled else _proxy_target(method, target)
    if flaw is not None:
        return flaw
    fields: list[tuple[bytes, bytes]] = []
    for line in lines[1:]:
        name, colon, value = bytes(line).partition(b":")
        # RFC 9112, section 5.2: obs-fold begins with white space, and so has no token before its colon.
        if not colon or not _TOKEN.fullmatch(name):
            return Flaw(Reason.BAD_HEADER, "a header line is not a name, a colon and a value")
        fields.append((name.lower(), value.strip(b" \t")))
    if method == b"CONNECT" and any(n in (b"content-length", b"transfer-encoding") for n, _ in fields):
        return Flaw(Reason.BAD_REQUEST, "CONNECT has no body")
    if version == b"HTTP/1.1":
        if not any(n == b"host" for n, _ in fields):
            return Flaw(Reason.BAD_HOST, "the request has no Host")  # RFC 9112, section 3.2
    elif any(n == b"transfer-encoding" for n, _ in fields):
        return Flaw(Reason.BAD_REQUEST, "HTTP/1.0 has no transfer-encoding")  # RFC 9112, section 6.1
    return _fields(fields)


def judge_http2(fields: Iterable[tuple[bytes, bytes]]) -> Flaw | None:
    """The flaw of an HTTP/2 head given as its field list, pseudo-fields first; None if there is none."""
    pseudo: dict[bytes, bytes] = {}
    plain: list[tuple[bytes, bytes]] = []
    for name, value in fields:
        if name.startswith(b":"):
            if plain or name in pseudo:
                return Flaw(Reason.BAD_REQUEST, "the pseudo-headers are duplicated or out of order")
            pseudo[name] = value
        else:
            plain.append((name.lower(), value))
    method = pseudo.get(b":method", b"")
    if b":protocol" in pseudo:
        return Flaw(Reason.UNSUPPORTED, "websockets over HTTP/2 (RFC 8441) are not supported, over HTTP/1.1 they are")
    if method == b"CONNECT":
        return Flaw(Reason.UNSUPPORTED, "CONNECT inside a tunnel is not supported")
    flaw = _method(method)
    if flaw is not None:
        return flaw
    path = pseudo.get(b":path", b"")
    # RFC 9113, section 8.3.1: :path is origin-form or *. An absolute URL there becomes one in HTTP/1 after conversion.
    if not (path.startswith(b"/") or (path == b"*" and method == b"OPTIONS")) or not _TARGET.fullmatch(path):
        return Flaw(Reason.BAD_TARGET, "the :path is not a path")
    if pseudo.get(b":scheme") != b"https":
        return Flaw(Reason.BAD_TARGET, "the :scheme is not https")
    authority = pseudo.get(b":authority")
    hosts = [v for n, v in plain if n == b"host"]
    if authority is None:
        return Flaw(Reason.BAD_HOST, "the request has no :authority")
    if b"@" in authority:
        return Flaw(Reason.USERINFO, "the :authority holds a user name or password")
    # RFC 9113, section 8.3.1: a Host that differs from :authority is malformed; equal in bytes or refused.
    if hosts and hosts != [authority]:
        return Flaw(Reason.AUTHORITY_MISMATCH, "Host and :authority differ")
    for name, _ in plain:
        if not _TOKEN.fullmatch(name):
            return Flaw(Reason.BAD_HEADER, "a header name is not a token")
    return _fields(plain)


def _method(method: bytes) -> Flaw | None:
    """The flaw of a method: no token, or `head`, which the engine takes for HEAD and the origin answers with a body.

    That body would then be read as the answer to the next request (RFC 9110, section 9.1: methods are case-sensitive).
    """
    if not _TOKEN.fullmatch(method):
        return Flaw(Reason.BAD_REQUEST, "the method is not a token")
    if method not in _SPECIAL and method.upper() in _SPECIAL:
        return Flaw(Reason.BAD_REQUEST, "the method is written in another case")
    return None


def _inner_target(method: bytes, target: bytes) -> Flaw | None:
    """The flaw of a request target inside a tunnel: a path, or * with OPTIONS (RFC 9112, section 3.2).

    An absolute URL is legal there, unused, and a second place for a host to stand; it is refused.
    """
    if method == b"CONNECT":
        return Flaw(Reason.UNSUPPORTED, "CONNECT inside a tunnel is not supported")
    if not _TARGET.fullmatch(target):
        return Flaw(Reason.BAD_TARGET, "the request target holds a character that none may hold")
    if not target.startswith(b"/") and not (target == b"*" and method == b"OPTIONS"):
        return Flaw(Reason.BAD_TARGET, "the request target is not a path")
    return None


def _proxy_target(method: bytes, target: bytes) -> Flaw | None:
    """The flaw of a request target on the proxy itself: host:port with CONNECT, else an http URL."""
    if not _TARGET.fullmatch(target):
        return Flaw(Reason.BAD_TARGET, "the request target holds a character that none may hold")
    if method == b"CONNECT":
        if b"@" in target:
            return Flaw(Reason.USERINFO, "the target of CONNECT holds a user name or password")
        if not _AUTHORITY.fullmatch(target):
            return Flaw(Reason.BAD_TARGET, "the target of CONNECT is not host:port")
        return None
    absolute = _SCHEME.match(target)
    if absolute is None:
        return Flaw(Reason.BAD_TARGET, "a request to a proxy has a whole URL, or is CONNECT")
    if b"@" in absolute[2]:
        return Flaw(Reason.USERINFO, "the request target holds a user name or password")
    scheme = absolute[1].lower()
    if scheme == b"https":
        return Flaw(Reason.UNSUPPORTED, "https goes through CONNECT")
    if scheme != b"http" or not absolute[2]:
        return Flaw(Reason.BAD_TARGET, "the request target is not an http URL with a host")
    return None


def _fields(fields: Sequence[tuple[bytes, bytes]]) -> Flaw | None:
    """The flaw of the fields of either version; names are lower-case tokens."""
    seen: set[bytes] = set()
    for name, value in fields:
        if not _VALUE.fullmatch(value):
            return Flaw(Reason.BAD_HEADER, f"the value of {name.decode('ascii')} holds a character that none may hold")
        if name in _ONCE:
            if name in seen:
                reason = _TWICE.get(name, Reason.BAD_HEADER)
                return Flaw(reason, f"{name.decode('ascii')} occurs more than once")
            seen.add(name)
        if name == b"content-length" and not _LENGTH.fullmatch(value):
            # Some origins count modulo 2^64, and read what is beyond as the next request; Python does not.
            return Flaw(Reason.BAD_REQUEST, "the content-length is not a number of at most 18 digits")
        if name == b"transfer-encoding" and value.lower() != b"chunked":
            # An origin that does not know `gzip, chunked` may ignore it, and read the body as the next request (CWE-444).
            return Flaw(Reason.BAD_REQUEST, "the transfer-encoding is not chunked")
    if b"content-length" in seen and b"transfer-encoding" in seen:
        return Flaw(Reason.BAD_REQUEST, "the request has both content-length and transfer-encoding")  # RFC 9112, 6.1
    return _protocol(fields)


def _protocol(fields: Sequence[tuple[bytes, bytes]]) -> Flaw | None:
    """UNSUPPORTED for an expectation that the gate does not know: said before anything is sent to the origin."""
    for name, value in fields:
        if name == b"expect" and value.lower() != b"100-continue":
            return Flaw(Reason.UNSUPPORTED, "Expect has only 100-continue")
    return None


def is_field(name: bytes, value: bytes) -> bool:
    """Whether this is a header or trailer field as RFC 9110, section 5, has them."""
    return _TOKEN.fullmatch(name) is not None and _VALUE.fullmatch(value) is not None


def too_long(received: bytes | bytearray, bounds: Bounds) -> Flaw | None:
    """The flaw of a head that is still coming: a request line without an end."""
    line = received.lstrip(b"\r\n")
    if b"\n" not in line and len(line) > bounds.line_bytes + _AROUND:
        return Flaw(Reason.TARGET_TOO_LONG, "")
    return None


def too_many(line: bytes | bytearray, count: int, bounds: Bounds) -> Flaw | None:
    """The flaw of a head for its size: the request line (or target), and how many fields it has."""
    if len(line) > bounds.line_bytes + _AROUND:
        return Flaw(Reason.TARGET_TOO_LONG, "")
    return Flaw(Reason.HEAD_TOO_LARGE, f"there are more than {bounds.fields} fields") if count > bounds.fields else None


_AROUND: Final = 48
"""Bytes of a request line beside its target: method, version and two spaces."""


def may_be_request(received: bytes) -> bool | None:
    """Whether bytes begin an HTTP/1 request (RFC 9112, section 3): a method and a space. None: too few to say."""
    method, space, _ = received[: _LONGEST_METHOD + 1].partition(b" ")
    if not method or not _METHOD.fullmatch(method):
        return False
    return True if space else None if len(received) <= _LONGEST_METHOD else False


_LONGEST_METHOD: Final = 32
_METHOD: Final = re.compile(rb"[A-Z][A-Z0-9_-]*")
