"""Which program holds a connection inside a jail: from the two ends of a TCP connection to `exe:NAME` and who spawned it.

Lives here: the walk over a jail's processes and their descriptors, the spawn pass in a program's environment. May not live here:
which socket it is (view.py), aliases (policy/programs.py), what the answer is good for (the gate asks policy).

What the kernel says: which processes hold the client's socket, their program file, their ancestors. What the process says,
and could say otherwise: the script that an interpreter runs, and its environment; a spawn pass there is signed, so it can be
withheld, not invented. A process with a session is never `exe:`: it has a shim, and whoever it is must be told by that.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from outpass.broker import peer
from outpass.broker.jails import Jail
from outpass.broker.session import Link, Origin, Session, Sessions
from outpass.broker.view import End
from outpass.errors import SessionError
from outpass.policy import names, programs

MAX_ENVIRONMENT: Final = 1 << 20
_SPAWN: Final = b"OUTPASS_SPAWN="


class Found(NamedTuple):
    """A program and its chain."""

    program: str
    chain: Origin
    sid: str | None
    """The session whose spawn pass it carries."""
    pid: int
    exe: str

    def as_answer(self) -> dict[str, Any]:
        """As control carries it."""
        chain, versions = [link.name for link in self.chain], [link.version for link in self.chain]
        return {"program": self.program, "chain": chain, "versions": versions, "sid": self.sid}


class Asked(NamedTuple):
    """One connection, by its ends as the jail numbers them."""

    client: End
    server: End
    owner: str | None = None
    """The session that the server's address was given to; None where it was given to no one session."""


class Finder:
    """Finds programs. Reads /proc, which may take milliseconds: not on the event loop."""

    def __init__(self, sessions: Sessions, proc: str = "/proc") -> None:
        self._sessions = sessions
        self._proc = proc

    def find(self, jail: Jail, asked: Sequence[Asked]) -> list[dict[str, Any]]:
        """For each connection, as control carries it: that it is its owner's own, or the program that holds it.

        Neither where nobody holds it, where it has no name, where several hold it that differ, and where anything changed
        meanwhile. A process with a session is no program; which session it is, is told all the same: a fact for the record.
        One walk over the processes answers for all: it begins after the last of them was asked.
        """
        view, netns = jail.view, jail.netns
        if view is None or netns is None:
            return [{} for _ in asked]
        links = [f"socket:[{inode}]" if (inode := view.connection(a.client, a.server)) else "" for a in asked]
        held = self._holders(netns, {link for link in links if link})
        known: dict[int, tuple[peer.Process, Found] | None] = {}
        for pid in {pid for holders in held.values() for pid, _ in holders}:
            known[pid] = self._identify(jail, pid)
        return [self._answer(one, link, held, known) for one, link in zip(asked, links, strict=True)]

    def _answer(
        self,
        asked: Asked,
        link: str,
        held: Mapping[str, list[tuple[int, str]]],
        known: Mapping[int, tuple[peer.Process, Found] | None],
    ) -> dict[str, Any]:
        owner = None if asked.owner is None else self._sessions.by_sid(asked.owner)
        if owner is not None and any(self._is_of(owner, pid, fd, link) for pid, fd in held.get(link, ())):
            return {"sid": owner.sid, "own": True}
        found = self._agreed(link, held, known)
        if found is not None:
            return found.as_answer()
        sessions = {self._session_of(pid) for pid, _ in held.get(link, ())}
        sid = sessions.pop() if len(sessions) == 1 else None
        return {} if sid is None else {"sid": sid}

    def _is_of(self, session: Session, pid: int, fd: str, link: str) -> bool:
        """Whether process `pid`, which holds a socket, is the session's, or a fork below it, which has all that it remembers."""
        try:
            process = peer.read_process(pid, self._proc)
            line = (process, *peer.ancestors(process, self._proc))
            if all(p.key != session.process.key for p in line) or peer.read_image(process, self._proc) != session.image:
                return False
            again = peer.read_process(pid, self._proc)
            return again.key == process.key and os.readlink(f"{self._proc}/{pid}/fd/{fd}") == link
        except (OSError, ValueError):
            return False

    def _session_of(self, pid: int) -> str | None:
        try:
            session = self._sessions.of_process(peer.read_process(pid, self._proc))
        except (OSError, ValueError):
            return None
        return None if session is None else session.sid

    def _agreed(
        self, link: str, held: Mapping[str, list[tuple[int, str]]], known: Mapping[int, tuple[peer.Process, Found] | None]
    ) -> Found | None:
        """The one program that holds a socket; None where its holders are not all the same."""
        found = [self._still(known[pid], fd, link) for pid, fd in held.get(link, ())]
        first = found[0] if found else None
        if first is None or any(other is None or other.chain != first.chain for other in found):
            return None
        return first

    def _still(self, known: tuple[peer.Process, Found] | None, fd: str, link: str) -> Found | None:
        """After all else: whether it is the same program as before, and holds the socket."""
        if known is None:
            return None
        process, found = known
        try:
            again = peer.read_process(process.pid, self._proc)
            same = (again.key, again.code, again.stack) == (process.key, process.code, process.stack)
            return found if same and os.readlink(f"{self._proc}/{process.pid}/fd/{fd}") == link else None
        except (OSError, ValueError):
            return None

    def _members(self, netns: int) -> Iterator[int]:
        """Every process in a network namespace. The name of each one's is read: following the link costs thrice as much."""
        wanted = f"net:[{netns}]"
        for name in os.listdir(self._proc):
            if name.isdecimal():
                with contextlib.suppress(OSError):
                    if os.readlink(f"{self._proc}/{name}/ns/net") == wanted:
                        yield int(name)

    def _holders(self, netns: int, links: set[str]) -> dict[str, list[tuple[int, str]]]:
        """For each of `links`, every (process, descriptor) that leads to it; one descriptor a process."""
        held: dict[str, list[tuple[int, str]]] = {}
        for pid in self._members(netns) if links else ():
            missing = set(links)
            with contextlib.suppress(OSError):
                for fd in reversed(os.listdir(f"{self._proc}/{pid}/fd")):  # a connection that is asked about is a new one
                    with contextlib.suppress(OSError):
                        link = os.readlink(f"{self._proc}/{pid}/fd/{fd}")
                        if link in missing:
                            held.setdefault(link, []).append((pid, fd))
                            missing.discard(link)
                            if not missing:
                                break
        return held

    def _read(self, path: str) -> bytes:
        with open(f"{self._proc}/{path}", "rb") as file:
            return file.read()

    def _identify(self, jail: Jail, pid: int) -> tuple[peer.Process, Found] | None:
        """Who process `pid` is; that it still is must be asked afterwards."""
        try:
            process = peer.read_process(pid, self._proc)
            line = (process, *peer.ancestors(process, self._proc))
            exe = os.readlink(f"{self._proc}/{pid}/exe")
            script = self._script(pid)
            spawn = self._spawn_pass(pid)
            program = programs.principal(jail.force.policy.programs, exe, script)
            if program is None or self._sessions.of_process(process) is not None:
                return None
            placed = self._place(jail, line, spawn)
            if placed is None:
                return None
        except (OSError, ValueError):
            return None
        sid, origin = placed
        return process, Found(program, (Link(program, None), *origin), sid, pid, exe)

    def _place(self, jail: Jail, line: tuple[peer.Process, ...], spawn: str | None) -> tuple[str | None, Origin] | None:
        """(session, chain) that spawned it; None when it cannot be placed in this jail.

        Below a session without that session's own spawn pass the spawner is unknown, and `?` holds no rights: else a package
        could shed its chain by starting a program with an empty environment.
        """
        holder = next((s for p in line if (s := self._sessions.of_process(p)) is not None), None)
        origin: tuple[str, Origin] | None = None
        if spawn is not None:
            with contextlib.suppress(SessionError):
                sid, home, chain = self._sessions.spawned(spawn)
                origin = (sid, chain) if home == jail.id else None
        if holder is not None:
            if holder.jail is not jail:
                return None
            return origin if origin is not None and origin[0] == holder.sid else (holder.sid, (Link(names.UNKNOWN, None),))
        if origin is not None:
            return origin
        return (None, ()) if any(p.key in jail.processes for p in line) else None

    def _script(self, pid: int) -> str | None:
        """The first argument that is no option, as a path without symbolic links: what an interpreter says that it runs."""
        title, *arguments = self._read(f"{pid}/cmdline").split(b"\0")
        first = next((a for a in arguments if a and not a.startswith(b"-")), None)
        if first is None:
            return self._titled(pid, title)
        name = os.fsdecode(first)
        if not os.path.isabs(name):
            name = os.path.join(os.readlink(f"{self._proc}/{pid}/cwd"), name)
        return os.path.realpath(name) if os.path.isabs(name) else None

    def _titled(self, pid: int, title: bytes) -> str | None:
        """The script of a process that wrote a title over its arguments, as npm does: its first word, beside the interpreter.

        No weaker a claim than arguments are: a process can write over those as well.
        """
        word = os.fsdecode(title.partition(b" ")[0])
        if not word or "/" in word:
            return None
        beside = os.path.join(os.path.dirname(os.readlink(f"{self._proc}/{pid}/exe")), word)
        return os.path.realpath(beside) if os.path.exists(beside) else None

    def _spawn_pass(self, pid: int) -> str | None:
        with open(f"{self._proc}/{pid}/environ", "rb") as file:
            content = file.read(MAX_ENVIRONMENT)
        found = next((v for v in content.split(b"\0") if v.startswith(_SPAWN)), None)
        return None if found is None else found[len(_SPAWN) :].decode("ascii", "replace")
