"""Looks at every connection from time to time: whose deadline has come, who takes nothing, who may have one more.

Lives here: the sweep, and how many connections a jail may have. May not live here: what a layer does when it is late
(engine/patience.py), accepting (gate.py).

A jail may have as many connections as are still free in the gate. So one jail alone gets half of them, two that take all they
can a third each, and there is always something left for one that has none yet (dynamic thresholds, Choudhury and Hahne 1998).
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import time
from collections.abc import Iterable, Mapping

from outpass.gate import refusal
from outpass.gate.bounds import Bounds
from outpass.gate.client import Client
from outpass.gate.descriptors import RESERVE
from outpass.gate.jails import Jail
from outpass.gate.recorder import Recorder
from outpass.reasons import Reason

_LINGER_S = 1.0
_LINGERING = 64
_UNBOUNDED = 1 << 40


class Portions:
    """Who may have one more connection. One per gate."""

    def __init__(self, bounds: Bounds, jails: Mapping[str, Jail], recorder: Recorder) -> None:
        self._jails = jails
        self._recorder = recorder
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.room = _UNBOUNDED if soft == resource.RLIM_INFINITY else max((soft - min(RESERVE, soft // 2)) // 2, 2)
        """Each connection is two descriptors: the client's and the origin's."""
        self.total = max(min(bounds.connections, self.room), 2)
        """Of the engine's. A tunnel that is carried unseen costs it nothing more, and takes only room."""
        self._told: dict[str, tuple[float, int]] = {}
        self._lingering = 0

    def full(self, jail: Jail) -> bool:
        """Whether the jail has its share."""
        jails = self._jails.values()
        if _engaged(jail) >= self.total - sum(map(_engaged, jails)):
            return True
        # Twice what is free: one jail alone has two thirds of the room, 5 000 tunnels where 20 000 descriptors are allowed.
        return len(jail.clients) >= 2 * (self.room - sum(len(j.clients) for j in jails))

    async def refuse(self, jail: Jail, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer 503 and close; one record a second and jail, with the count."""
        now = time.monotonic()
        since, count = self._told.get(jail.id, (0.0, 0))
        trace = ""
        if now - since >= 1.0:
            detail = f"and {count} more" if count else ""
            trace = self._recorder.refusal(jail, Reason.TOO_MANY_CONNECTIONS, detail=detail)
            since, count = now, -1
        self._told = {k: v for k, v in self._told.items() if k in self._jails}
        self._told[jail.id] = since, count + 1
        with contextlib.suppress(OSError, TimeoutError):
            answer = refusal.of_reason(Reason.TOO_MANY_CONNECTIONS, trace=trace, retry_s=1)
            writer.write(refusal.as_http1(answer))
            if self._lingering < _LINGERING and writer.can_write_eof():
                self._lingering += 1
                try:
                    writer.write_eof()
                    async with asyncio.timeout(_LINGER_S):
                        while await reader.read(65536):
                            pass
                finally:
                    self._lingering -= 1
        writer.close()


def _engaged(jail: Jail) -> int:
    """Connections of a jail that the engine serves."""
    return max(len(jail.clients) - jail.tunnels, 0)


async def watch(jails: Mapping[str, Jail], bounds: Bounds) -> None:
    """Keep everybody to the bounds of time, for ever."""
    at = time.monotonic()
    while True:
        await asyncio.sleep(bounds.sweep_s)
        now = time.monotonic()
        sweep(jails.values(), bounds, now)
        if now - at > bounds.stall_s / 10:
            at = now
            stalls(jails.values(), bounds, now)


def sweep(jails: Iterable[Jail], bounds: Bounds, now: float) -> None:
    """Tell every connection whose time has come; `now` is time.monotonic()."""
    for jail in jails:
        for client in list(jail.clients):
            if not isinstance(client, Client):
                continue
            if client.due_at is not None and client.due_at <= now and client.sockets is not None:
                client.due_at = None
                client.sockets.tick(now)
            if client.shaking_since is not None and now - client.shaking_since > bounds.handshake_s:
                client.shaking_since = None
                client.refuse(Reason.CLIENT_TIMEOUT, "the TLS handshake did not come in time")
                client.close()


def stalls(jails: Iterable[Jail], bounds: Bounds, now: float) -> None:
    """Cut off who has taken nothing for too long of what waits for it."""
    for jail in jails:
        for client in list(jail.clients):
            if isinstance(client, Client) and client.sockets is not None and client.sockets.stalled(now, bounds.stall_s):
                client.refuse(Reason.CLIENT_TIMEOUT, "the client reads nothing of its answer")
                client.close()
