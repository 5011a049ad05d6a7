"""One use over several processes: a pass burns once, whichever gates it is shown to at the same time."""

from __future__ import annotations

import json
import mmap
import os
import signal
from collections import Counter
from collections.abc import Iterator

import pytest

from outpass.broker import memory
from outpass.gate import shared
from outpass.passes.ledger import SIZE_BYTES, Ledger
from outpass.policy import shares

PROCESSES = 4
SERIALS = 2_000


class Slow:
    """Slots between whose reading and writing other processes run: what happens in nanoseconds now and then, every time."""

    def __init__(self, slots: memoryview) -> None:
        self._slots = slots

    def __getitem__(self, n: int) -> int:
        found = int(self._slots[n])
        os.sched_yield()
        return found

    def __setitem__(self, n: int, value: int) -> None:
        self._slots[n] = value


@pytest.fixture
def fd() -> Iterator[int]:
    made = memory.new_ledger()
    yield made
    os.close(made)


def burned(ledger: Ledger, start: int, out: int) -> None:
    ledger._slots = Slow(ledger._slots)  # type: ignore[assignment]
    os.read(start, 1)
    won = [n for n in range(1, SERIALS + 1) if ledger.burn(n)]
    with os.fdopen(out, "w") as file:
        json.dump(won, file)


def in_processes(fd: int, *, guarded: bool = True) -> Counter[int]:
    """How often each serial burned when processes burn the same ones at the same time."""
    start, go = os.pipe()
    reads = []
    for _ in range(PROCESSES):
        read, write = os.pipe()
        if os.fork() == 0:
            try:
                burned(shared.ledger_in(fd) if guarded else Ledger(mmap.mmap(fd, SIZE_BYTES)), start, write)
            finally:
                os._exit(0)
        os.close(write)
        reads.append(read)
    os.write(go, b"x" * PROCESSES)
    won: Counter[int] = Counter()
    for read in reads:
        with os.fdopen(read) as file:
            won.update(json.load(file))
        os.wait()
    os.close(start)
    os.close(go)
    return won


def test_a_serial_that_several_gates_burn_at_the_same_time_burns_once(fd: int) -> None:
    won = in_processes(fd)
    assert set(won) == set(range(1, SERIALS + 1)), "somebody gets it"
    assert max(won.values()) == 1, "nobody else does"


def test_without_the_guard_this_test_would_see_it(fd: int) -> None:
    assert max(in_processes(fd, guarded=False).values()) > 1


def test_a_gate_that_stops_while_it_burns_keeps_nobody_waiting_and_spoils_nothing(fd: int) -> None:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        shared.Slots(fd).take(7)
        os.write(write, b"x")
        signal.pause()
        os._exit(0)
    try:
        os.read(read, 1)
        os.kill(pid, signal.SIGSTOP)
        ledger = shared.ledger_in(fd)
        assert not ledger.burn(7), "somebody else is burning it: refused, at once"
        assert ledger.burn(8)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(read)
        os.close(write)
    assert ledger.burn(7), "the lock went with its holder"
    assert not ledger.burn(7)


def test_a_gate_with_more_connections_than_another_that_is_there_leaves_new_ones_to_it() -> None:
    shares_fd, words = memory.new_shares()
    try:
        one, two = (shared.Share(shares_fd, n, 3) for n in range(2))
        assert not one.courtesy()
        one.took()
        assert one.courtesy() and not two.courtesy(), "the third is not there, and counts for nothing"
        two.took()
        assert not one.courtesy() and not two.courtesy()
        two.ended()
        assert one.courtesy()
        words[1] = shares.NOBODY
        assert not one.courtesy(), "the second is gone"
    finally:
        os.close(shares_fd)
