"""The origins of the soak: one that does everything an origin can do wrong, three that speak HTTP/2, websockets and gRPC, one that
nobody may reach.

Lives here: the servers and the log of what reached them. May not live here: who was allowed to (judge.py).
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from types import TracebackType
from typing import Any, Self

import grpc
import trustme

from tests.support.grpc_origin import GrpcOrigin
from tests.support.origin import Origin
from tests.support.raw_origin import OK, RawOrigin, Script
from tests.support.websocket_origin import WebSocketOrigin

Arrived = tuple[str, str, str]
"""host, method, path."""


async def _rst(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Half an answer, then RST."""
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n" + b"x" * 5_000)
    await writer.drain()
    _reset(writer)


async def _rst_head(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """RST instead of an answer."""
    _reset(writer)


def _reset(writer: asyncio.StreamWriter) -> None:
    sock: socket.socket = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _stall(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Nothing for three seconds, then the end."""
    await asyncio.sleep(3)
    writer.close()


async def _slow(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A body of many small pieces."""
    writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    for _ in range(20):
        writer.write(b"1\r\nx\r\n")
        await writer.drain()
        await asyncio.sleep(0.02)
    writer.write(b"0\r\n\r\n")


async def _half(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A head, half a chunk, and then a connection that stays open for a while and says no more."""
    writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n64\r\nabc")
    await writer.drain()
    await asyncio.sleep(2)
    writer.close()


async def _short(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A body that is shorter than it was announced."""
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nshort")
    writer.close()


SCRIPTS: dict[str, Script] = {
    "rst": _rst,
    "rst-head": _rst_head,
    "stall": _stall,
    "slow": _slow,
    "half": _half,
    "500": b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 4\r\n\r\noops",
    "short": _short,
    "junk": b"\x00\x01\x02 this is no HTTP\r\n\r\n",
    "big": b"HTTP/1.1 200 OK\r\ncontent-length: 1048576\r\n\r\n" + bytes(1 << 20),
}


class _ByKind(dict[str, Script]):
    """Scripts by the first segment of the path."""

    def get(self, path: str, default: Any = OK) -> Any:
        return SCRIPTS.get(path.split("/")[1] if path.startswith("/") else path, default)


class _AnyCall(grpc.GenericRpcHandler):
    """Answers whatever is called, and remembers its name."""

    def __init__(self) -> None:
        self.called: list[str] = []

    def service(self, handler_call_details: Any) -> Any:
        """One message, one answer."""
        self.called.append(handler_call_details.method)
        return grpc.unary_unary_rpc_method_handler(lambda request, _: request[:100])


class Origins:
    """`with Origins() as origins:`; `arrived()` is everything that reached any of them."""

    def __init__(self) -> None:
        ca = trustme.CA()
        self.h1 = RawOrigin("h1.soak.test", ca=ca, scripts=_ByKind())
        self.denied = RawOrigin("denied.soak.test", ca=ca)
        self.h2 = Origin(("h2.soak.test",), ca=ca)
        self.ws = WebSocketOrigin("ws.soak.test", ca)
        self.calls = _AnyCall()
        self.rpc = GrpcOrigin(ca, "rpc.soak.test", handlers=(self.calls,))
        self._arrived: set[Arrived] = set()
        self.count = 0
        self._ended = threading.Event()
        self._taker = threading.Thread(target=self._take, daemon=True)

    def __enter__(self) -> Self:
        for one in self._all():
            one.__enter__()
        self._taker.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._ended.set()
        self._taker.join()
        for one in self._all():
            one.__exit__(None, None, None)

    def _all(self) -> tuple[Any, ...]:
        return self.h1, self.denied, self.h2, self.ws, self.rpc

    def connect_to(self) -> list[str]:
        """Options of the daemon."""
        ports = {"h1.soak.test": self.h1.port, "denied.soak.test": self.denied.port, "h2.soak.test": self.h2.port}
        ports["rpc.soak.test"] = self.rpc.port
        return self.ws.connect_to() + [
            o for host, port in ports.items() for o in ("--connect-to", f"{host}:443:127.0.0.1:{port}")
        ]

    def arrived(self) -> set[Arrived]:
        """What reached an origin so far."""
        self._drain()
        return set(self._arrived)

    def _take(self) -> None:
        while not self._ended.wait(0.5):
            self._drain()

    def _drain(self) -> None:
        for origin in (self.h1, self.denied):
            while origin.seen:
                raw = origin.seen.pop(0)
                method, path, _ = raw.line.split(" ", 2)
                self._add(raw.header("host")[0], method, path)
        while self.h2.seen:
            seen = self.h2.seen.pop(0)
            self._add(seen.host, seen.method, seen.path)
        while self.ws.seen:
            self._add("ws.soak.test", "GET", self.ws.seen.pop(0)[0])
        while self.calls.called:
            self._add("rpc.soak.test", "POST", self.calls.called.pop(0))

    def _add(self, host: str, method: str, path: str) -> None:
        self.count += 1
        self._arrived.add((host, method, path))
