"""A handler of the standard library's behind TLS on loopback, under a real host name and a CA of its own.

Lives here: its life. May not live here: what it answers (files_server.py, git_server.py), anything of outpass.
"""

from __future__ import annotations

import http.server
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import trustme


class HttpsServer:
    """`port` on 127.0.0.1; `ca_file` is whom to trust for it."""

    def __init__(self, host: str, ca_file: Path, handler: Callable[..., Any]) -> None:
        self.host, self.ca_file = host, ca_file
        ca = trustme.CA()
        ca.cert_pem.write_to_path(str(ca_file))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ca.issue_cert(host).configure_cert(context)
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port: int = self._server.server_address[1]

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def connect_to(self) -> list[str]:
        """The `--connect-to` option that leads its host here."""
        return ["--connect-to", f"{self.host}:443:127.0.0.1:{self.port}"]
