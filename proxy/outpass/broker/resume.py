"""Going on where the daemon before ended: its keys, and the jails whose launchers come back.

Lives here: what of the journal still holds, and putting it into the rooms. May not live here: the journal's file (journal.py),
the launcher's half (jail/).

A jail comes back with its own launcher only, and closed until everything is in place: what its processes may not do any more
must be known before the first of them is served.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from outpass.audit import query
from outpass.broker import keys, peer, say
from outpass.broker.gates import Gates
from outpass.broker.jails import Jail, Jails
from outpass.broker.journal import Journal, Kept
from outpass.broker.names import Mapped, Maps
from outpass.broker.rundir import RuntimeDir
from outpass.broker.session import Session, Sessions
from outpass.broker.switchboard import Switchboard
from outpass.errors import StartError

MAX_RECALLED: Final = 10_000
"""Records of what was denied that a jail's summary goes on from."""


class Rooms(NamedTuple):
    """Where things are put back."""

    journal: Journal
    jails: Jails
    gates: Gates
    sessions: Sessions
    switchboard: Switchboard
    maps: Maps
    log: Path
    """The audit log."""


def begin(journal: Journal, runtime: RuntimeDir, now: datetime.datetime) -> keys.Keys:
    """The keys of a daemon that starts: those of the one before, if a launcher still waits, else new ones. Raises OSError."""
    prune(journal)
    made = None
    if journal.jails and journal.keys is not None:
        try:
            made = keys.again(journal.keys)
        except (ValueError, KeyError, TypeError) as e:
            say.warning(f"the keys of the daemon before cannot be used ({e}); its programs must be started again")
    if made is None:
        journal.jails.clear()
        runtime.clear()
        made = keys.make(now)
    journal.begin(made.kept())
    return made


def prune(journal: Journal) -> None:
    """Forget the jails whose launcher has ended."""
    for name, kept in list(journal.jails.items()):
        if launcher(kept.launcher[0]) != kept.launcher:
            del journal.jails[name]


def launcher(pid: int) -> tuple[int, int] | None:
    """(pid, start) of a process; None when there is none."""
    try:
        return peer.read_process(pid).key
    except OSError:
        return None


def claim(journal: Journal, name: object, by: int) -> Kept:
    """What is kept of the jail that the launcher `by` (pid) names. StartError unless it is its own, and waits."""
    kept = journal.jails.get(name) if isinstance(name, str) else None
    if kept is None or launcher(by) != kept.launcher:
        raise StartError("this daemon does not know the jail, so it cannot go on with it", "start the program again")
    return kept


async def restore(rooms: Rooms, jail: Jail, kept: Kept) -> None:
    """Fill `jail`, which no gate has yet, with what is kept of it. Raises StartError when none of its processes lives."""
    jail.opened, jail.netns = kept.opened, kept.netns
    jail.addresses.restore(kept.addresses.values())
    for sid, process in kept.revoked.items():
        rooms.sessions.bar(sid, process)
    _register(rooms.jails, jail, kept)
    try:
        found = await asyncio.to_thread(_mapped, rooms.maps, list(kept.sessions.values()), jail.roots)
        back = await _sessions(rooms, jail, found)
    except (OSError, KeyError, TypeError, ValueError) as e:
        raise StartError(f"the sessions of the jail cannot be taken over: {e!r}", "start the program again") from None
    jail.summary.recall(*await asyncio.to_thread(query.of_jail, rooms.log, jail.id, limit=MAX_RECALLED))
    gone = kept.sessions.keys() - {session.sid for session in back}
    for sid in gone:
        rooms.journal.note("end", jail.id, sid)
    rooms.gates.over(jail.id, kept.ended | gone)


def _register(jails: Jails, jail: Jail, kept: Kept) -> None:
    for pid, start in kept.processes:
        with contextlib.suppress(OSError):
            pidfd = os.pidfd_open(pid)
            process = peer.read_process(pid)
            if process.start == start and peer.still_alive(pidfd):
                jails.register(jail, process, pidfd)
            else:
                os.close(pidfd)
    if kept.processes and not jail.processes:
        raise StartError("the program of the jail has ended")


def _mapped(maps: Maps, lines: Sequence[dict[str, Any]], roots: Sequence[str]) -> list[tuple[dict[str, Any], Mapped]]:
    return [(line, maps.restore(line["map"], line["paths"], roots)) for line in lines]


async def _sessions(rooms: Rooms, jail: Jail, found: Sequence[tuple[dict[str, Any], Mapped]]) -> list[Session]:
    """In the switchboard's thread, which owns them."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[list[Session]] = loop.create_future()

    def work() -> None:
        try:
            made = [rooms.sessions.restore(jail, line, mapped) for line, mapped in found]
            back = [session for session in made if session is not None]
            for session in back:
                rooms.switchboard.watch(session)
        except Exception as e:
            loop.call_soon_threadsafe(done.set_exception, e)
        else:
            loop.call_soon_threadsafe(done.set_result, back)

    rooms.switchboard.post(work)
    return await done
