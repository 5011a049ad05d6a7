"""An echoing websocket server under a real host name, with TLS, that keeps the heads of its handshakes.

Lives here: the server that tests judge by. May not live here: anything of outpass.
"""

from __future__ import annotations

import contextlib
import ssl
import threading
from typing import Any

import trustme
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve


class WebSocketOrigin:
    """Answers every message with itself; `seen` holds (path, header names in lower case) of each handshake."""

    def __init__(self, host: str, ca: trustme.CA) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ca.issue_cert(host).configure_cert(context)
        self.seen: list[tuple[str, set[str]]] = []
        self._server = serve(self._echo, "127.0.0.1", 0, ssl=context, compression=None)
        self._host = host
        self.port: int = self._server.socket.getsockname()[1]

    def _echo(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        self.seen.append((connection.request.path, {name.lower() for name in connection.request.headers}))
        with contextlib.suppress(ConnectionClosed):  # clients are killed, and rights end
            for message in connection:
                connection.send(message)

    def __enter__(self) -> WebSocketOrigin:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._server.shutdown()

    def connect_to(self) -> list[str]:
        """The `--connect-to` option that sends its host here."""
        return ["--connect-to", f"{self._host}:443:127.0.0.1:{self.port}"]
