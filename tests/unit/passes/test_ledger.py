"""One use: each serial burns once, in memory that several ledgers share one after the other."""

from __future__ import annotations

import mmap
import os

import pytest

from outpass.errors import StartError
from outpass.passes.ledger import SIZE_BYTES, SLOTS, Ledger


def test_a_serial_burns_once() -> None:
    ledger = Ledger(memoryview(bytearray(SIZE_BYTES)))
    assert [ledger.burn(n) for n in (1, 2, 1, 3, 2, 3, 4)] == [True, True, False, True, False, False, True]


def test_serials_may_burn_out_of_order_within_the_ring() -> None:
    ledger = Ledger(memoryview(bytearray(SIZE_BYTES)))
    assert ledger.burn(SLOTS) and ledger.burn(1) and ledger.burn(SLOTS - 1)
    assert not ledger.burn(1)


def test_a_serial_whose_slot_was_reused_is_refused_though_it_was_never_used() -> None:
    ledger = Ledger(memoryview(bytearray(SIZE_BYTES)))
    assert ledger.burn(5 + SLOTS)
    assert not ledger.burn(5)
    assert ledger.burn(5 + 2 * SLOTS)


@pytest.mark.parametrize("n", [0, -1, -SLOTS, 1 << 63, 1 << 64, 1 << 200])
def test_a_serial_that_no_broker_issues_is_refused_and_spoils_no_slot(n: int) -> None:
    memory = bytearray(SIZE_BYTES)
    assert not Ledger(memoryview(memory)).burn(n)
    assert not any(memory)


def test_what_one_gate_burned_stays_burned_for_the_gate_that_is_started_after_it() -> None:
    fd = os.memfd_create("ledger")
    try:
        os.ftruncate(fd, SIZE_BYTES)
        for expected in (True, False):
            with mmap.mmap(fd, SIZE_BYTES) as mapping:
                ledger = Ledger(mapping)
                assert ledger.burn(99) is expected
                ledger.close()
    finally:
        os.close(fd)


def test_what_a_killed_process_burned_stays_burned() -> None:
    mapping = mmap.mmap(-1, SIZE_BYTES)
    pid = os.fork()
    if pid == 0:
        Ledger(mapping).burn(7)
        os.kill(os.getpid(), 9)
    os.waitpid(pid, 0)
    ledger = Ledger(mapping)
    assert not ledger.burn(7)
    assert ledger.burn(8)


BUFFERS = {
    "too small": memoryview(bytearray(SIZE_BYTES - 8)),
    "too large": memoryview(bytearray(SIZE_BYTES + 8)),
    "empty": memoryview(b""),
    "read-only": memoryview(bytes(SIZE_BYTES)),
}


@pytest.mark.parametrize("buffer", BUFFERS.values(), ids=BUFFERS)
def test_memory_that_cannot_keep_the_promise_is_refused_at_start(buffer: memoryview) -> None:
    with pytest.raises(StartError, match="the pass ledger is"):
        Ledger(buffer)
