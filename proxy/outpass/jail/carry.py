"""The relay of published ports: accepts outside, connects inside, copies bytes both ways.

Lives here: the event loop of that one process. May not live here: who started it, when it ends (publish.py). It reads nothing
of what it copies. Imports asyncio, so nobody imports it before the fork.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import struct
from collections.abc import Sequence
from typing import Final

MAX_CONNECTIONS: Final = 4096
"""At once; also no more than the descriptors that this process may have."""
CONNECT_SECONDS: Final = 10.0
BLOCK: Final = 1 << 18
_SPARE: Final = 64
_RETRY_SECONDS: Final = 0.1
_INSIDE: Final = "127.0.0.1"


def run(listeners: Sequence[tuple[socket.socket, int]], leash: socket.socket, maker: socket.socket) -> None:
    """Serves (listener, port inside) pairs until the other end of `leash` is closed."""
    asyncio.run(_serve(listeners, leash, maker))


def _room() -> int:
    """How many connections there may be, two descriptors each."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * MAX_CONNECTIONS + _SPARE
    soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max((soft - _SPARE) // 2, 1)


async def _serve(listeners: Sequence[tuple[socket.socket, int]], leash: socket.socket, maker: socket.socket) -> None:
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(leash.fileno(), ended.set)
    room = asyncio.Semaphore(_room())
    tasks = [asyncio.ensure_future(_accept(sock, port, maker, room)) for sock, port in listeners]
    await ended.wait()
    for task in tasks:
        task.cancel()


async def _accept(listener: socket.socket, port: int, maker: socket.socket, room: asyncio.Semaphore) -> None:
    loop = asyncio.get_running_loop()
    listener.setblocking(False)
    live: set[asyncio.Task[None]] = set()

    def over(task: asyncio.Task[None]) -> None:
        live.discard(task)
        room.release()

    while True:
        await room.acquire()
        try:
            outer, _ = await loop.sock_accept(listener)
        except OSError:  # gone again, or no descriptor free
            room.release()
            await asyncio.sleep(_RETRY_SECONDS)
            continue
        task = asyncio.ensure_future(_carry(outer, port, maker))
        live.add(task)
        task.add_done_callback(over)


def _new(maker: socket.socket) -> socket.socket:
    """A socket of the jail's. Blocks for the microseconds that it takes. Raises OSError."""
    maker.send(b"?")
    _, fds, _, _ = socket.recv_fds(maker, 1, 1)
    if not fds:
        raise OSError("the jail made no socket")
    return socket.socket(fileno=fds[0])


async def _carry(outer: socket.socket, port: int, maker: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    with contextlib.ExitStack() as both:
        both.enter_context(outer)
        try:
            inner = both.enter_context(_new(maker))
            for sock in (outer, inner):
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await asyncio.wait_for(loop.sock_connect(inner, (_INSIDE, port)), CONNECT_SECONDS)
        except (OSError, TimeoutError):  # nobody listens there: outside it must look so too
            _reset(outer)
            return
        try:
            async with asyncio.TaskGroup() as ways:
                ways.create_task(_copy(outer, inner))
                ways.create_task(_copy(inner, outer))
        except* OSError:  # a reset on one side is a reset on the other
            _reset(outer)
            _reset(inner)


async def _copy(source: socket.socket, target: socket.socket) -> None:
    """To the end of `source`, which is then the end of what `target` gets; the other way may go on."""
    loop = asyncio.get_running_loop()
    while block := await loop.sock_recv(source, BLOCK):
        await loop.sock_sendall(target, block)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def _reset(sock: socket.socket) -> None:
    """Its close will be a RST."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
