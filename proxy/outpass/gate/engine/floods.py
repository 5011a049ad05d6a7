"""Tells an HTTP/2 client that works from one that only keeps the gate busy.

Lives here: counting resets (CVE-2023-44487) and frames that carry nothing (CVE-2019-9512, 9515, 9518). May not live here: what
is done about it (h2.py). CONTINUATION frames never get this far: the library and `Http2Server` bound a header block.
"""

from __future__ import annotations

import time

import h2.events
import h2.exceptions

from outpass.gate.bounds import Bounds

_FRAME = 16_384
_CONTROL = (h2.events.PingReceived, h2.events.RemoteSettingsChanged, h2.events.PriorityUpdated, h2.events.UnknownFrameReceived)


class Bucket:
    """`size` at once, `rate` a second over time."""

    __slots__ = ("_at", "_left", "_rate", "_size")

    def __init__(self, size: int, rate: float) -> None:
        self._size, self._rate, self._left, self._at = size, rate, float(size), time.monotonic()

    def spend(self) -> bool:
        """Whether there is one more."""
        if self._left < 1:
            now = time.monotonic()
            self._left = min(self._size, self._left + (now - self._at) * self._rate)
            self._at = now
        self._left -= 1
        return self._left >= 0

    def earn(self, count: int = 1) -> None:
        """Give so many back."""
        self._left = min(self._size, self._left + count)


class Floods:
    """The counts of one connection."""

    __slots__ = ("_control", "_resets")

    def __init__(self, bounds: Bounds) -> None:
        self._resets = Bucket(bounds.resets, bounds.resets_rate)
        self._control = Bucket(bounds.control, bounds.control_rate)

    def of(self, event: h2.events.Event) -> str:
        """What the connection does too much of, with this event; empty: nothing."""
        if isinstance(event, h2.events.DataReceived):
            if event.data:
                self._control.earn(1 + len(event.data) // _FRAME)  # as many as it came in, or nearly (bulk.py joins them)
            elif not event.stream_ended and not self._control.spend():
                return "too many frames that carry nothing"
        elif isinstance(event, h2.events.RequestReceived):
            self._control.earn()
        elif isinstance(event, h2.events.StreamReset):
            if not self._resets.spend():
                return "too many streams were reset"
        elif isinstance(event, _CONTROL):
            if not self._control.spend():
                return "too many frames that carry nothing"
        elif isinstance(event, h2.exceptions.TooManyStreamsError):
            return "too many streams at a time"
        return ""
