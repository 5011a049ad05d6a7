"""TLS from the client, as a subclass of the engine's layer.

Lives here: the bound on a ClientHello. May not live here: which server name is right (addon.py), certificates (ca.py).
"""

from __future__ import annotations

from mitmproxy.proxy.layer import CommandGenerator
from mitmproxy.proxy.layers import tls

from outpass.gate.engine.watcher import MAX_HEAD


class ClientTls(tls.ClientTLSLayer):
    """[S3] Stock collects up to 16 MiB that call themselves a ClientHello, and parses all of it again with every packet."""

    def receive_handshake_data(self, data: bytes) -> CommandGenerator[tuple[bool, str | None]]:
        if not self.client_hello_parsed and len(self.recv_buffer) + len(data) > MAX_HEAD:
            return False, "Cannot parse ClientHello: it is too large"
        return (yield from super().receive_handshake_data(data))

    def receive_data(self, data: bytes) -> CommandGenerator[None]:
        """[S3] Stock raises on what follows bytes that were no ClientHello."""
        if self.client_hello_parsed:
            yield from super().receive_data(data)
