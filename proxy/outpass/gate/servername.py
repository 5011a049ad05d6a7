"""The name in a TLS hello, held against the host of the tunnel that it came through.

Lives here: pure checks of a server name. May not live here: reading hellos (the engine), certificates (ca.py).
"""

from __future__ import annotations

from typing import Final

from outpass.gate.head import Flaw
from outpass.policy import names
from outpass.reasons import Reason

ECH: Final = 0xFE0D
"""The extension of a hello that hides another one (RFC 9849). Clients also send it as GREASE, so it proves nothing by itself."""


def flaw(sni: str | None, host: str, *, ech: bool = False) -> Flaw | None:
    """Why a hello with this name does not belong into a tunnel to `host` (canonical); None if it does.

    `ech`: it carries the extension ECH, so that the name is an outer one, and the true one perhaps hidden.
    """
    if sni is None:
        if ":" in host or host.replace(".", "").isdecimal():  # RFC 6066, section 3: addresses are not permitted in SNI
            return None
        return Flaw(Reason.SNI_MISSING, "the TLS handshake names no server")
    if canonical(sni) == host:
        return None
    if ech:
        return Flaw(
            Reason.SNI_MISMATCH, "the TLS server name is hidden (ECH), and the outer one is another than the tunnel's host"
        )
    return Flaw(Reason.SNI_MISMATCH, "the TLS server name is another than the tunnel's host")


def canonical(host: str) -> str | None:
    """`host` in normal form; None if it has none."""
    try:
        return names.host(host)
    except ValueError:
        return None
