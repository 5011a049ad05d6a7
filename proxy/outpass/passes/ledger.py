"""The ledger: every pass is honoured once, by a ring of serials in memory that outlives a gate.

Lives here: burning a serial. May not live here: making the shared memory (broker/), reading passes (token.py).

The broker numbers passes upwards and owns a 1 MiB memfd of 2^17 slots of 8 bytes; every gate that it starts maps the
same one. Serial n belongs to slot n mod 2^17, which holds the highest serial burned there.

* Why not a set of seen serials in the gate: a gate that is killed and restarted would forget it, and every pass of the
  last 30 s would be good again. The memory here belongs to the broker and stays.
* Why a ring: constant memory and 0.2 µs whatever the load, and no clean-up. The price is that a pass whose slot was
  reused is refused, used or not. At 4 000 passes a second that takes 30 s, when the pass has expired anyway; at higher
  rates it hits a pass that waited long for its request. It fails closed.
* Several gates burn in the same memory at the same time. `burn` reads and then writes, so whoever burns holds the slot
  meanwhile (`Guard`). A slot that is held is not waited for: somebody burns this very serial now, so this one is refused. A
  gate that stops or dies while it holds one keeps nobody else waiting.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from outpass.errors import StartError

if TYPE_CHECKING:
    from mmap import mmap

SLOTS: Final = 1 << 17
SIZE_BYTES: Final = SLOTS * 8
"""Size of the shared memory, to the byte; all zero when new."""


class Guard(Protocol):
    """Keeps other processes off a slot while it is read and written."""

    def take(self, slot: int) -> bool:
        """Hold a slot; False, at once, when another process holds it. Reads after this see what the last holder wrote."""

    def release(self, slot: int) -> None:
        """Let go of it."""


def words(buffer: memoryview | mmap, size: int, what: str) -> memoryview:
    """Shared memory of exactly `size` bytes as unsigned numbers of 8 bytes. Raises StartError for another size, or read-only."""
    view = memoryview(buffer).cast("B")
    found, mode = len(view), "read-only" if view.readonly else "writable"
    unfit = view.readonly or found != size
    numbers = None if unfit else view.cast("Q")
    view.release()
    if numbers is None:
        raise StartError(f"the {what} is {found} bytes and {mode}; it must be {size} and writable")
    return numbers


class Ledger:
    """Burns serials in `buffer`: writable shared memory of exactly SIZE_BYTES, native byte order (one host)."""

    def __init__(self, buffer: memoryview | mmap, guard: Guard | None = None) -> None:
        """`guard`: None where no other process burns in the same memory at the same time.

        Raises StartError for a buffer of another size, or one that cannot be written: replays would not be seen.
        """
        self._guard = guard
        self._slots = words(buffer, SIZE_BYTES, "pass ledger")

    def burn(self, n: int) -> bool:
        """True exactly once for each serial; False when it was burned before or is so old that its slot was reused."""
        if not 0 < n < 1 << 63:
            return False
        slot = n & (SLOTS - 1)
        if self._slots[slot] >= n:  # slots only rise, so this needs no guard
            return False
        if self._guard is None:
            return self._burn(slot, n)
        if not self._guard.take(slot):
            return False
        try:
            return self._burn(slot, n)
        finally:
            self._guard.release(slot)

    def _burn(self, slot: int, n: int) -> bool:
        slots = self._slots
        if slots[slot] >= n:
            return False
        slots[slot] = n
        return True

    def close(self) -> None:
        """Let go of the memory, so that a mapping under it can be closed."""
        self._slots.release()
