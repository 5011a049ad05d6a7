"""A gRPC server over TLS with the four kinds of calls, that keeps a log; no generated code, messages are bytes.

Lives here: that server. May not live here: clients, assertions.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import grpc
import trustme

SERVICE = "test.Echo"


@dataclass
class GrpcOrigin:
    """`with GrpcOrigin(ca, "rpc.test") as origin:`; methods Unary, Down (n answers), Up (joined), Both (echo), Hang, Fail."""

    ca: trustme.CA
    host: str
    handlers: tuple[grpc.GenericRpcHandler, ...] = ()
    """Instead of its own methods."""
    seen: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    """(method, metadata) of each call."""
    asked: list[tuple[str, str]] = field(default_factory=list)
    """(method, message) of each Unary."""
    cancelled: threading.Event = field(default_factory=threading.Event)
    """Set when a Hang was cancelled."""
    taken: int = 0
    """Messages that Slow has read."""
    go: threading.Event = field(default_factory=threading.Event)
    """Slow reads on when it is set."""

    def __enter__(self) -> GrpcOrigin:
        cert = self.ca.issue_cert(self.host)
        credentials = grpc.ssl_server_credentials(
            [(cert.private_key_pem.bytes(), b"".join(blob.bytes() for blob in cert.cert_chain_pems))]
        )
        self._server = grpc.server(futures.ThreadPoolExecutor(16))
        own = grpc.method_handlers_generic_handler(SERVICE, self._handlers())
        self._server.add_generic_rpc_handlers(self.handlers or (own,))
        self.port: int = self._server.add_secure_port("127.0.0.1:0", credentials)
        self._server.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.go.set()
        self._server.stop(0).wait()

    def leave(self, grace: float) -> threading.Event:
        """Say GOAWAY and end when the calls under way have ended, or after `grace` seconds."""
        ended: threading.Event = self._server.stop(grace)
        return ended

    def _handlers(self) -> dict[str, Any]:
        return {
            "Unary": grpc.unary_unary_rpc_method_handler(self._unary),
            "Down": grpc.unary_stream_rpc_method_handler(self._down),
            "Up": grpc.stream_unary_rpc_method_handler(self._up),
            "Both": grpc.stream_stream_rpc_method_handler(self._both),
            "Hang": grpc.unary_stream_rpc_method_handler(self._hang),
            "Fail": grpc.unary_unary_rpc_method_handler(self._fail),
            "Slow": grpc.stream_unary_rpc_method_handler(self._slow),
        }

    def _note(self, method: str, context: Any) -> None:
        self.seen.append((method, dict(context.invocation_metadata())))

    def _unary(self, request: bytes, context: Any) -> bytes:
        self._note("Unary", context)
        self.asked.append(("Unary", request.decode("latin-1")))
        context.set_trailing_metadata((("x-after", "yes"), ("x-bin-bin", b"\0\1")))
        return b"echo " + request

    def _down(self, request: bytes, context: Any) -> Iterator[bytes]:
        self._note("Down", context)
        for n in range(int(request)):
            yield b"%d" % n

    def _up(self, requests: Iterator[bytes], context: Any) -> bytes:
        self._note("Up", context)
        return b",".join(requests)

    def _both(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        self._note("Both", context)
        for request in requests:
            yield b"echo " + request

    def _hang(self, _: bytes, context: Any) -> Iterator[bytes]:
        self._note("Hang", context)
        context.add_callback(self.cancelled.set)
        yield b"first"
        while context.is_active() and not self.go.is_set():
            time.sleep(0.02)
        yield b"last"

    def _fail(self, _: bytes, context: Any) -> bytes:
        self._note("Fail", context)
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not today — sorry")
        raise AssertionError

    def _slow(self, requests: Iterator[bytes], context: Any) -> bytes:
        self._note("Slow", context)
        total = 0
        self.go.wait(60)
        for request in requests:
            self.taken += 1
            total += len(request)
        return b"%d" % total
