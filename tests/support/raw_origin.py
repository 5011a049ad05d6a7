"""An HTTP/1.1 origin that keeps every byte it was sent, on loopback, plain or TLS.

Lives here: the server that tests about bytes judge by (smuggling, stripped fields, framing). May not live here: HTTP/2 (see
origin.py), anything of outpass. Answers are scripted by path: raw bytes, or a function that writes what it wants.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import TracebackType

import trustme

Script = bytes | Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@dataclass
class Raw:
    """One request: its head as it came, how long its body was, and on which connection (from 1)."""

    head: bytes
    body: bytes
    body_bytes: int
    connection: int

    @property
    def line(self) -> str:
        """The request line."""
        return self.head.split(b"\r\n", 1)[0].decode("latin-1")

    def header(self, name: str) -> list[str]:
        """Every value of one field."""
        lines = self.head.split(b"\r\n")[1:]
        pairs = (line.decode("latin-1").partition(":") for line in lines if line)
        return [value.strip() for key, _, value in pairs if key.lower() == name.lower()]


@dataclass
class RawOrigin:
    """`with RawOrigin("api.test") as origin:`; `origin.seen` is what arrived, `origin.port` where."""

    host: str = "api.test"
    tls: bool = True
    ca: trustme.CA | None = None
    alpn: tuple[str, ...] = ("http/1.1",)
    scripts: dict[str, Script] = field(default_factory=dict)
    seen: list[Raw] = field(default_factory=list)
    connections: int = 0
    bytes_in: int = 0
    invites: bool = True
    """Whether it answers `Expect: 100-continue` with a 100 by itself."""
    cert_hosts: tuple[str, ...] = ()
    context: ssl.SSLContext = field(default_factory=lambda: ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    """What it serves TLS with; a test may hang a callback on it."""

    def __enter__(self) -> RawOrigin:
        self._loop = asyncio.new_event_loop()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), daemon=True)
        self._thread.start()
        assert ready.wait(10)
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _run(self, ready: threading.Event) -> None:
        context = None
        if self.tls:
            self.ca = self.ca or trustme.CA()
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.set_alpn_protocols(list(self.alpn))
            self.ca.issue_cert(*(self.cert_hosts or (self.host,))).configure_cert(context)
            self.context = context

        async def start() -> None:
            server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=context, limit=1 << 20)
            self.port: int = server.sockets[0].getsockname()[1]
            ready.set()

        self._loop.run_until_complete(start())
        self._loop.run_forever()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = self.connections
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                request = Raw(head, b"", 0, number)
                self.seen.append(request)
                if b"\r\nexpect: 100-continue\r\n" in head.lower() and self.invites:
                    writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                if self.invites or b"\r\nexpect:" not in head.lower():
                    await self._body(reader, request)
                path = head.split(b" ", 2)[1].decode("latin-1").partition("?")[0]
                script = self.scripts.get(path, OK)
                if isinstance(script, bytes):
                    writer.write(script)
                else:
                    await script(reader, writer)
                await writer.drain()
                if b"connection: close" in head.lower():
                    break
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _body(self, reader: asyncio.StreamReader, request: Raw) -> None:
        if re.search(rb"(?i)\r\ntransfer-encoding:[^\r]*chunked", request.head):
            while True:
                line = await reader.readline()
                if not line:
                    raise asyncio.IncompleteReadError(b"", None)
                size = int(line.split(b";")[0], 16)
                if size == 0:
                    while (line := await reader.readline()) not in (b"\r\n", b""):
                        request.body += line
                    return
                await self._take(reader, request, size)
                await reader.readexactly(2)
        found = re.search(rb"(?i)\r\ncontent-length: *(\d+)", request.head)
        if found:
            await self._take(reader, request, int(found[1]))

    async def _take(self, reader: asyncio.StreamReader, request: Raw, size: int) -> None:
        while size > 0:
            data = await reader.read(min(size, 1 << 18))
            if not data:
                raise asyncio.IncompleteReadError(b"", size)
            size -= len(data)
            request.body_bytes += len(data)
            self.bytes_in += len(data)
            if request.body_bytes < 100_000:
                request.body += data

    def wait(self, count: int, seconds: float = 10) -> list[Raw]:
        """The log, once it holds `count` requests; raises AssertionError after `seconds`."""
        end = time.monotonic() + seconds
        while len(self.seen) < count:
            assert time.monotonic() < end, f"{len(self.seen)} of {count} requests arrived"
            time.sleep(0.01)
        return self.seen
