"""The mint socket: one thread, one epoll, every shim's connections.

Lives here: accepting, limits, credentials of each message, the end of processes. May not live here: what is answered
(mint.py, reception.py), who is admitted (session.py).

A thread of its own, and not asyncio: a pass is asked for on every request of every jail, and this loop answers in a few
system calls. It owns sessions, caches and the serial without a lock; other threads hand it work through `post`.
"""

from __future__ import annotations

import json
import os
import resource
import select
import socket
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from outpass.broker import hello, peer, say
from outpass.broker.hello import Refused
from outpass.broker.jails import Jail
from outpass.broker.mint import Minter
from outpass.broker.names import Maps
from outpass.broker.reception import Reception
from outpass.broker.session import Session, Sessions
from outpass.errors import SessionError
from outpass.reasons import Reason

MAX_MESSAGE: Final = 65_536
"""Bytes of one message (PROTOCOL.md)."""
MAX_UNBOUND: Final = 512
"""Connections that have no session yet. The oldest goes when there is one more: it had its time to say hello."""
MAX_BOUND: Final = 8_192
"""Connections of one jail that have a session, one per thread of its processes; fewer where descriptors are scarce, so that
one jail cannot take those of the others."""
_ACCEPT_AT_ONCE: Final = 64


@dataclass(slots=True, eq=False)
class Conn:
    """One connection of one thread of one process."""

    sock: socket.socket
    pid: int
    uid: int
    session: Session | None = None
    busy: bool = False
    """A hello is being worked on: nothing is read until it is answered."""


class Switchboard:
    """Serves `listener` until `stop`. Everything but `post` and `stop` runs in its own thread."""

    def __init__(self, listener: socket.socket, sessions: Sessions, minter: Minter, maps: Maps) -> None:
        listener.setblocking(False)
        # Inherited by every connection that is accepted from here on, before its first message can arrive.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.sessions = sessions
        self.minter = minter
        self._listener = listener
        self._epoll = select.epoll()
        self._conns: dict[int, Conn] = {}
        self._unbound: OrderedDict[int, None] = OrderedDict()
        self._bound: dict[str, int] = {}
        self._watched: dict[int, Session] = {}
        self._posted: deque[Callable[[], None]] = deque()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._reception = Reception(sessions, maps, self.post, self._end)
        self._slow = ThreadPoolExecutor(max_workers=8, thread_name_prefix="outpass-queries")
        self._buffer = bytearray(MAX_MESSAGE + 1)
        self._view = memoryview(self._buffer)
        self._stopping = False
        self._deaf = False
        self._max_bound = MAX_BOUND
        self._epoll.register(listener.fileno(), select.EPOLLIN)
        self._epoll.register(self._wake, select.EPOLLIN)
        self._thread = threading.Thread(target=self._run, name="outpass-mint", daemon=True)

    def start(self) -> None:
        """Begin to serve."""
        self._max_bound = min(MAX_BOUND, raise_descriptor_limit() // 4)
        self._thread.start()

    def background(self, work: Callable[[], None]) -> None:
        """Run `work`, which may wait, in another thread."""
        self._slow.submit(work)

    def post(self, work: Callable[[], None]) -> None:
        """Run `work` in this thread soon; from any thread."""
        self._posted.append(work)
        os.eventfd_write(self._wake, 1)

    def stop(self) -> None:
        """End the thread and close every connection. No pass is given after this."""

        def last() -> None:
            self._stopping = True

        self.post(last)
        self._thread.join()
        self._reception.close()
        self._slow.shutdown(wait=False, cancel_futures=True)

    def end_jail(self, jail: Jail, done: Callable[[], None]) -> None:
        """End all sessions of a jail that closes, then call `done` (in this thread); from any thread."""

        def work() -> None:
            for session in self.sessions.snapshot():
                if session.jail is jail:
                    self._end(session)
            done()

        self.post(work)

    def revoke(self, sid: str, done: Callable[[bool], None]) -> None:
        """End a session by the operator's word; `done` hears whether there was one. From any thread."""

        def work() -> None:
            session = self.sessions.by_sid(sid)
            if session is not None:
                self._end(session, revoked=True)
            done(session is not None)

        self.post(work)

    # -- the loop ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        # Level-triggered, one message per readiness: a shim has one request outstanding, so there is nothing to drain.
        while not self._stopping:
            for fd, _ in self._epoll.poll():
                conn = self._conns.get(fd)
                if conn is not None:
                    try:
                        self._readable(conn)
                    except Exception as e:  # one connection's surprise must not end everybody's passes; it gets none
                        say.error(f"mint connection of pid {conn.pid} failed: {e!r}")
                        self._drop(conn)
                elif fd == self._wake:
                    self._run_posted()
                elif fd in self._watched:
                    # Asked again: an event of this round may be about a descriptor that was closed and reused in it.
                    if not peer.still_alive(fd):
                        self._end(self._watched[fd])
                elif fd == self._listener.fileno():
                    self._accept()
        for conn in list(self._conns.values()):
            self._drop(conn)
        for session in self.sessions.snapshot():
            self._end(session)
        self._listener.close()
        self._epoll.close()

    def _run_posted(self) -> None:
        os.eventfd_read(self._wake)
        while self._posted:
            work = self._posted.popleft()
            try:
                work()
            except Exception as e:
                say.error(f"the mint thread failed at a task: {e!r}")

    def _accept(self) -> None:
        for _ in range(_ACCEPT_AT_ONCE):
            try:
                sock, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as e:  # EMFILE, ENFILE: be deaf until a connection closes, instead of spinning
                say.error(f"cannot accept: {e.strerror}")
                self._epoll.modify(self._listener.fileno(), 0)
                self._deaf = True
                return
            sock.setblocking(False)
            who = peer.peer_credentials(sock)
            self._conns[sock.fileno()] = Conn(sock, who.pid, who.uid)
            self._unbound[sock.fileno()] = None
            self._epoll.register(sock.fileno(), select.EPOLLIN)
            if len(self._unbound) > MAX_UNBOUND:
                oldest = next((fd for fd in self._unbound if not self._conns[fd].busy), None)
                if oldest is not None:
                    self._drop(self._conns[oldest])

    def _readable(self, conn: Conn) -> None:
        try:
            n, ancillary, flags, _ = conn.sock.recvmsg_into([self._buffer], peer.CREDENTIALS_SPACE)
        except BlockingIOError:
            return
        except OSError:
            self._drop(conn)
            return
        if n == 0:
            self._drop(conn)
            return
        sender = peer.unpack_credentials(ancillary[0][2]) if ancillary else None
        if sender is None or sender.pid != conn.pid or sender.uid != conn.uid:
            # A child with its parent's descriptor after fork(), or a descriptor that was passed on.
            self._reply(conn, _error(Reason.SESSION_REFUSED, "the connection belongs to another process"))
            self._drop(conn)
            return
        if n > MAX_MESSAGE or flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            self._reply(conn, _error(Reason.BAD_REQUEST, "the message is too long, or carries descriptors"))
            self._drop(conn)
            return
        data = bytes(self._view[:n])
        session = conn.session
        try:
            if session is not None and b'"hello"' not in data:
                self._answer(conn, session, data)
            else:
                self._first(conn, data)
        except Refused as e:
            self._reply(conn, _error(e.reason, e.say))
        except SessionError as e:
            self._reply(conn, _error(e.reason, f"{e.message}; {e.hint}" if e.hint else e.message))
        except ProcessLookupError:
            self._drop(conn)
        except PermissionError:
            self._reply(conn, _error(Reason.SESSION_REFUSED, "the process hides from /proc, so it cannot be identified"))

    def _first(self, conn: Conn, data: bytes) -> None:
        """A hello, or the first message of a further thread of a process that has a session."""
        message = hello.read(data)
        if message.get("op") != "hello":
            session = conn.session or self._reception.session_of(conn.sock, conn.pid, conn.uid)
            self._bind(conn, session)
            self._answer(conn, session, data)
            return
        said = hello.read_hello(message)
        known = self._reception.receive(conn.sock, conn.pid, conn.uid, said, lambda outcome: self._received(conn, outcome))
        if known is not None:
            self._bind(conn, known)
            self._reply(conn, _welcome(known))
            return
        conn.busy = True
        self._epoll.modify(conn.sock.fileno(), 0)

    def _received(self, conn: Conn, outcome: Session | SessionError) -> None:
        """A hello that took its time is answered, if anybody still waits for the answer."""
        conn.busy = False
        if isinstance(outcome, Session):
            self.watch(outcome)
        if conn.sock.fileno() < 0:
            return
        self._epoll.modify(conn.sock.fileno(), select.EPOLLIN)
        try:
            if isinstance(outcome, SessionError):
                raise outcome
            self._bind(conn, outcome)
            self._reply(conn, _welcome(outcome))
        except SessionError as e:
            self._reply(conn, _error(e.reason, f"{e.message}; {e.hint}" if e.hint else e.message))

    def watch(self, session: Session) -> None:
        """Its process's end will be its end."""
        if session.pidfd not in self._watched:
            self._watched[session.pidfd] = session
            self._epoll.register(session.pidfd, select.EPOLLIN)

    def _answer(self, conn: Conn, session: Session, data: bytes) -> None:
        """Answer at once, or when there is an answer; until then nothing more is read from this connection."""
        answer = self.minter.answer(session, data)
        if isinstance(answer, bytes):
            self._reply(conn, answer)
            return
        conn.busy = True
        self._epoll.modify(conn.sock.fileno(), 0)
        answer(lambda reply: self.post(lambda: self._answered(conn, session, data, reply)))

    def _answered(self, conn: Conn, session: Session, data: bytes, reply: bytes) -> None:
        conn.busy = False
        if self.minter.lookups is not None:
            self.minter.lookups.finished(session, data)
        if conn.sock.fileno() >= 0 and self._conns.get(conn.sock.fileno()) is conn:
            self._epoll.modify(conn.sock.fileno(), select.EPOLLIN)
            self._reply(conn, reply)

    # -- ends --------------------------------------------------------------------------------------------------------

    def _bind(self, conn: Conn, session: Session) -> None:
        if conn.session is session:
            return
        count = self._bound.get(session.jail.id, 0)
        if count >= self._max_bound:
            raise SessionError(Reason.SESSION_REFUSED, "the jail has too many connections")
        self._unbind(conn)
        self._bound[session.jail.id] = count + 1
        self._unbound.pop(conn.sock.fileno(), None)
        conn.session = session

    def _unbind(self, conn: Conn) -> None:
        if conn.session is not None:
            jail = conn.session.jail.id
            self._bound[jail] -= 1
            if not self._bound[jail]:
                del self._bound[jail]
            conn.session = None

    def _drop(self, conn: Conn) -> None:
        fd = conn.sock.fileno()
        if fd < 0:
            return
        self._unbind(conn)
        self._conns.pop(fd, None)
        self._unbound.pop(fd, None)
        self._epoll.unregister(fd)
        conn.sock.close()
        if self._deaf:
            self._deaf = False
            self._epoll.modify(self._listener.fileno(), select.EPOLLIN)

    def _end(self, session: Session, *, revoked: bool = False) -> None:
        """A session ends: its connections close, so that not even a message on its way is answered."""
        if self._watched.pop(session.pidfd, None) is not None:
            self._epoll.unregister(session.pidfd)
        for conn in [c for c in self._conns.values() if c.session is session]:
            self._drop(conn)
        self.sessions.end(session, revoked=revoked)

    def _reply(self, conn: Conn, data: bytes) -> None:
        try:
            conn.sock.send(data, socket.MSG_NOSIGNAL)
        except OSError:  # gone, or it does not read: one outstanding request always fits into the buffer
            self._drop(conn)


def _welcome(session: Session) -> bytes:
    compiled = session.jail.force.compiled
    reply: dict[str, Any] = {
        "v": 1,
        "sid": session.sid,
        "jail": session.jail.id,
        "roots": list(session.jail.roots),
        "map": session.mapped.path,
        "transparent": sorted(compiled.transparent),
        "instruments": list(compiled.instruments),
        "origin": [link.name for link in session.origin],
        "proxy": session.jail.proxy,
        "jailed": session.jail.transparent,
        "forward": session.jail.forwards,
    }
    return json.dumps(reply, separators=(",", ":")).encode()


def _error(reason: Reason, say: str) -> bytes:
    return json.dumps({"error": reason.value, "say": say}).encode()


def raise_descriptor_limit() -> int:
    """As many descriptors as the hard limit gives, since sessions and connections take one each; how many that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard if hard != resource.RLIM_INFINITY else 1 << 20
