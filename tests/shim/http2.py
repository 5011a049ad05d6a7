"""An HTTP/2 answerer for the rig's proxy, for tests that have h2. Lives here: one connection's worth of it, no more."""

from __future__ import annotations

import socket

import h2.config
import h2.connection
import h2.events

from tests.shim.rig import Head, Proxy


def answer_http2(proxy: Proxy) -> None:
    """Makes `proxy` speak h2 inside TLS where the client chooses it (ALPN)."""

    def serve(sock: socket.socket, place: str) -> None:
        connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="latin-1"))
        connection.initiate_connection()
        sock.sendall(connection.data_to_send())
        while True:
            data = sock.recv(65536)
            if not data:
                return
            for event in connection.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    head = Head()
                    fields = list(event.headers or [])
                    head.line, head.inside = f"{dict(fields)[':method']} {dict(fields)[':path']} HTTP/2", place
                    for name, value in fields:
                        head.setdefault(str(name), []).append(str(value))
                    proxy.heads.append(head)
                elif isinstance(event, h2.events.StreamEnded):
                    connection.send_headers(event.stream_id, [(":status", "200"), ("content-length", "2")])
                    connection.send_data(event.stream_id, b"ok", end_stream=True)
            sock.sendall(connection.data_to_send())

    proxy.http2 = serve
