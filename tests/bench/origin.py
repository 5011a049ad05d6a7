"""The origin that the peers' benchmark fetches from: `python -m tests.bench.origin`, a process of its own on loopback.

Lives here: HTTP/1.1 with keep-alive: `/s` answers 1 KiB, `/bytes/N` N bytes. May not live here: anything measured.

They are sent from memory, as TLS is, which is what tunnels carry: sendfile would hand the proxy another kind of pages.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import threading

SMALL = b"HTTP/1.1 200 OK\r\ncontent-length: 1024\r\ncontent-type: text/plain\r\n\r\n" + b"x" * 1024
BLOCK = memoryview(bytes(1 << 20))


class Origin(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self.got = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.got += data
        while (end := self.got.find(b"\r\n\r\n")) >= 0:
            path = self.got.split(b" ", 2)[1]
            self.got = self.got[end + 4 :]
            if b"/bytes/" in path:
                self._large(int(path.rpartition(b"/")[2]))
            else:
                self.transport.write(SMALL)

    def _large(self, count: int) -> None:
        self.transport.pause_reading()
        sock = self.transport.get_extra_info("socket").dup()
        threading.Thread(target=self._send, args=(sock, count, asyncio.get_running_loop()), daemon=True).start()

    def _send(self, sock: socket.socket, count: int, loop: asyncio.AbstractEventLoop) -> None:
        with contextlib.suppress(OSError), sock:
            sock.settimeout(600)
            sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\ncontent-type: text/plain\r\n\r\n" % count)
            left = count
            while left > 0:
                left -= sock.send(BLOCK[:left])
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(self._again)

    def _again(self) -> None:
        if not self.transport.is_closing():
            self.transport.resume_reading()


async def main() -> None:
    """Says its port, and serves until its standard input ends."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Origin, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, os.read, 0, 1)
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main())
