"""Admission as a table: who stands where, what is shown, and what comes of it. Processes are values here; real ones are in
tests/integration/broker/sessions/."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from outpass import files
from outpass.broker.hello import Hello
from outpass.broker.jails import Jail, Jails, Order
from outpass.broker.mint import complete
from outpass.broker.names import Mapped
from outpass.broker.peer import Image, Process
from outpass.broker.session import Link, Peer, Session, Sessions
from outpass.errors import SessionError
from outpass.passes import token
from outpass.passes.token import Pass
from outpass.reasons import Reason

KEY = b"k" * 32
NOW = 1_800_000_000
INIT, ROOT, MID, LEAF = (
    Process(pid, ppid, start, 1, 1) for pid, ppid, start in ((1, 0, 1), (10, 1, 100), (11, 10, 200), (12, 11, 300))
)
IMAGE, OTHER = Image(1, 1, 4096, 8192), Image(1, 1, 4096, 12288)


def said(**changes: Any) -> Hello:
    plain = {"lang": "python", "runtime": "3", "shim": "0", "paths": (), "argv": (), "cwd": "/", "spawn": None, "fork_of": None}
    return Hello(**{**plain, **changes})


def peer_at(process: Process, *, image: Image = IMAGE, uid: int = 1000, orphan: bool = False) -> Peer:
    line = [ROOT, MID, LEAF]
    above = [] if orphan else [p for p in reversed(line) if p.pid < process.pid]
    return Peer(process, image, uid, (*above, INIT))


class Rooms:
    """A table of sessions over one or two jails, with ROOT registered in the first."""

    def __init__(self) -> None:
        self.jails = Jails({}, lambda: NOW)
        self.ended: list[str] = []
        self.sessions = Sessions(self.jails, {"k1": KEY}, lambda: NOW, lambda s, _: self.ended.append(s.sid))
        self.jail = self.open()
        self.jails.register(self.jail, ROOT, os.pidfd_open(os.getpid()))

    def open(self) -> Jail:
        source = files.Source(None, (), True)
        listener = socket.create_server(("127.0.0.1", 0))
        return self.jails.add(Order("no-jail", "x", "/", (), source), self.jails.load(source), 1000, (listener,))

    def admit(self, process: Process, *, image: Image = IMAGE, **changes: Any) -> Session:
        peer = peer_at(process, image=image)
        place = self.sessions.place(peer, said(**changes))
        return self.sessions.open(
            place, peer, said(), Mapped("/m", {"evil": "6"}, frozenset({"evil"})), os.pidfd_open(os.getpid()), "/exe"
        )

    def spawn_pass(self, session: Session, **changes: Any) -> str:
        plain = Pass(
            session.jail.id, "pkg:pypi/evil@6", ("evil", "app"), ("6", None), session.sid, "spawn", "network:http", "*", 0,
            1, NOW, NOW + 1000, "http", None, "outpass:x", "k1",
        )  # fmt: skip
        return token.mint(plain._replace(**changes), KEY)

    def refusal(self, peer: Peer, **changes: Any) -> Reason:
        with pytest.raises(SessionError) as refused:
            self.sessions.place(peer, said(**changes))
        return refused.value.reason

    def close(self) -> None:
        for session in self.sessions.snapshot():
            self.sessions.end(session)
        for jail in list(self.jails.by_id.values()):
            self.jails.remove(jail)


@pytest.fixture
def rooms() -> Iterator[Rooms]:
    rooms = Rooms()
    yield rooms
    rooms.close()


def test_the_registered_process_and_what_descends_from_it_are_admitted(rooms: Rooms) -> None:
    for process in (ROOT, MID, LEAF):
        place = rooms.sessions.place(peer_at(process), said())
        assert (place.jail, place.origin, place.parent) == (rooms.jail, (), None)


@pytest.mark.parametrize(
    ("why", "peer", "reason"),
    [
        ("an orphan is nobody's", peer_at(LEAF, orphan=True), Reason.NOT_REGISTERED),
        ("a reused pid is another process", peer_at(Process(10, 1, 101, 1, 1)), Reason.NOT_REGISTERED),
        ("another user's process", peer_at(LEAF, uid=1001), Reason.SESSION_REFUSED),
        ("even root's", peer_at(LEAF, uid=0), Reason.SESSION_REFUSED),
    ],
)
def test_others_are_not(rooms: Rooms, why: str, peer: Peer, reason: Reason) -> None:
    assert rooms.refusal(peer) is reason, why


def test_below_a_session_only_its_own_spawn_pass_leads_in(rooms: Rooms) -> None:
    upper, other = rooms.admit(ROOT), rooms.open()
    assert rooms.refusal(peer_at(LEAF)) is Reason.SPAWN_PASS_REQUIRED
    assert rooms.refusal(peer_at(LEAF), spawn=rooms.spawn_pass(upper, sid="s-other")) is Reason.SPAWN_PASS_REQUIRED
    assert rooms.refusal(peer_at(LEAF), spawn=rooms.spawn_pass(upper, jail=other.id)) is Reason.SPAWN_PASS_REQUIRED
    place = rooms.sessions.place(peer_at(LEAF), said(spawn=rooms.spawn_pass(upper)))
    assert (place.origin, place.parent) == ((Link("evil", "6"), Link("app", None)), upper.sid)


@pytest.mark.parametrize(
    ("why", "change", "reason"),
    [
        ("another use", {"use": "request"}, Reason.PASS_WRONG_USE),
        ("a denial", {"deny": Reason.NO_RULE}, Reason.PASS_WRONG_USE),
        ("expired", {"iat": NOW - 100, "exp": NOW - 1}, Reason.PASS_EXPIRED),
        ("a closed jail's", {"jail": "j-gone"}, Reason.PASS_FOREIGN_JAIL),
        ("another key's", {"kid": "k2"}, Reason.PASS_FORGED),
    ],
)
def test_a_spawn_pass_is_checked_like_any_other(rooms: Rooms, why: str, change: dict[str, Any], reason: Reason) -> None:
    upper = rooms.admit(ROOT)
    assert rooms.refusal(peer_at(LEAF), spawn=rooms.spawn_pass(upper, **change)) is reason, why


def test_an_orphan_with_a_spawn_pass_keeps_its_place_after_its_spawners_end(rooms: Rooms) -> None:
    upper = rooms.admit(ROOT)
    text = rooms.spawn_pass(upper)
    rooms.sessions.end(upper)
    assert rooms.sessions.place(peer_at(LEAF, orphan=True), said(spawn=text)).parent == upper.sid


def test_a_spawn_pass_does_not_lead_from_one_jail_into_another(rooms: Rooms) -> None:
    upper, second = rooms.admit(ROOT), rooms.open()
    rooms.jails.register(second, LEAF, os.pidfd_open(os.getpid()))
    rooms.sessions.end(upper)
    assert rooms.refusal(peer_at(LEAF), spawn=rooms.spawn_pass(upper)) is Reason.NOT_REGISTERED


def test_what_was_revoked_gets_no_other_session_and_its_spawn_passes_are_void(rooms: Rooms) -> None:
    upper = rooms.admit(ROOT)
    text = rooms.spawn_pass(upper)
    rooms.sessions.end(upper, revoked=True)
    assert rooms.refusal(peer_at(ROOT)) is Reason.SESSION_REFUSED
    assert rooms.refusal(peer_at(LEAF)) is Reason.SESSION_REFUSED
    assert rooms.refusal(peer_at(LEAF, orphan=True), spawn=text) is Reason.PASS_SESSION_ENDED


class TestForks:
    """Same image, named parent."""

    @pytest.mark.parametrize("alive", [True, False])
    def test_a_fork_has_its_parents_map_and_origin(self, rooms: Rooms, alive: bool) -> None:
        upper = rooms.admit(ROOT)
        if not alive:
            rooms.sessions.end(upper)
        place = rooms.sessions.place(peer_at(LEAF, orphan=not alive), said(fork_of=upper.sid))
        assert (place.parent, place.mapped, place.origin) == (upper.sid, upper.mapped, ())

    def test_a_fork_of_a_spawned_process_ends_as_it_does(self, rooms: Rooms) -> None:
        upper = rooms.admit(ROOT)
        lower = rooms.admit(MID, spawn=rooms.spawn_pass(upper))
        assert rooms.sessions.place(peer_at(LEAF), said(fork_of=lower.sid)).origin == lower.origin

    @pytest.mark.parametrize(
        ("why", "peer"),
        [
            ("another image", peer_at(LEAF, image=OTHER)),
            ("another user", peer_at(LEAF, uid=1001)),
            ("older than its parent", peer_at(Process(12, 11, 99, 1, 1))),
            ("its parent itself", peer_at(ROOT)),
        ],
    )
    def test_what_is_no_fork_is_refused(self, rooms: Rooms, why: str, peer: Peer) -> None:
        upper = rooms.admit(ROOT)
        assert rooms.refusal(peer, fork_of=upper.sid) is Reason.SESSION_REFUSED, why

    def test_a_session_in_between_cannot_be_jumped_over(self, rooms: Rooms) -> None:
        upper = rooms.admit(ROOT)
        rooms.admit(MID, spawn=rooms.spawn_pass(upper))
        assert rooms.refusal(peer_at(LEAF), fork_of=upper.sid) is Reason.SESSION_REFUSED

    def test_the_past_is_forgotten_after_a_while(self, rooms: Rooms, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("outpass.broker.session.MAX_REMEMBERED", 0)
        upper = rooms.admit(ROOT)
        rooms.sessions.end(upper)
        assert rooms.refusal(peer_at(LEAF), fork_of=upper.sid) is Reason.SESSION_REFUSED


def test_after_exec_the_old_session_counts_as_the_spawner(rooms: Rooms) -> None:
    before = rooms.admit(ROOT)
    after = peer_at(ROOT, image=OTHER)
    assert rooms.refusal(after) is Reason.SPAWN_PASS_REQUIRED
    assert rooms.sessions.place(after, said(spawn=rooms.spawn_pass(before))).parent == before.sid


def test_a_jail_that_closes_admits_nobody(rooms: Rooms) -> None:
    upper = rooms.admit(ROOT)
    text = rooms.spawn_pass(upper)
    rooms.jail.closing = True
    assert rooms.refusal(peer_at(LEAF, orphan=True)) is Reason.NOT_REGISTERED
    assert rooms.refusal(peer_at(LEAF, orphan=True), spawn=text) is Reason.NOT_REGISTERED
    assert rooms.refusal(peer_at(LEAF), fork_of=upper.sid) is Reason.NOT_REGISTERED


def test_a_jail_has_a_bounded_number_of_sessions(rooms: Rooms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("outpass.broker.session.MAX_SESSIONS", 1)
    upper = rooms.admit(ROOT)
    assert rooms.refusal(peer_at(LEAF), spawn=rooms.spawn_pass(upper)) is Reason.SESSION_REFUSED


def test_every_end_is_told_once(rooms: Rooms) -> None:
    session = rooms.admit(ROOT)
    rooms.sessions.end(session)
    rooms.sessions.end(session)
    assert rooms.ended == [session.sid]


@pytest.mark.parametrize(
    ("why", "origin", "chain", "expected"),
    [
        ("versions come from the map", (), ("evil", "app"), ("evil@6", "app")),
        ("what is not installed cannot be proven", (), ("stripe", "app"), ("!stripe", "app")),
        ("what is claimed stays claimed", (), ("!evil", "?"), ("!evil", "?")),
        ("the spawner's chain stands behind", ("build", "app"), ("evil", "app"), ("evil@6", "app", "build", "app")),
        ("even behind the application", ("build", "app"), ("app",), ("app", "build", "app")),
        ("once is enough", ("build", "app"), ("evil", "build", "app"), ("evil@6", "!build", "app", "build", "app")),
        ("the application's child is the application", ("app",), ("app",), ("app",)),
    ],
)
def test_chains_are_completed(
    rooms: Rooms, why: str, origin: tuple[str, ...], chain: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    session = rooms.admit(ROOT)
    session.origin = tuple(Link(name, None) for name in origin)
    shown = tuple(f"{link.name}@{link.version}" if link.version else link.name for link in complete(session, chain))
    assert shown == expected, why


def test_a_completed_chain_is_never_longer_than_a_pass_may_be(rooms: Rooms) -> None:
    session = rooms.admit(ROOT)
    session.origin = (Link("build", None),) * 40
    links = complete(session, ("app",) * 60)
    assert len(links) == 64 and links[-1] == Link("?", None)
