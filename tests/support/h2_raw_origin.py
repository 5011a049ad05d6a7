"""An HTTP/2 origin that answers with exactly the fields it is told to, however wrong.

Lives here: that server. May not live here: an origin that behaves (origin.py), HTTP/1 (raw_origin.py).
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import trustme

from tests.support.accepting import Accepting

Script = Callable[[h2.connection.H2Connection, int], None]


def fields(*pairs: tuple[bytes, bytes], body: bytes = b"ok") -> Script:
    """The answer with these fields, pseudo-fields included, and `body`."""

    def answer(conn: h2.connection.H2Connection, stream: int) -> None:
        conn.send_headers(stream, list(pairs))
        conn.send_data(stream, body, end_stream=True)

    return answer


class RawH2Origin(Accepting):
    """`with RawH2Origin(ca, "h2.test") as origin:`; set `origin.script` before each request."""

    def __init__(self, ca: trustme.CA, host: str) -> None:
        self.script: Script = fields((b":status", b"200"))
        self.seen: list[list[tuple[bytes, bytes]]] = []
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.set_alpn_protocols(["h2"])
        ca.issue_cert(host).configure_cert(self._context)
        super().__init__(self._serve)

    def _serve(self, plain: socket.socket) -> None:
        config = h2.config.H2Configuration(
            client_side=False,
            header_encoding=None,
            validate_inbound_headers=False,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
        conn = h2.connection.H2Connection(config)
        try:
            with self._context.wrap_socket(plain, server_side=True) as sock:
                conn.initiate_connection()
                sock.sendall(conn.data_to_send())
                while data := sock.recv(1 << 16):
                    for event in conn.receive_data(data):
                        if isinstance(event, h2.events.RequestReceived):
                            self.seen.append([(bytes(n), bytes(v)) for n, v in event.headers])
                            self.script(conn, event.stream_id)
                    sock.sendall(conn.data_to_send())
        except (OSError, h2.exceptions.ProtocolError):
            pass
