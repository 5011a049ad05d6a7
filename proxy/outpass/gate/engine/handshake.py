"""The opening handshake of a websocket (RFC 6455, section 4): whether a request asks for one, and an answer grants it.

Lives here: pure checks of both heads. May not live here: frames (websocket.py), whether policy allows it (addon.py).

Nothing but a whole handshake switches protocols. A gate that takes any 101, or any Upgrade, for one lets what follows pass unread
while the origin still speaks HTTP: request smuggling by websocket.
"""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Final

from mitmproxy import http

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_KEY: Final = re.compile(r"[A-Za-z0-9+/]{22}==")


def asks(request: http.Request) -> bool:
    """Whether an HTTP/1.1 request asks for a websocket, completely and in one way only."""
    fields = request.headers
    return (
        request.data.method == b"GET"
        and request.http_version == "HTTP/1.1"
        and "websocket" in _tokens(fields, "upgrade")
        and "upgrade" in _tokens(fields, "connection")
        and fields.get_all("sec-websocket-version") == ["13"]
        and len(fields.get_all("sec-websocket-key")) == 1
        and _KEY.fullmatch(fields["sec-websocket-key"]) is not None
        and fields.get("content-length", "0") == "0"
        and "transfer-encoding" not in fields
    )


def is_handshake(request: http.Request | None, response: http.Response) -> bool:
    """Whether `response` (a 101) grants what `request`, as it was sent to the origin, asks for."""
    if request is None or not asks(request):
        return False
    key = request.headers["sec-websocket-key"].encode("ascii")
    accept = base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest()).decode("ascii")
    return (
        _tokens(response.headers, "upgrade") == ["websocket"]
        and "upgrade" in _tokens(response.headers, "connection")
        and response.headers.get_all("sec-websocket-accept") == [accept]
    )


def _tokens(fields: http.Headers, name: str) -> list[str]:
    """The elements of a list-valued field, in lower case."""
    return [token.strip().lower() for value in fields.get_all(name) for token in value.split(",") if token.strip()]
