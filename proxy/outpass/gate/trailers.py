"""Judges the trailers of a message: which fields may come after a body at all.

Lives here: pure checks of a trailer section, of either version of HTTP and either direction. May not live here: how trailers
are framed (engine/), what is done about a flaw (addon.py, engine/).

A trailer is read when the request was decided, sent, and perhaps executed. So nothing that decides anything may stand in one:
no pass, no host, no framing (RFC 9110, section 6.5.1; CVE-2019-16276 and CVE-2005-2088 are what comes of merging them).
"""

from __future__ import annotations

from typing import Final

from outpass.gate.head import PROXY_PASS_HEADER, TOKEN_HEADER, Flaw, is_field
from outpass.reasons import Reason

Fields = tuple[tuple[bytes, bytes], ...]

FORBIDDEN: Final = frozenset(
    b"""
    age alt-svc authorization cache-control connection content-encoding content-length content-location content-range
    content-type cookie date expect expires host http2-settings if-match if-modified-since if-none-match if-range
    if-unmodified-since keep-alive location max-forwards outpass-token pragma proxy-authenticate proxy-authorization
    proxy-connection proxy-status range retry-after set-cookie te trailer transfer-encoding upgrade vary warning
    www-authenticate
    """.split()
)
"""Framing, routing, request modifiers, authentication, content format, response control: dropped, as if never sent."""
_PASSES: Final = frozenset((TOKEN_HEADER, PROXY_PASS_HEADER))


def judge(fields: Fields) -> Flaw | None:
    """The flaw for which a whole message is refused because of its trailers; None if there is none."""
    for name, _ in fields:
        if name.lower() in _PASSES:
            return Flaw(Reason.BAD_REQUEST, "a pass stands in the trailers, after everything that it could have decided")
    return Flaw(Reason.BAD_HEADER, "a trailer is not a name and a value") if malformed(fields) else None


def malformed(fields: Fields) -> bool:
    """Whether a name is no token (a pseudo-header of HTTP/2), or a value holds what no value may hold."""
    return not all(is_field(name, value) for name, value in fields)


def kept(fields: Fields) -> Fields:
    """The trailers that are sent on, in their order."""
    return tuple((name, value) for name, value in fields if name.lower() not in FORBIDDEN)
