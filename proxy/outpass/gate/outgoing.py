"""What leaves the gate on the control socket: audit records in batches, and answers to the broker, in order.

Lives here: the queue, the packing, the timer. May not live here: what a record says (recorder.py), what comes in (control.py).

Records and answers share one queue, so that an answer to `jail.remove` cannot overtake the jail's records.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections import deque
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any, Final

MAX_PACKET: Final = 60_000
"""Bytes of one audit packet; SEQPACKET keeps packets whole, and the default buffer of a socket holds three of them."""
BATCH: Final = 100
BATCH_S: Final = 0.05
MAX_BACKLOG: Final = 10_000
"""Records that wait for the broker at which nothing more is decided: an unrecorded decision is none."""

_OPEN: Final = b'{"op":"audit","records":['
_CLOSE: Final = b"]}"


_ENCODER: Final = json.JSONEncoder(separators=(",", ":"))


def encode(message: Mapping[str, Any]) -> bytes:
    """A message or record as it goes on the wire; ASCII."""
    return _ENCODER.encode(message).encode()


class Outgoing:
    """The sending half of the control socket, which is non-blocking and outlives this object."""

    def __init__(self, sock: socket.socket, loop: asyncio.AbstractEventLoop, gone: Callable[[], None]) -> None:
        """`gone` is called when the broker does not exist any more."""
        self._sock = sock
        self._loop = loop
        self._gone = gone
        self._queue: deque[tuple[bool, bytes]] = deque()
        """(is a record, its JSON)."""
        self._records = 0
        self._timer: asyncio.TimerHandle | None = None
        self._soon = False
        self._writing = False
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def backlog(self) -> int:
        """Records that were not sent yet."""
        return self._records

    def record(self, record: Mapping[str, Any], *, now: bool) -> None:
        """Queue one audit record; with `now` (a denial) it leaves with the next turn of the loop, else within 50 ms."""
        self._add(encode(record), now)

    def encoded(self, text: bytes) -> None:
        """Queue one audit record that is JSON already."""
        self._add(text, False)

    def _add(self, text: bytes, now: bool) -> None:
        self._queue.append((True, text))
        self._records += 1
        self._empty.clear()
        if now or self._records >= BATCH:
            self._pump_soon()
        elif self._timer is None and not self._writing:
            self._timer = self._loop.call_later(BATCH_S, self._pump)

    def post(self, message: Mapping[str, Any]) -> None:
        """Queue an answer behind everything that is queued already, and send."""
        self._queue.append((False, encode(message)))
        self._empty.clear()
        self._pump_soon()

    async def drained(self) -> None:
        """Return when everything queued so far was handed to the kernel."""
        if self._queue:
            self._pump_soon()
        await self._empty.wait()

    def _pump_soon(self) -> None:
        # Coalesces what one turn of the loop brings; a burst of denials becomes a few packets, not one each.
        if not self._soon and not self._writing:
            self._soon = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._soon = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._queue:
            packet, count, records = self._next()
            try:
                self._sock.send(packet)
            except (BlockingIOError, InterruptedError):
                if not self._writing:
                    self._writing = True
                    self._loop.add_writer(self._sock, self._pump)
                return
            except OSError:
                self._gone()
                return
            for _ in range(count):
                self._queue.popleft()
            self._records -= records
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._sock)
        self._empty.set()

    def _next(self) -> tuple[bytes, int, int]:
        """The next packet, how many entries of the queue it holds, and how many records they are."""
        is_record, first = self._queue[0]
        if not is_record:
            return first, 1, 0
        parts, size = [first], len(_OPEN) + len(_CLOSE) + len(first)
        for is_record, text in islice(self._queue, 1, None):
            size += len(text) + 1
            if not is_record or size > MAX_PACKET:
                break
            parts.append(text)
        return _OPEN + b",".join(parts) + _CLOSE, len(parts), len(parts)
