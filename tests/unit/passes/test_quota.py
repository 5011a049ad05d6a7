"""Limits in shared memory: never more than the limit in any window, whoever counts, and nothing lost when nobody does."""

from __future__ import annotations

import mmap
import os
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outpass.errors import StartError
from outpass.passes import quota
from outpass.passes.quota import SIZE_BYTES, Quota
from outpass.policy.limits import Rate

S = 1_000_000_000
START = 10**15


def _made(buffer: memoryview | None = None) -> Quota:
    return Quota(buffer or memoryview(bytearray(SIZE_BYTES)))


STEPS = st.lists(st.tuples(st.integers(0, 3 * S), st.integers(1, 40)), min_size=1, max_size=120)


@settings(max_examples=200, deadline=None)
@given(steps=STEPS, limit=st.integers(1, 60), whole=st.booleans(), windows=st.sampled_from([0.5, 1.0, 10.0, 60.0]))
def test_never_more_than_the_limit_in_any_window(steps: list[tuple[int, int]], limit: int, whole: bool, windows: float) -> None:
    """Invariant: whatever is asked for and when, no window of its length, wherever it begins, sees more than the limit."""
    made, rate, now = _made(), Rate(limit, windows), START
    taken: list[tuple[int, int]] = []
    for pause, amount in steps:
        now += int(pause * windows)
        granted = made.take(7, rate, amount, now, whole=whole)
        assert granted in ((0, amount) if whole else range(amount + 1))
        taken.append((now, granted))
    length = int(windows * S)
    for first, _ in taken:
        assert sum(n for at, n in taken if first <= at < first + length) <= limit
        assert sum(n for at, n in taken if first - length < at <= first) <= limit


@settings(max_examples=100, deadline=None)
@given(steps=STEPS, limit=st.integers(1, 60))
def test_whoever_waits_as_long_as_told_gets_it(steps: list[tuple[int, int]], limit: int) -> None:
    """Invariant: after `wait` seconds the amount (or the whole limit, if that is less) is there, and not a part sooner."""
    made, rate, now = _made(), Rate(limit, 1.0), START
    for pause, amount in steps:
        now += pause // 20
        made.take(7, rate, amount, now)
        wait_ns = round(made.wait(7, rate, amount, now) * S)
        assert 0 <= wait_ns <= 64 * S // 63 + 64
        wanted = min(amount, limit)
        if wait_ns:
            assert made.take(7, rate, wanted, now + wait_ns - S // 30, whole=True) in (0, wanted)
            now += wait_ns - S // 30
            wait_ns = round(made.wait(7, rate, amount, now) * S)
        now += wait_ns
        assert made.take(7, rate, wanted, now, whole=True) == wanted


def test_an_even_flow_at_ninety_eight_per_cent_of_the_limit_is_never_refused() -> None:
    made, rate = _made(), Rate(1000, 1.0)
    assert all(made.take(7, rate, 1, START + n * S // 980, whole=True) for n in range(5000))


def test_two_gates_over_one_memory_share_one_limit() -> None:
    memory = memoryview(bytearray(SIZE_BYTES))
    one, other, rate = _made(memory), _made(memory), Rate(10, 60.0)
    granted = [gate.take(7, rate, 1, START, whole=True) for _ in range(10) for gate in (one, other)]
    assert sum(granted) == 10


def test_what_was_used_outlives_the_gate_that_counted_it() -> None:
    fd = os.memfd_create("quota")
    os.ftruncate(fd, SIZE_BYTES)
    for expected in (10, 0):
        with mmap.mmap(fd, SIZE_BYTES) as mapping:
            gate = Quota(mapping)
            assert gate.take(7, Rate(10, 60.0), 10, START) == expected
            gate.close()
    os.close(fd)


def test_limits_do_not_touch_each_other_even_where_they_hash_alike() -> None:
    made, rate = _made(), Rate(5, 60.0)
    keys = [3 + n * quota.SLOTS for n in range(32)]
    for key in keys:
        assert made.take(key, rate, 5, START) == 5
    assert [made.take(key, rate, 1, START) for key in keys] == [0] * 32


def test_a_limit_that_finds_no_place_grants_nothing_until_one_is_over() -> None:
    made, rate = _made(), Rate(5, 60.0)
    for n in range(32):
        assert made.take(3 + n * quota.SLOTS, rate, 1, START)
    late = 3 + 32 * quota.SLOTS
    assert (made.take(late, rate, 1, START), made.wait(late, rate, 1, START)) == (0, 60.0)
    assert made.take(late, rate, 5, START + 62 * S) == 5
    assert made.take(3, rate, 5, START + 62 * S) == 5


def test_a_clock_that_stands_still_or_starts_at_nothing_is_no_matter() -> None:
    made, rate = _made(), Rate(2, 1.0)
    assert [made.take(7, rate, 1, 0) for _ in range(3)] == [1, 1, 0]
    assert made.take(7, rate, 1, S // 2) == 0
    assert made.take(7, rate, 1, 0) == 0
    assert 0 < made.wait(7, rate, 1, S // 2) <= 1.02


def test_a_sum_that_a_killed_gate_left_too_high_is_put_right() -> None:
    memory = memoryview(bytearray(SIZE_BYTES))
    made, rate = _made(memory), Rate(10, 60.0)
    assert made.take(7, rate, 4, START) == 4
    at = (7 % quota.SLOTS * quota.CELLS + 3) * 8
    memory[at : at + 8] = struct.pack("Q", 10)
    assert made.take(7, rate, 1, START) == 0
    assert made.take(7, rate, 10, START + S) == 6


@pytest.mark.parametrize("buffer", [bytearray(8), bytes(SIZE_BYTES), bytearray(SIZE_BYTES + 8)])
def test_memory_that_is_not_fit_is_refused(buffer: bytes) -> None:
    with pytest.raises(StartError):
        Quota(memoryview(buffer))
