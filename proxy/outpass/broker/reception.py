"""From a hello to a session: the process identified, its place found, its map made.

Lives here: the order of these steps and the races between them. May not live here: /proc (peer.py), who is admitted
(session.py), the map (names.py), connections (switchboard.py). Runs in the switchboard's thread, but for the map.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from outpass.broker import peer, say
from outpass.broker.hello import Hello
from outpass.broker.names import Mapped, Maps
from outpass.broker.session import Peer, Place, Session, Sessions
from outpass.errors import SessionError
from outpass.reasons import Reason

type Done = Callable[[Session | SessionError], None]


class _Waiting(NamedTuple):
    """A hello whose map is being made."""

    said: Hello
    place: Place
    asking: Peer
    pidfd: int
    done: Done


class Reception:
    """Receives hellos. `post` brings work back to the switchboard's thread, `end` ends a session with its connections."""

    def __init__(
        self, sessions: Sessions, maps: Maps, post: Callable[[Callable[[], None]], None], end: Callable[[Session], None]
    ) -> None:
        self._sessions = sessions
        self._maps = maps
        self._post = post
        self._end = end
        self._pool = ThreadPoolExecutor(max_workers=2, thread_name_prefix="outpass-maps")
        self._queues: dict[str, deque[_Waiting]] = {}
        """Jail → hellos that wait for a map; the first one's is being made. One at a time for each jail, so that a jail
        whose directories take long to read keeps its own processes waiting and nobody else's."""

    def close(self) -> None:
        """End the pool; hellos that wait get no answer any more."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def session_of(self, sock: socket.socket, pid: int, uid: int) -> Session:
        """The session of the process behind `sock`, for a message that is no hello. Raises SessionError."""
        pidfd, asking = identify(sock, pid, uid)
        os.close(pidfd)
        session = self._sessions.of_process(asking.process)
        if session is None or session.image != asking.image:
            raise SessionError(Reason.SESSION_REFUSED, "say hello first: this process has no session")
        return session

    def receive(self, sock: socket.socket, pid: int, uid: int, said: Hello, done: Done) -> Session | None:
        """The session of the process if it has one; else None, and `done` hears later in this thread.

        Raises SessionError when it gets none.
        """
        pidfd, asking = identify(sock, pid, uid, walk=True)
        try:
            existing = self._same(asking)
            if existing is not None:
                os.close(pidfd)
                return existing
            place = self._sessions.place(asking, said)
        except BaseException:
            os.close(pidfd)
            raise
        queue = self._queues.setdefault(place.jail.id, deque())
        queue.append(_Waiting(said, place, asking, pidfd, done))
        if len(queue) == 1:
            self._submit(queue[0])
        return None

    def _submit(self, waiting: _Waiting) -> None:
        """The map is read from disk, which may be slow: others mint meanwhile."""
        self._pool.submit(self._make_map, waiting)

    def _made(self, waiting: _Waiting, mapped: Mapped | None) -> None:
        """A map is there: its hello is answered, and the jail's next one has its turn."""
        queue = self._queues[waiting.place.jail.id]
        queue.popleft()
        try:
            waiting.done(self._finish(waiting, mapped))
        finally:
            # Further connections of a process that has its session now need no map.
            while queue and self._same(queue[0].asking) is not None:
                another = queue.popleft()
                another.done(self._finish(another, None))
            if queue:
                self._submit(queue[0])
            else:
                del self._queues[waiting.place.jail.id]

    def _same(self, asking: Peer) -> Session | None:
        session = self._sessions.of_process(asking.process)
        return session if session is not None and session.image == asking.image else None

    def _make_map(self, waiting: _Waiting) -> None:
        """In the pool."""
        mapped: Mapped | None = None
        try:
            mapped = waiting.place.mapped or self._maps.make(waiting.said.paths, waiting.place.jail.roots)
        except Exception as e:  # no map, no session: the process must hear of it
            say.error(f"cannot map the packages of pid {waiting.asking.process.pid}: {e!r}")
        self._post(lambda: self._made(waiting, mapped))

    def _finish(self, waiting: _Waiting, mapped: Mapped | None) -> Session | SessionError:
        """Everything may have changed while the map was made."""
        pidfd, asking = waiting.pidfd, waiting.asking
        existing = self._same(asking)
        if existing is not None:  # another thread of it was faster
            os.close(pidfd)
            return existing
        if mapped is None or waiting.place.jail.closing or not peer.still_alive(pidfd):
            os.close(pidfd)
            return SessionError(Reason.SESSION_REFUSED, "the packages of this process cannot be read, or its jail is closed")
        before = self._sessions.of_process(asking.process)
        if before is not None:  # of the program that this process was before its exec
            self._end(before)
        return self._sessions.open(waiting.place, asking, waiting.said, mapped, pidfd, peer.read_exe(asking.process.pid))


def identify(sock: socket.socket, pid: int, uid: int, *, walk: bool = False) -> tuple[int, Peer]:
    """The process that connected `sock`, and a pidfd of it that the caller closes; with its ancestors if `walk`.

    The pidfd is taken first and must be alive last: what was read from /proc in between is then about that process and not
    about another one that got its pid. Raises ProcessLookupError when it is gone, PermissionError when it hides.
    """
    pidfd = peer.peer_pidfd(sock, pid)
    try:
        process = peer.read_process(pid)
        image = peer.read_image(process)
        ancestors = tuple(peer.ancestors(process)) if walk else ()
        if not peer.still_alive(pidfd):
            raise ProcessLookupError("the process has ended")
    except BaseException:
        os.close(pidfd)
        raise
    return pidfd, Peer(process, image, uid, ancestors)
