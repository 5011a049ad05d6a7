"""Which way a connection goes when more than one kind of rule would let it: looked into as HTTP, or carried as it is.

Lives here: that one preference, for the broker that mints and the gate that carries. May not live here: whether it is allowed.
"""

from __future__ import annotations

from enum import Enum

from outpass.model import Decision, Verdict
from outpass.policy import names, rules


class Way(Enum):
    """What a raw connection becomes that some rule allows."""

    HTTP = "http"
    """Looked into, each request decided."""
    TLS = "tls"
    """TLS to the named host, carried unseen (`intercept: false`)."""
    RAW = "raw"
    """A socket rule's: any bytes."""


def of_connection(tls: Decision, plain: Decision, raw: Decision, port: int) -> Way:
    """For one raw connection: what was decided about https, http and a socket there. Whether RAW is allowed is `raw`'s."""
    web = tls if tls.allowed else plain
    if not web.allowed or not _is_web(web, raw, port):
        return Way.RAW
    return Way.TLS if not web.intercept and not plain.allowed else Way.HTTP


def _is_web(web: Decision, raw: Decision, port: int) -> bool:
    """Whether a connection that HTTP rules allow goes the way of HTTP, where more is looked at.

    In audit mode neither is allowed in earnest, and the port decides: a protocol where the server speaks first must go on
    working.
    """
    if raw.verdict is Verdict.ALLOW:
        return not raw_wins(web, raw)
    return web.verdict is Verdict.ALLOW or not raw.allowed or port in names.DEFAULT_PORTS.values()


def raw_wins(web: Decision, raw: Decision) -> bool:
    """Whether a socket rule carries what HTTP rules were asked about too: only where it is the one that names the destination.

    HTTP is looked into, request by request, so it wins where both fit; but a bare `allow: [network:http]` must not take a
    database's port from the rule that names it. What is let through in audit mode only is never carried unseen.
    """
    if raw.verdict is not Verdict.ALLOW:
        return False
    return web.verdict is not Verdict.ALLOW or (rules.listed(raw.rule) and not rules.listed(web.rule))
