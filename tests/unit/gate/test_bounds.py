"""The bounds as values, the waits of a client, the buckets of an HTTP/2 connection, the shares of jails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from outpass.gate import bounds
from outpass.gate.bounds import Bounds
from outpass.gate.engine import floods, patience
from outpass.gate.jails import Jail
from outpass.gate.sweep import Portions


@dataclass
class Watching:
    bounds: Bounds = field(default_factory=Bounds)
    holds: bool = False
    asked: list[float] = field(default_factory=list)

    def due(self, at: float) -> None:
        self.asked.append(at)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    now = [100.0]
    monkeypatch.setattr(patience.time, "monotonic", lambda: now[0])

    def to(seconds: float) -> None:
        now[0] = seconds

    return to


def test_bounds_are_changed_by_name_and_nothing_else_is_taken_for_one() -> None:
    assert bounds.of({"head_s": 1, "fields": "7"}) == Bounds(head_s=1.0, fields=7)
    with pytest.raises(ValueError, match="heads_s"):
        bounds.of({"heads_s": 1})


def test_a_head_has_its_time_from_the_first_byte_and_no_byte_gives_it_more(clock: Callable[[float], None]) -> None:
    watching = Watching()
    made = patience.Patience(watching)  # type: ignore[arg-type]
    made.waits(patience.HEAD, 1)
    for at in (110, 120, 129):
        clock(at)
        made.waits(patience.HEAD, 1000)
    assert made.late(129.9) is None
    assert made.late(130.0) is patience.HEAD
    assert watching.asked[0] == 130.0


def test_a_body_that_moves_has_as_long_as_it_likes_and_one_that_drips_has_not(clock: Callable[[float], None]) -> None:
    made = patience.Patience(Watching())  # type: ignore[arg-type]
    made.waits(patience.BODY)
    for window in range(5):
        made.waits(patience.BODY, 1024)
        assert made.late(160.0 + window * 60) is None
    made.waits(patience.BODY, 1023)
    assert made.late(160.0 + 5 * 60) is patience.BODY


def test_nobody_is_late_while_the_gate_itself_does_not_read(clock: Callable[[float], None]) -> None:
    watching = Watching(holds=True)
    made = patience.Patience(watching)  # type: ignore[arg-type]
    for kind in (patience.HEAD, patience.BODY):
        made.waits(kind)
        assert made.late(1000.0) is None
    watching.holds = False
    assert made.late(2000.0) is patience.BODY


def test_what_has_come_is_waited_for_no_longer(clock: Callable[[float], None]) -> None:
    made = patience.Patience(Watching())  # type: ignore[arg-type]
    made.waits(patience.HEAD)
    made.waits(None)
    assert made.late(1000.0) is None


def test_a_bucket_gives_its_size_at_once_and_its_rate_over_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Invariant: never more than size + rate x seconds."""
    now = [0.0]
    monkeypatch.setattr(floods.time, "monotonic", lambda: now[0])
    bucket = floods.Bucket(10, 2.0)
    assert [bucket.spend() for _ in range(12)].count(True) == 10
    granted = 0
    for step in range(200):
        now[0] = 10 + step / 10
        granted += bucket.spend()
    assert granted <= 10 + 2 * 30


@pytest.mark.parametrize(("jails", "each"), [(1, 50), (2, 33), (3, 25), (9, 10)])
def test_jails_that_take_all_they_can_leave_room_for_one_more(jails: int, each: int) -> None:
    """Invariant: n greedy jails have a share of 1/(n+1) each, about, and one that comes late still gets a connection."""
    made = {f"j-{n}": Jail(f"j-{n}", "", "", lambda _: pytest.fail("asked")) for n in range(jails)}
    share = Portions(Bounds(connections=100), made, None)  # type: ignore[arg-type]
    going = True
    while going:
        going = False
        for jail in made.values():
            if not share.full(jail):
                jail.clients.add(object())  # type: ignore[arg-type]
                going = True
    assert all(abs(len(jail.clients) - each) <= 1 for jail in made.values())
    made["late"] = Jail("late", "", "", lambda _: pytest.fail("asked"))
    assert not share.full(made["late"])


def test_tunnels_that_are_carried_unseen_take_room_and_not_the_engine() -> None:
    jail = Jail("j", "", "", lambda _: pytest.fail("asked"))
    share = Portions(Bounds(connections=10), {"j": jail}, None)  # type: ignore[arg-type]
    share.room = 1000
    for _ in range(400):
        assert not share.full(jail)
        jail.clients.add(object())  # type: ignore[arg-type]
        jail.tunnels += 1
    jail.clients.update(object() for _ in range(5))  # type: ignore[misc]
    assert share.full(jail), "the engine's half is taken"
    jail.clients.clear()
    jail.clients.update(object() for _ in range(667))  # type: ignore[misc]
    jail.tunnels = 667
    assert share.full(jail), "two thirds of the room are taken"
    jail.clients.pop()
    jail.clients.pop()
    jail.tunnels = 665
    assert not share.full(jail)
