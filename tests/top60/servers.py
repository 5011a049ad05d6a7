"""The servers of the smoke calls: fakes of our own, and the databases and brokers that this machine runs.

Lives here: starting them, the gate's options that lead there, what arrived. May not live here: rows, running.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator
from concurrent import futures
from typing import Any, Final

import grpc
import trustme

from tests.support.accepting import Accepting
from tests.support.origin import Origin
from tests.support.websocket_origin import WebSocketOrigin
from tests.top60.answers import ADDRESS
from tests.top60.smoke import Smoke

RUNNING: Final = {"postgresql": 5432, "mariadb": 3306, "redis": 6379, "rabbitmq": 5672, "nats": 4222, "mosquitto": 1883}
"""Of this machine. A row whose server does not listen is not run, and the table says so."""


def listening(port: int) -> bool:
    """Whether somebody serves this port of loopback."""
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


class Servers:
    """All of them for these rows. `arrived(row)`: whether its own host was asked; `strays`: what came for the other one."""

    def __init__(self, rows: list[Smoke]) -> None:
        self.rows = rows
        ca = trustme.CA()
        web = [row for row in rows if row.server == "web"]
        answers = {row.host + path: said for row in web for path, said in row.answers.items()}
        self.web = Origin(tuple(host for row in rows for host in (row.host, row.elsewhere)), ca=ca, answers=answers)
        self.rpc = Rpc(ca, [row.host for row in rows if row.server == "rpc"])
        self.sockets = {row.host: WebSocketOrigin(row.host, ca) for row in rows if row.server == "ws"}
        self.fakes = {name: Fake(name) for name in {row.server for row in rows} & set(FAKES)}

    @contextlib.contextmanager
    def running(self) -> Iterator[list[str]]:
        """The options for the gate."""
        with contextlib.ExitStack() as stack:
            for server in (self.web, self.rpc, *self.sockets.values(), *self.fakes.values()):
                stack.enter_context(server)
            to: list[str] = []
            for row in self.rows:
                for host in (row.host, row.elsewhere):
                    to += ["--connect-to", f"{host}:{row.port}:127.0.0.1:{self.port(row)}"]
            yield [*to, "--upstream-ca", str(self.web.ca_file)]

    def port(self, row: Smoke) -> int:
        """Where a row's server listens."""
        if row.server == "web":
            return self.web.port
        if row.server == "rpc":
            return self.rpc.port
        if row.server == "ws":
            return self.sockets[row.host].port
        return self.fakes[row.server].port if row.server in self.fakes else RUNNING[row.server]

    def arrived(self, row: Smoke) -> bool:
        """Whether the row's host was asked for; at a real database its own answer says so."""
        if row.server == "web":
            return self._at_web(row.host)
        if row.server == "rpc":
            return row.host in self.rpc.seen
        if row.server == "ws":
            return bool(self.sockets[row.host].seen)
        return bool(self.fakes[row.server].seen) if row.server in self.fakes else True

    def strayed(self, row: Smoke) -> bool:
        """Whether anything came for the host that the row is not granted, where a server can tell."""
        return self._at_web(row.elsewhere) or row.elsewhere in self.rpc.seen

    def _at_web(self, host: str) -> bool:
        return any(seen.host.partition(":")[0] == host for seen in self.web.seen)


class Rpc:
    """A gRPC server over TLS under many names: every method answers an empty message, /status.Fails/Now an error with details."""

    def __init__(self, ca: trustme.CA, hosts: list[str]) -> None:
        self.ca, self.hosts = ca, hosts or ["nobody.example.com"]
        self.seen: set[str] = set()

    def __enter__(self) -> Rpc:
        cert = self.ca.issue_cert(*self.hosts)
        chain = b"".join(blob.bytes() for blob in cert.cert_chain_pems)
        self._server = grpc.server(futures.ThreadPoolExecutor(8))
        self._server.add_generic_rpc_handlers((self,))
        credentials = grpc.ssl_server_credentials([(cert.private_key_pem.bytes(), chain)])
        self.port: int = self._server.add_secure_port("127.0.0.1:0", credentials)
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(0).wait()

    def service(self, details: Any) -> Any:
        """grpc's own name for: who handles this method."""
        return grpc.unary_unary_rpc_method_handler(self._failing if details.method.endswith("/Fails") else self._empty)

    def _note(self, context: Any) -> None:
        # NOTE: grpc tells a handler the method and the metadata, and keeps the authority here.
        self.seen.add(context._rpc_event.call_details.host.decode().partition(":")[0])

    def _empty(self, _: bytes, context: Any) -> bytes:
        self._note(context)
        return b""

    def _failing(self, _: bytes, context: Any) -> bytes:
        self._note(context)
        context.set_trailing_metadata((("grpc-status-details-bin", b"\x08\x03\x12\x0cnot your day"),))
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "not your day")
        raise AssertionError


class Fake(Accepting):
    """A TCP server that speaks as much of a protocol as a first exchange needs."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.seen: list[bytes] = []
        super().__init__(self._serve)

    def _serve(self, sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError, struct.error, IndexError):
            FAKES[self.name](sock, self.seen)


def _echo(sock: socket.socket, seen: list[bytes]) -> None:
    while data := sock.recv(65536):
        seen.append(data)
        sock.sendall(data)


def _sink(sock: socket.socket, seen: list[bytes]) -> None:
    while data := sock.recv(65536):
        seen.append(data)


def _ssh(sock: socket.socket, seen: list[bytes]) -> None:
    sock.sendall(b"SSH-2.0-top60_1\r\n")
    seen.append(sock.recv(65536))


def _dns(sock: socket.socket, seen: list[bytes]) -> None:
    seen.append(sock.recv(65536))
    sock.sendall(struct.pack(">H", len(ADDRESS)) + ADDRESS)


def _mongo(sock: socket.socket, seen: list[bytes]) -> None:
    """Answers every command of the wire protocol with a primary that agrees to everything."""
    told = [("ok", 1.0), ("isWritablePrimary", True), ("ismaster", True), ("maxWireVersion", 25), ("minWireVersion", 0)]
    document = _bson([*told, ("maxBsonObjectSize", 1 << 24), ("maxMessageSizeBytes", 48_000_000), ("maxWriteBatchSize", 100_000)])
    while len(head := sock.recv(16, socket.MSG_WAITALL)) == 16:
        size, number, _, code = struct.unpack("<iiii", head)
        seen.append(sock.recv(size - 16, socket.MSG_WAITALL))
        if code == 2013:
            body, reply = b"\0" * 5 + document, 2013
        else:
            body, reply = struct.pack("<iqii", 8, 0, 0, 1) + document, 1
        sock.sendall(struct.pack("<iiii", 16 + len(body), 1, number, reply) + body)


def _bson(pairs: list[tuple[str, float | bool | int]]) -> bytes:
    body = b""
    for name, value in pairs:
        if isinstance(value, bool):
            kind, raw = b"\x08", bytes([value])
        elif isinstance(value, int):
            kind, raw = b"\x10", struct.pack("<i", value)
        else:
            kind, raw = b"\x01", struct.pack("<d", value)
        body += kind + name.encode() + b"\0" + raw
    return struct.pack("<i", len(body) + 5) + body + b"\0"


FAKES: Final = {"echo": _echo, "dns": _dns, "ssh": _ssh, "mongo": _mongo, "kafka": _sink, "kafka2": _sink, "zmq": _sink}
