"""The look at a client's first bytes in a tunnel that is carried unseen: where they are TLS, to whom they say they go.

Lives here: that check, pure. May not live here: waiting for the bytes (relay.py), who may (policy/).

Without it a shared front would take the connection to whatever host the hello names (domain fronting).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from mitmproxy.proxy.layers.tls import parse_client_hello

from outpass.policy import addresses, names
from outpass.reasons import Reason

_HELLO: Final = 5
_MAX_HELLO: Final = 5 + 16_384
"""One TLS record (RFC 8446, section 5.1). A hello in several is no client's that anybody has seen."""


class Screen(NamedTuple):
    """What is asked before bytes pass."""

    judge: Callable[[bytes], int | Reason]
    """Given a client's first bytes: 0 lets everything pass, a larger number asks again with so many bytes, a reason cuts."""
    closed: bool
    """Whether nothing passes in either direction before the answer; else the server may speak first."""


def of_raw(host: str) -> Screen | None:
    """For socket rules: any protocol passes, but a TLS hello that names another host does not. None: nothing to look at.

    A hello without a name leads to the host that was dialled. Protocols that start TLS later (STARTTLS, PostgreSQL's
    SSLRequest) are not looked into.
    """
    return None if addresses.is_literal(host) else Screen(lambda seen: _judge(seen, host, tls_only=False), closed=False)


def of_tls(host: str) -> Screen:
    """For HTTP rules with `intercept: false`: TLS and nothing else, and its server name is the host (RFC 6066, section 3:
    an address has none).

    A hello with ECH passes by its outer name: GREASE cannot be told from the real thing (RFC 9849, section 6.2).
    """
    return Screen(lambda seen: _judge(seen, host, tls_only=True), closed=True)


def _judge(seen: bytes, host: str, *, tls_only: bool) -> int | Reason:
    if seen[0] != 0x16 or not b"\x16\x03".startswith(seen[:2]):
        return Reason.SNI_MISSING if tls_only else 0
    if len(seen) < _HELLO:
        return 2 if len(seen) == 1 else _HELLO
    whole = _HELLO + int.from_bytes(seen[3:5], "big")
    if whole > _MAX_HELLO:
        return Reason.SNI_MISMATCH
    if len(seen) < whole:
        return whole
    try:
        hello = parse_client_hello(seen[:whole])
        if hello is None:
            return Reason.SNI_MISMATCH
        if hello.sni is None:
            return Reason.SNI_MISSING if tls_only and not addresses.is_literal(host) else 0
        return 0 if names.host(hello.sni) == host else Reason.SNI_MISMATCH
    except ValueError:
        return Reason.SNI_MISMATCH
