"""The memory that all gates of a daemon share with it: the ledger, the quota, and the turn of the policies.

Lives here: mapping it, keeping other gates off a slot. May not live here: what is in it (passes/, policy.turn).
"""

from __future__ import annotations

import fcntl
import mmap
import os
import threading
import time
from typing import Final

from outpass.passes import ledger, quota
from outpass.passes.ledger import Ledger
from outpass.passes.quota import Quota
from outpass.policy import shares, turn
from outpass.policy.turn import Turn

COURTESY_S: Final = 0.001
"""For each connection that this gate has more than another: the more, the longer that one may take to wake up."""
LONGEST_S: Final = 0.02


class Slots:
    """A record lock (fcntl(2)) on one byte for each slot: 0.9 µs for both calls, and the kernel drops it when a gate dies."""

    def __init__(self, descriptor: int) -> None:
        """Keeps a descriptor of its own: closing the last one of the process would drop its locks."""
        self._descriptor = os.dup(descriptor)

    def take(self, slot: int) -> bool:
        """As Guard."""
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, slot)
        except OSError:  # EAGAIN, EACCES: another gate has it; ENOLCK: nobody can know
            return False
        return True

    def release(self, slot: int) -> None:
        """As Guard."""
        fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, slot)


def ledger_in(descriptor: int) -> Ledger:
    """The ledger in a memfd that other gates burn in too. Raises StartError, OSError."""
    return Ledger(mmap.mmap(descriptor, ledger.SIZE_BYTES), Slots(descriptor))


class Patient:
    """A record lock that is waited for, but not for ever: whoever holds it needs microseconds, or has been stopped.

    Threads take turns too: a record lock belongs to the whole process.
    """

    def __init__(self, descriptor: int) -> None:
        """Keeps a descriptor of its own, as Slots."""
        self._slots = Slots(descriptor)
        self._threads = threading.Lock()

    def take(self, slot: int) -> bool:
        """As Guard, after at most PATIENCE_S."""
        if not self._threads.acquire(timeout=PATIENCE_S):
            return False
        if self._slots.take(slot):
            return True
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            os.sched_yield()
            if self._slots.take(slot):
                return True
        self._threads.release()
        return False

    def release(self, slot: int) -> None:
        """As Guard."""
        self._slots.release(slot)
        self._threads.release()


PATIENCE_S: Final = 0.1


def quota_in(descriptor: int) -> Quota:
    """The quota in a memfd that other gates count in too. Raises StartError, OSError."""
    return Quota(mmap.mmap(descriptor, quota.SIZE_BYTES), Patient(descriptor))


def turn_in(descriptor: int) -> Turn:
    """The turn in a memfd, which only the broker raises. Raises StartError, OSError."""
    return Turn(mmap.mmap(descriptor, turn.SIZE_BYTES, prot=mmap.PROT_READ))


class Share:
    """How many connections each gate has, so that one that has more leaves new ones to the others: they stay where they are."""

    def __init__(self, descriptor: int, index: int, count: int) -> None:
        """This gate is number `index` of `count`. Raises ValueError, OSError."""
        if not 0 <= index < count <= shares.MOST:
            raise ValueError("the gate's number makes no sense")
        self._words = memoryview(mmap.mmap(descriptor, shares.SIZE_BYTES)).cast("Q")
        self._index = index
        self._others = [n for n in range(count) if n != index]
        self._words[index] = 0

    def took(self) -> None:
        """A connection was accepted."""
        self._words[self._index] += 1

    def ended(self) -> None:
        """A connection that was accepted is over."""
        self._words[self._index] -= 1

    def courtesy(self) -> float:
        """Seconds that a new connection is left to another gate, one that is there and has fewer; 0: take it."""
        mine = self._words[self._index]
        return min(max(mine - min(self._words[n] for n in self._others), 0) * COURTESY_S, LONGEST_S)
