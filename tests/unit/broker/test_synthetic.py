"""The allocator of synthetic addresses: stable, bounded, and never one address for two names while it may be remembered."""

from __future__ import annotations

import threading
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from outpass.broker import synthetic
from outpass.broker.synthetic import Addresses, Full, Key


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def anybody(name: str) -> Key:
    return Key(None, (), name)


def test_the_same_question_has_the_same_answer_and_another_another() -> None:
    table = Addresses(Clock())
    chain = (("psycopg", "3.2"), ("app", None))
    keys = [anybody("a"), anybody("b"), Key("s-1", chain, "a"), Key("s-2", chain, "a"), Key("s-1", chain[:1], "a")]
    first = [table.give(k)[0].address for k in keys]
    assert len(set(first)) == len(keys) and first == [table.give(k)[0].address for k in keys]
    assert all(IPv4Address(a) in IPv4Network("198.18.0.0/15") for a in first)


def test_no_address_looks_like_a_network_or_a_broadcast() -> None:
    table = Addresses(Clock())
    given_out = [table.give(anybody(f"n{i}"))[0].address for i in range(1000)]
    assert not [a for a in given_out if a.endswith((".0", ".255"))]


def test_a_full_table_refuses_until_the_oldest_was_unused_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "MAX_LIVE", 3)
    clock = Clock()
    table = Addresses(clock)
    addresses = [table.give(anybody(n))[0].address for n in "abc"]
    with pytest.raises(Full):
        table.give(anybody("d"))
    clock.now = synthetic.QUARANTINE_S - 1
    table.touch(addresses[0])
    clock.now = synthetic.QUARANTINE_S
    entry, dropped = table.give(anybody("d"))
    assert dropped == (addresses[1],), "the one that was touched is younger"
    assert entry.address not in addresses, "a dropped address rests"


def test_one_session_does_not_take_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "MAX_OF_SESSION", 2)
    table = Addresses(Clock())
    for name in "ab":
        table.give(Key("s-1", (), name))
    with pytest.raises(Full):
        table.give(Key("s-1", (), "c"))
    assert table.give(Key("s-2", (), "c"))[0].address and table.give(anybody("c"))[0].address


def test_lines_are_what_a_new_gate_needs() -> None:
    table = Addresses(Clock())
    table.give(Key("s-1", (("psycopg", "3.2"), ("app", None)), "db"))
    table.give(anybody("web"))
    assert [line[1:] for line in table.lines()] == [["db", "s-1", ["psycopg", "app"], ["3.2", None]], ["web", None, [], []]]


def test_two_threads_get_one_answer() -> None:
    table, got = Addresses(Clock()), []

    def ask() -> None:
        got.append([table.give(anybody(f"n{i}"))[0].address for i in range(2000)])

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert all(g == got[0] for g in got) and len(set(got[0])) == 2000


class Life(RuleBasedStateMachine):
    """Invariant: whatever is asked, dropped and touched, an address means one name for at least the quarantine after use."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.table = Addresses(self.clock)
        self.meant: dict[str, tuple[Key, float]] = {}
        self._live = synthetic.MAX_LIVE
        self._last = synthetic.LAST
        synthetic.MAX_LIVE, synthetic.LAST = 4, synthetic.FIRST + 8  # type: ignore[misc]

    def teardown(self) -> None:
        synthetic.MAX_LIVE, synthetic.LAST = self._live, self._last  # type: ignore[misc]

    @rule(name=st.sampled_from("abcdefgh"), sid=st.sampled_from([None, "s-1", "s-2"]))
    def ask(self, name: str, sid: str | None) -> None:
        key = Key(sid, (), name)
        try:
            entry, _ = self.table.give(key)
        except Full:
            return
        before = self.meant.get(entry.address)
        assert before is None or before[0] == key or self.clock.now - before[1] >= synthetic.QUARANTINE_S
        self.meant[entry.address] = (key, self.clock.now)

    @rule(seconds=st.sampled_from([1.0, 200.0, 700.0]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def use(self) -> None:
        if self.table.lines():
            address = self.table.lines()[0][0]
            self.table.touch(address)
            self.meant[address] = (self.meant[address][0], self.clock.now)

    @invariant()
    def bounded(self) -> None:
        lines = self.table.lines()
        assert len(lines) <= 4 and len({line[0] for line in lines}) == len(lines)


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@given(st.text(max_size=20))
@settings(max_examples=50, deadline=None)
def test_touching_what_was_never_given_does_nothing(text: str) -> None:
    """Invariant: a word of the gate about an unknown address changes nothing."""
    table = Addresses(Clock())
    table.touch(text)
    assert len(table) == 0
