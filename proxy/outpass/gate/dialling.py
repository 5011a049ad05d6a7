"""One TCP connection to one of the addresses that were decided, or through the upstream proxy to the host that was decided.

Lives here: the order and the stagger of attempts, and what a failure means. May not live here: resolving and deciding (pins.py,
addon.py, opaque.py), what is said to a proxy (through.py).

Happy eyeballs (RFC 8305) over checked addresses only: one address that swallows packets must not cost the whole of CONNECT_S.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Sequence
from itertools import chain, zip_longest
from typing import Final

from outpass.gate import through
from outpass.gate.descriptors import of_reserve
from outpass.gate.pins import Pin
from outpass.reasons import Reason

CONNECT_S: Final = 10.0
"""Seconds for the connection to an origin, over all of its addresses; through a proxy, until the proxy has opened the way."""
STAGGER_S: Final = 0.25
"""Seconds after which the next address is tried beside the one that has not answered (RFC 8305, section 5)."""


async def dial(pin: Pin, host: str) -> socket.socket:
    """A connected non-blocking socket for what was decided about `host`. Raises OSError (see `reason_of`)."""
    async with asyncio.timeout(CONNECT_S):
        if pin.via is not None:
            return await through.open_way(pin.via, host, pin.port, race)
        sock, pin.chosen = await race(pin.addresses, pin.port)
        return sock


def reason_of(error: OSError) -> Reason:
    """Why there is no connection."""
    if isinstance(error, through.NotThrough):
        return error.reason
    return Reason.UPSTREAM_TIMEOUT if isinstance(error, TimeoutError) else Reason.UPSTREAM_UNREACHABLE


async def race(addresses: Sequence[str], port: int) -> tuple[socket.socket, str]:
    """The first of the addresses that answers, and which that is; no other is ever connected to. Raises OSError."""
    error = OSError("no address")
    waiting = alternating(addresses)
    under_way: dict[asyncio.Task[socket.socket], str] = {}
    try:
        while waiting or under_way:
            if waiting:
                address = waiting.pop(0)
                under_way[asyncio.ensure_future(_connect(address, port))] = address
            done, _ = await asyncio.wait(under_way, timeout=STAGGER_S if waiting else None, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                address = under_way.pop(task)
                failed = task.exception()
                if failed is None:
                    return task.result(), address
                if not isinstance(failed, OSError):
                    raise failed
                error = failed
        raise error
    finally:
        for task in under_way:
            _give_up(task)


def alternating(addresses: Sequence[str]) -> list[str]:
    """The addresses with their families in turn, the resolver's first choice first (RFC 8305, section 4)."""
    if not addresses:
        return []
    first = ":" in addresses[0]
    split = [a for a in addresses if (":" in a) == first], [a for a in addresses if (":" in a) != first]
    return [a for a in chain.from_iterable(zip_longest(*split)) if a is not None]


async def _connect(address: str, port: int) -> socket.socket:
    """An address is a literal here, and asks no resolver."""
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if of_reserve(sock.fileno()):
            raise OSError("no descriptor is left")
        await asyncio.get_running_loop().sock_connect(sock, (address, port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        sock.close()
        raise
    return sock


def _give_up(task: asyncio.Task[socket.socket]) -> None:
    """Whatever it may still bring is closed."""

    def close(done: asyncio.Task[socket.socket]) -> None:
        with contextlib.suppress(OSError, asyncio.CancelledError):
            done.result().close()

    task.cancel()
    task.add_done_callback(close)
