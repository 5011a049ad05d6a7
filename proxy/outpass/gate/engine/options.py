"""The engine's options and its process-wide context, set up without its master loop, its addons and its directory.

Lives here: which options differ from the engine's defaults, and why. May not live here: listeners, hooks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from mitmproxy import ctx, options
from mitmproxy.addons.tlsconfig import TlsConfig

CIPHERS: Final = ":".join(
    f"ECDHE-{who}-{how}" for how in ("AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305") for who in ("ECDSA", "RSA")
)
"""TLS 1.2 with forward secrecy and AEAD (Mozilla "intermediate" without DHE); TLS 1.3 has its own. The engine's default is
Mozilla "old", with CBC and RSA key exchange."""

IDLE_S: Final = 3600
"""Seconds without a byte on either side after which a connection ends. Language models think for minutes."""

READ: Final[tuple[tuple[str, Any, Any], ...]] = (
    ("store_streamed_bodies", bool, False),
    ("connection_strategy", str, "eager"),
    ("stream_large_bodies", str | None, None),
    ("body_size_limit", str | None, None),
    ("keep_host_header", bool, False),
    ("proxy_debug", bool, False),
    ("normalize_outbound_headers", bool, True),
    ("validate_inbound_headers", bool, True),
    ("connect_addr", str | None, None),
)
"""What the engine's layers read and its Proxyserver declares, which would bring its command language and its servers with it."""


class Declared:
    """What the engine's addons declare their options to."""

    def __init__(self, made: options.Options) -> None:
        self._made = made

    def add_option(
        self,
        name: str,
        typespec: Any,
        default: Any,
        help: str = "",  # noqa: A002 (the engine's addons call it so)
        choices: Sequence[str] | None = None,
    ) -> None:
        """As the engine's Loader."""
        self._made.add_option(name, typespec, default, help, choices)


def start(tls: TlsConfig, trust: str) -> options.Options:
    """Make the engine's context with our options. `trust` is a PEM file for upstream TLS.

    No addon is registered with the engine, and it has no master: our dispatcher calls the hooks itself.
    """
    made = ctx.options = options.Options()
    declared = Declared(made)
    for name, typespec, default in READ:
        declared.add_option(name, typespec, default)
    tls.load(declared)  # type: ignore[no-untyped-call]
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
    return made
