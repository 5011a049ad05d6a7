"""Which address a name stands for on one client connection: resolved once, decided, dialled, and nothing else dialled.

Lives here: the pin, when it may be used again, the operator's overrides and upstream proxy. May not live here: whether an
address is allowed (policy/), the dial itself (dialling.py).

DNS rebinding: a proxy that resolves to check and lets its engine resolve again to dial checks one address and dials another.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from outpass.policy import addresses, names
from outpass.reasons import Reason
from outpass.upstream import Upstream

FRESH_S: Final = 30.0
"""Seconds for which a pin without any use may be used again; one in use stays as long as it is used."""

MANY: Final = 64
"""Pins of one connection above which old ones are dropped; there are never more than four times as many that nobody uses."""

Key = tuple[str, int]
"""Canonical host and port, as the engine knows a server."""
Overrides = Mapping[Key, tuple[str, int]]
"""host:port → address:port, from the operator's `--connect-to`."""
Resolver = Callable[[str, int], Awaitable[tuple[str, ...]]]
"""Raises OSError when the name has no address."""


class Via(NamedTuple):
    """An upstream proxy, and how TLS to it is verified, where it has any."""

    proxy: Upstream
    tls: ssl.SSLContext | None


@dataclass(slots=True)
class Pin:
    """The addresses that were decided for one host and port, in the resolver's order; or the proxy that resolves the host."""

    addresses: tuple[str, ...]
    """None of them where there is a proxy."""
    port: int
    override: bool
    born: float
    """On the loop's clock."""
    users: int = 0
    """Requests and connections that rely on it; while there are any, it does not change."""
    chosen: str | None = None
    """The address that answered last."""
    via: Via | None = None

    @property
    def decided(self) -> tuple[str, ...] | None:
        """The addresses as policy is asked about them; None: nobody here resolved the name."""
        return None if self.via is not None else self.addresses

    @property
    def dialled(self) -> str:
        """`address:port` of the connection in use, or of the one that is tried first; the URL of a proxy."""
        if self.via is not None:
            return self.via.proxy.shown
        address = self.chosen or self.addresses[0]
        return f"[{address}]:{self.port}" if ":" in address else f"{address}:{self.port}"


class Unresolved(Exception):
    """The name has no address, or the resolver did not answer; carries the reason."""

    reason: Final = Reason.RESOLVE_FAILED


async def resolve(host: str, port: int) -> tuple[str, ...]:
    """Every address of `host`, canonical, in the order of RFC 6724; an address is its own. Raises OSError.

    The name of the host's loopback is known here and asked of nobody.
    """
    if host == names.HOST:
        return ("127.0.0.1",)
    try:
        return (addresses.canonical(host),) if _literal(host) else await _lookup(host, port)
    except ValueError as e:
        raise OSError(str(e)) from None


async def _lookup(host: str, port: int) -> tuple[str, ...]:
    loop = asyncio.get_running_loop()
    infos = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    found = (addresses.canonical(str(info[4][0]).partition("%")[0]) for info in infos)
    unique = tuple(dict.fromkeys(found))
    if not unique:
        raise OSError("the name has no address")
    return unique


def _literal(host: str) -> bool:
    return ":" in host or addresses.numeric(host)


class Pins:
    """The pins of one client connection."""

    def __init__(self, overrides: Overrides, resolver: Resolver, clock: Callable[[], float], via: Via | None = None) -> None:
        self._overrides = overrides
        self._via = via
        self._resolver = resolver
        self._clock = clock
        self._pins: dict[Key, Pin] = {}
        self._pending: dict[Key, asyncio.Future[Pin]] = {}

    def ready(self, key: Key) -> Pin | None:
        """The pin that may be used now without asking a resolver, if there is one."""
        pin = self._pins.get(key)
        if pin is not None and (pin.users or self._clock() - pin.born < FRESH_S):
            return pin
        override = self._overrides.get(key)
        if override is not None:
            return self._keep(key, Pin((override[0],), override[1], True, self._clock()))
        if self._via is not None and self._via.proxy.carries(*key):
            return self._keep(key, Pin((), key[1], False, self._clock(), via=self._via))
        return None

    def _keep(self, key: Key, pin: Pin) -> Pin:
        """Note a pin; where there are many, those that nobody uses and nobody may use again are dropped."""
        if len(self._pins) >= MANY:
            now = self._clock()
            self._pins = {k: p for k, p in self._pins.items() if p.users or now - p.born < FRESH_S}
        while len(self._pins) >= MANY * 4 and (idle := next((k for k, p in self._pins.items() if not p.users), None)):
            del self._pins[idle]
        self._pins[key] = pin
        return pin

    def known(self, key: Key) -> Pin | None:
        """The pin that a request was decided on; None means that no request was, so that nothing may be dialled."""
        pin = self._pins.get(key)
        return pin if pin is not None and pin.users else None

    async def pin(self, key: Key) -> Pin:
        """`ready`, or resolve; requests that ask at the same time get the same answer. Raises Unresolved."""
        pin = self.ready(key)
        if pin is not None:
            return pin
        pending = self._pending.get(key)
        if pending is not None:
            return await asyncio.shield(pending)
        future: asyncio.Future[Pin] = asyncio.get_running_loop().create_future()
        future.add_done_callback(_retrieve)
        self._pending[key] = future
        try:
            found = await self._resolver(*key)
            pin = self._keep(key, Pin(found, key[1], False, self._clock()))
            future.set_result(pin)
            return pin
        except OSError as e:
            error = Unresolved(str(e))
            future.set_exception(error)
            raise error from None
        finally:
            del self._pending[key]
            if not future.done():
                future.cancel()


def _retrieve(future: asyncio.Future[Pin]) -> None:
    """Take note of the exception, so that asyncio does not complain when nobody else waited."""
    if not future.cancelled():
        future.exception()
