"""The engine's options and its process-wide context, set up without its master loop, its addons and its directory.

Lives here: which options differ from the engine's defaults, and why. May not live here: listeners, hooks.
"""

from __future__ import annotations

from typing import Final

from mitmproxy import ctx, options
from mitmproxy.addonmanager import Loader
from mitmproxy.addons import proxyserver
from mitmproxy.addons.tlsconfig import TlsConfig
from mitmproxy.master import Master

CIPHERS: Final = ":".join(
    f"ECDHE-{who}-{how}" for how in ("AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305") for who in ("ECDSA", "RSA")
)
"""TLS 1.2 with forward secrecy and AEAD (Mozilla "intermediate" without DHE); TLS 1.3 has its own. The engine's default is
Mozilla "old", with CBC and RSA key exchange."""

IDLE_S: Final = 3600
"""Seconds without a byte on either side after which a connection ends. Language models think for minutes."""


def start(tls: TlsConfig, trust: str) -> options.Options:
    """Make the engine's context with our options; needs a running loop. `trust` is a PEM file for upstream TLS.

    No addon is registered with the engine: our dispatcher calls the hooks itself. The engine's addons are only asked to
    declare the options that its layers read.
    """
    made = options.Options()
    master = Master(made)  # sets the engine's global context; it is never run
    master._legacy_log_events.uninstall()  # else every log record is fed to hooks that nobody has
    loader = Loader(master)  # type: ignore[no-untyped-call]
    for declares in (proxyserver.Proxyserver(), tls):  # type: ignore[no-untyped-call]
        declares.load(loader)  # type: ignore[no-untyped-call]
    made.update(  # type: ignore[no-untyped-call]
        confdir="",
        mode=[],
        connection_strategy="lazy",  # nothing is dialled before a request was decided
        rawtcp=False,  # else bytes that are not HTTP become an opaque tunnel
        http3=False,
        websocket=True,  # engine/websocket.py
        upstream_cert=False,  # else the engine dials to copy the origin's certificate
        validate_inbound_headers=True,
        store_streamed_bodies=False,
        ssl_insecure=False,
        ssl_verify_upstream_trusted_ca=trust,
        ssl_verify_upstream_trusted_confdir=None,
        ciphers_client=CIPHERS,
        ciphers_server=CIPHERS,
        tcp_timeout=IDLE_S,
        http2_ping_keepalive=0,
        show_ignored_hosts=False,
    )
    assert ctx.options is made
    return made
