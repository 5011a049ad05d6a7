"""Who gets a session: which process, in which jail, and what its chains end with.

Lives here: admission (registered, descended, forked, spawned), the table of sessions and their end. May not live here:
/proc (peer.py), the wire (switchboard.py), passes for requests (mint.py). Owned by the switchboard's thread; others read
`snapshot`.

    registered, or descended from a registered process, no session above it   → a session of its own
    below a session, with that session's spawn pass                           → ends with the spawner's chain
    the same program image as a session that it names as its parent           → a fork: ends as its parent does
    an orphan (its parents are gone) with a spawn pass of a jail              → as a spawned one
    anything else                                                             → none
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from outpass.broker.hello import Hello
from outpass.broker.jails import Jail, Jails
from outpass.broker.names import Mapped
from outpass.broker.peer import Image, Process, read_process, still_alive
from outpass.errors import PassError, SessionError
from outpass.passes import token
from outpass.reasons import Reason

MAX_SESSIONS: Final = 4_096
"""Live sessions of one jail."""
MAX_REMEMBERED: Final = 4_096
"""Ended sessions that are still known by name, for forks and orphans that speak after their parent's end."""


class Link(NamedTuple):
    """One entry of a chain with its version."""

    name: str
    version: str | None


type Origin = tuple[Link, ...]
"""What every chain of a process ends with: the chain that spawned it. Empty for a first process."""


@dataclass(slots=True, eq=False)
class Session:
    """One process image that the broker answers."""

    sid: str
    jail: Jail
    process: Process
    image: Image
    uid: int
    pidfd: int
    exe: str
    argv: tuple[str, ...]
    lang: str
    runtime: str
    shim: str
    paths: tuple[str, ...]
    mapped: Mapped
    origin: Origin
    parent: str | None
    """The session that forked or spawned it."""
    opened: float
    """Seconds since the epoch."""
    plans: dict[bytes, Any] = field(default_factory=dict)
    """Answers to messages seen before (mint.py)."""
    plans_for: object = None
    """The policy in force that `plans` were made under."""
    minted: int = 0

    def as_dict(self) -> dict[str, Any]:
        """For the operator; nothing in it is secret."""
        return {
            "sid": self.sid,
            "jail": self.jail.id,
            "pid": self.process.pid,
            "uid": self.uid,
            "exe": self.exe,
            "argv": list(self.argv),
            "lang": self.lang,
            "runtime": self.runtime,
            "shim": self.shim,
            "origin": [link.name for link in self.origin],
            "parent": self.parent,
            "opened": self.opened,
            "minted": self.minted,
        }

    def as_line(self) -> dict[str, Any]:
        """For the journal; `Sessions.restore` reads it."""
        same = {name: getattr(self, name) for name in _SAME}
        return {**same, "process": self.process, "image": self.image, "map": self.mapped.path, "origin": self.origin}


_SAME: Final = ("sid", "uid", "exe", "argv", "lang", "runtime", "shim", "paths", "parent", "opened")


class Place(NamedTuple):
    """Where a process belongs, decided before its map is made."""

    jail: Jail
    origin: Origin
    parent: str | None
    mapped: Mapped | None
    """A fork keeps the map that its parent's modules were charged by."""


class _Ended(NamedTuple):
    """What is remembered of an ended session."""

    jail: str
    uid: int
    image: Image
    start: int
    paths: tuple[str, ...]
    origin: Origin
    mapped: Mapped


class Peer(NamedTuple):
    """The process that asks, as the kernel sees it."""

    process: Process
    image: Image
    uid: int
    ancestors: tuple[Process, ...]


class Sessions:
    """The table. `on_end(session, revoked)` is called once for each session that ends,
    whatever ended it; `on_open` for each new one."""

    def __init__(
        self, jails: Jails, keys: Mapping[str, bytes], clock: Callable[[], float], on_end: Callable[[Session, bool], None]
    ) -> None:
        self._jails = jails
        self._keys = keys
        self._clock = clock
        self._on_end = on_end
        self.on_open: Callable[[Session], None] = lambda _: None
        self._by_process: dict[tuple[int, int], Session] = {}
        self._by_sid: dict[str, Session] = {}
        self._ended: OrderedDict[str, _Ended] = OrderedDict()
        self._revoked: OrderedDict[str, None] = OrderedDict()
        self._barred: OrderedDict[tuple[int, int], None] = OrderedDict()
        """Processes whose session was revoked: they and what they start get no other."""

    def of_process(self, process: Process) -> Session | None:
        """The session of exactly this process (pid and start time), whatever program it runs by now."""
        return self._by_process.get(process.key)

    def by_sid(self, sid: str) -> Session | None:
        """The live session of this name."""
        return self._by_sid.get(sid)

    def snapshot(self) -> list[Session]:
        """All live sessions; safe from any thread."""
        return list(self._by_sid.copy().values())

    def place(self, peer: Peer, hello: Hello) -> Place:
        """Decide where `peer` belongs. Raises SessionError with the reason why it belongs nowhere."""
        if any(process.key in self._barred for process in (peer.process, *peer.ancestors)):
            raise SessionError(Reason.SESSION_REFUSED, "the session of this process, or of one above it, was revoked")
        if hello.fork_of is not None:
            return self._fork(peer, hello.fork_of)
        holder = self._holder(peer)
        jail = self._jail(peer)
        if holder is not None:
            # Below a session: only with its own spawn pass, or a package could shed its chain by starting a child.
            if hello.spawn is None:
                raise SessionError(
                    Reason.SPAWN_PASS_REQUIRED,
                    f"process {holder.process.pid}, above this one or before its exec, has a session",
                    "keep OUTPASS_SPAWN in the environment that it gives to its children",
                )
            sid, jail_id, origin = self.spawned(hello.spawn)
            if sid != holder.sid or jail_id != holder.jail.id:
                raise SessionError(Reason.SPAWN_PASS_REQUIRED, "the spawn pass is not that of the process above this one")
            return self._admit(Place(holder.jail, origin, sid, None), peer)
        if hello.spawn is not None:
            # Its spawner may have ended meanwhile, and with it the descent from a registered process.
            sid, jail_id, origin = self.spawned(hello.spawn)
            home = self._jails.by_id.get(jail_id)
            if home is None or home.closing or (jail is not None and jail is not home):
                raise SessionError(Reason.NOT_REGISTERED, "the spawn pass is of another jail")
            return self._admit(Place(home, origin, sid, None), peer)
        if jail is None:
            raise SessionError(Reason.NOT_REGISTERED, "neither this process nor one above it was registered by outpass run")
        return self._admit(Place(jail, (), None, None), peer)

    def _admit(self, place: Place, peer: Peer) -> Place:
        """The checks that every way in has in common."""
        if peer.uid != place.jail.uid:
            raise SessionError(Reason.SESSION_REFUSED, f"the jail belongs to uid {place.jail.uid}, not {peer.uid}")
        if sum(s.jail is place.jail for s in self._by_sid.values()) >= MAX_SESSIONS:
            raise SessionError(Reason.SESSION_REFUSED, "the jail has too many sessions")
        return place

    def _fork(self, peer: Peer, sid: str) -> Place:
        """A child after fork() has its parent's image: the same file at the same random addresses. exec never has.

        That holds even if the parent is gone by now, so a daemon's double fork keeps its place.
        """
        live = self._by_sid.get(sid)
        if live is not None:
            known = self._remember(live)
        elif sid in self._ended:
            known = self._ended[sid]
        else:
            raise SessionError(Reason.SESSION_REFUSED, "fork_of names no session")
        same = known.image == peer.image and known.uid == peer.uid and known.start <= peer.process.start
        if not same or (live is not None and live.process.key == peer.process.key):
            raise SessionError(Reason.SESSION_REFUSED, "this process is not a fork of the session that it names")
        holder = self._holder(peer)
        if holder is not None and holder.sid != sid:
            raise SessionError(Reason.SESSION_REFUSED, "another session stands between this process and the one it names")
        jail = self._jails.by_id.get(known.jail)
        if jail is None or jail.closing:
            raise SessionError(Reason.NOT_REGISTERED, "the jail of that session is closed")
        return self._admit(Place(jail, known.origin, sid, known.mapped), peer)

    def spawned(self, text: str) -> tuple[str, str, Origin]:
        """(sid, jail, chain) of a spawn pass; SessionError for one that must not be honoured."""
        claims = None
        for jail in list(self._jails.by_id):
            try:
                claims = token.verify(text, self._keys, now=self._clock(), jail=jail)
                break
            except PassError as e:
                if e.reason is not Reason.PASS_FOREIGN_JAIL:
                    raise SessionError(e.reason, f"the spawn pass is not good: {e.message}") from None
        if claims is None:
            raise SessionError(Reason.PASS_FOREIGN_JAIL, "the spawn pass is of a jail that is closed")
        if claims.use != "spawn" or claims.deny is not None:
            raise SessionError(Reason.PASS_WRONG_USE, "OUTPASS_SPAWN holds a pass for another use")
        if claims.sid in self._revoked:
            raise SessionError(Reason.PASS_SESSION_ENDED, "the session that the spawn pass came from was revoked")
        return claims.sid, claims.jail, tuple(map(Link, claims.chain, claims.versions))

    def _holder(self, peer: Peer) -> Session | None:
        """The nearest session at or above `peer`. Its own counts: it was given to the program before an exec."""
        for process in (peer.process, *peer.ancestors):
            session = self._by_process.get(process.key)
            if session is not None:
                return session
        return None

    def _jail(self, peer: Peer) -> Jail | None:
        """The jail of the nearest registered process at or above `peer`."""
        for process in (peer.process, *peer.ancestors):
            jail = self._jails.of_process(process.key)
            if jail is not None:
                return jail
        return None

    def open(self, place: Place, peer: Peer, hello: Hello, mapped: Mapped, pidfd: int, exe: str) -> Session:
        """Enter a session; takes the pidfd. A session that this process held before its exec ends first."""
        previous = self._by_process.get(peer.process.key)
        if previous is not None:
            self.end(previous)
        session = Session(
            sid=f"s-{os.urandom(8).hex()}",
            jail=place.jail,
            process=peer.process,
            image=peer.image,
            uid=peer.uid,
            pidfd=pidfd,
            exe=exe,
            argv=hello.argv,
            lang=hello.lang,
            runtime=hello.runtime,
            shim=hello.shim,
            paths=hello.paths,
            mapped=mapped,
            origin=place.origin,
            parent=place.parent,
            opened=self._clock(),
        )
        self._by_process[peer.process.key] = session
        self._by_sid[session.sid] = session
        self.on_open(session)
        return session

    def restore(self, jail: Jail, line: Mapping[str, Any], mapped: Mapped) -> Session | None:
        """A session that the daemon before gave, if its process still lives. Raises KeyError or TypeError for a bad line."""
        process, image = Process(*line["process"]), Image(*line["image"])
        try:
            pidfd = os.pidfd_open(process.pid)
        except OSError:
            return None
        try:
            alive = read_process(process.pid).key == process.key and still_alive(pidfd)
        except ProcessLookupError:
            alive = False
        if not alive or process.key in self._by_process:
            os.close(pidfd)
            return None
        known = {name: line[name] for name in _SAME} | {"argv": tuple(line["argv"]), "paths": tuple(line["paths"])}
        origin = tuple(Link(*link) for link in line["origin"])
        session = Session(jail=jail, process=process, image=image, pidfd=pidfd, mapped=mapped, origin=origin, **known)
        self._by_process[process.key] = self._by_sid[session.sid] = session
        return session

    def bar(self, sid: str, process: tuple[int, int]) -> None:
        """A session that was revoked under the daemon before stays so."""
        self._revoked[sid] = None
        self._barred[process] = None

    def end(self, session: Session, *, revoked: bool = False) -> None:
        """End a session: its process ended, became another program, or the operator revoked it."""
        if self._by_sid.pop(session.sid, None) is None:
            return
        del self._by_process[session.process.key]
        if revoked:
            self._revoked[session.sid] = None
            self._barred[session.process.key] = None
            _bound(self._revoked)
            _bound(self._barred)
        else:
            self._ended[session.sid] = self._remember(session)
            _bound(self._ended)
        self._on_end(session, revoked)
        os.close(session.pidfd)

    @staticmethod
    def _remember(s: Session) -> _Ended:
        return _Ended(s.jail.id, s.uid, s.image, s.process.start, s.paths, s.origin, s.mapped)


def _bound(table: OrderedDict[Any, Any]) -> None:
    while len(table) > MAX_REMEMBERED:
        table.popitem(last=False)
