"""The quota: how much of each limit was used in the window that ends now, in memory shared by all gates.

Lives here: taking from a limit, and how long until there is room again. May not live here: making the shared memory (broker/),
what a limit is for (policy/limits.py), clocks, the lock itself (an argument).

A window is counted in 63 parts of equal length, in 64 counters: the part that runs now and the 63 before it. Any window of that
length lies within 64 parts, so what these add up to is never less than what it saw: never more than the limit in any window,
wherever it begins. [A token bucket lets through up to twice the limit in a window.]

Layout: SLOTS slots of CELLS unsigned 64-bit cells, native byte order (one host). A slot: key, window in ns, number of the latest
part, sum of the counters, and the counters, part n in counter n mod 64. A slot whose window is over holds nothing that anyone
needs, and goes to the next key that looks for a place: constant memory, no clean-up. Where a key finds no place, nothing is
granted: it fails closed.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from outpass.passes.ledger import Guard, words
from outpass.policy.limits import Rate

if TYPE_CHECKING:
    from mmap import mmap

SLOTS: Final = 1 << 13
PARTS: Final = 64
_HEAD: Final = 4
CELLS: Final = _HEAD + PARTS
SIZE_BYTES: Final = SLOTS * CELLS * 8
"""Size of the shared memory, to the byte; all zero when new. Pages that no limit uses take no memory."""
_TRIED: Final = 32
"""Places that a key may be in, one after another from the one that it hashes to."""
_KEY, _WINDOW, _PART, _SUM = range(_HEAD)
_NS: Final = 1_000_000_000


class Quota:
    """Counts in `buffer`: writable shared memory of exactly SIZE_BYTES."""

    def __init__(self, buffer: memoryview | mmap, guard: Guard | None = None) -> None:
        """`guard` keeps out every other thread and process that counts here; None where there is no other.

        Raises StartError for an unfit buffer.
        """
        self._cells = words(buffer, SIZE_BYTES, "quota")
        self._guard = guard

    def take(self, key: int, rate: Rate, amount: int, now_ns: int, *, whole: bool = False) -> int:
        """Use up to `amount` of a limit, or all of it or nothing (`whole`); returns how much may go on.

        `key` is not 0 and below 2^64. `now_ns` is a clock that never runs backwards and is the same in every gate.
        """
        if self._guard is not None and not self._guard.take(0):
            return 0  # another gate holds it and does not go on
        try:
            at = self._slot(key, rate, now_ns)
            if at is None:
                return 0
            cells = self._cells
            room = rate.amount - cells[at + _SUM]
            granted = amount if room >= amount else 0 if whole else max(room, 0)
            if granted:
                cells[at + _SUM] += granted
                cells[at + _HEAD + cells[at + _PART] % PARTS] += granted
            return granted
        finally:
            if self._guard is not None:
                self._guard.release(0)

    def wait(self, key: int, rate: Rate, amount: int, now_ns: int) -> float:
        """Seconds until `amount` (or the whole limit, if that is less) can be taken, when nobody else takes any."""
        if self._guard is not None and not self._guard.take(0):
            return rate.seconds
        try:
            at = self._slot(key, rate, now_ns)
            if at is None:
                return rate.seconds
            cells = self._cells
            needed = min(amount, rate.amount) - (rate.amount - cells[at + _SUM])
            newest, length = cells[at + _PART], _part_ns(cells[at + _WINDOW])
            part = newest - (PARTS - 1)
            while needed > 0 and part <= newest:
                needed -= cells[at + _HEAD + part % PARTS] if part >= 0 else 0
                part += 1
            # The last part that was counted out leaves the window PARTS parts after it began.
            return max(0, (part - 1 + PARTS) * length - now_ns) / _NS if part > newest - (PARTS - 1) else 0.0
        finally:
            if self._guard is not None:
                self._guard.release(0)

    def _slot(self, key: int, rate: Rate, now_ns: int) -> int | None:
        """Index of the key's first cell, its counters brought up to now; None when every place is in use."""
        cells, first = self._cells, key % SLOTS
        window_ns = max(int(rate.seconds * _NS), PARTS)
        free: int | None = None
        for step in range(_TRIED):
            at = (first + step) % SLOTS * CELLS
            if cells[at] == key:
                self._advance(at, now_ns)
                return at
            if free is None and (not cells[at] or now_ns // _part_ns(cells[at + _WINDOW]) - cells[at + _PART] >= PARTS):
                free = at
        if free is None:
            return None
        cells[free : free + CELLS] = _EMPTY
        cells[free + _WINDOW] = window_ns
        cells[free + _PART] = now_ns // _part_ns(window_ns)
        cells[free] = key  # last: a gate that is killed before leaves a slot that is free
        return free

    def _advance(self, at: int, now_ns: int) -> None:
        """Forget the parts that left the window."""
        cells = self._cells
        newest, now = cells[at + _PART], now_ns // _part_ns(cells[at + _WINDOW])
        if now <= newest:
            return
        if now - newest >= PARTS:
            cells[at + _HEAD : at + CELLS] = _EMPTY[_HEAD:]
            cells[at + _SUM] = 0
        else:
            for part in range(newest + 1, now + 1):
                cells[at + _HEAD + part % PARTS] = 0
            # Added up anew: a gate that was killed while it counted may have left the sum too high.
            cells[at + _SUM] = sum(cells[at + _HEAD : at + CELLS])
        cells[at + _PART] = now

    def close(self) -> None:
        """Let go of the memory, so that a mapping under it can be closed."""
        self._cells.release()


def _part_ns(window_ns: int) -> int:
    """Length of a part, rounded up, so that 63 of them are never shorter than the window."""
    return max(-(-window_ns // (PARTS - 1)), 1)


_EMPTY: Final = memoryview(struct.pack(f"{CELLS}Q", *(0 for _ in range(CELLS)))).cast("Q")
