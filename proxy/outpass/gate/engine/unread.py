"""What the engine has read of a client's connection and not used: the bytes behind a CONNECT.

Lives here: finding them in the engine's layers. May not live here: what becomes of the connection (handler.py).
"""

from __future__ import annotations

from mitmproxy.connection import Client
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers.http import HttpLayer
from mitmproxy.proxy.layers.http._http1 import Http1Server


def unread(context: Context, client: Client) -> bytes:
    """The bytes that came with a CONNECT that the explicit proxy's layers are deciding. Raises LookupError elsewhere."""
    for layer in context.layers:
        server = layer.connections.get(client) if isinstance(layer, HttpLayer) else None
        if isinstance(server, Http1Server):
            return bytes(server.buf)
    raise LookupError("not an HTTP/1 connection of the explicit proxy")
