"""Which of two policies is in force, for several processes at the same instant: a number in shared memory.

Lives here: reading and raising the number. May not live here: making the memory (broker/), what is staged for a turn (gate/).

A reload hands every gate the new policy together with the number of the turn at which it takes force, waits until all have
it, and raises the number: one store of eight aligned bytes in memory that all of them read. So a decision that begins after any
gate has decided by the new policy is decided by the new policy, in whichever gate. A message to each gate instead would leave a
time in which one answers with the new and another with the old.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from outpass.errors import StartError

if TYPE_CHECKING:
    from mmap import mmap

SIZE_BYTES: Final = 4_096
"""Size of the shared memory, to the byte: one page, all zero when new."""


class Turn:
    """The number in `buffer`: shared memory of exactly SIZE_BYTES, native byte order (one host)."""

    def __init__(self, buffer: memoryview | mmap) -> None:
        """Raises StartError for a buffer of another size."""
        view = memoryview(buffer).cast("B")
        size = len(view)
        if size != SIZE_BYTES:
            view.release()
            raise StartError(f"the memory of turns is {size} bytes; it must be {SIZE_BYTES}")
        self._words = view.cast("Q")
        view.release()

    @property
    def now(self) -> int:
        """The turn that is in force."""
        return self._words[0]

    def advance(self) -> int:
        """Everything staged for the next turn takes force; returns its number. One process only; TypeError where read-only."""
        self._words[0] = self._words[0] + 1
        return self._words[0]

    def close(self) -> None:
        """Let go of the memory, so that a mapping under it can be closed."""
        self._words.release()
