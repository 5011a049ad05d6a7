"""Moves the bytes of opaque tunnels: one thread, one epoll, splice(2), so that a byte never enters this process's memory.

Lives here: pumping, half-close, what is counted, holding back until a client's first bytes were judged. May not live here: who
may (opaque.py), what first bytes mean (screen.py).

An idle tunnel costs two descriptors and an epoll entry: a pipe is borrowed only while bytes are between the two sockets.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from outpass.gate.budget import Meter
from outpass.gate.pipes import CHUNK, Pipe, Pipes
from outpass.gate.screen import Screen
from outpass.gate.waking import PAUSE_S, Waking
from outpass.reasons import Reason

PIECE: Final = 1 << 19
"""Bytes for which a stream of them wakes the thread (waking.py)."""
ROUNDS: Final = 16
"""Chunks that one tunnel moves before others have their turn."""
HALF_CLOSED_S: Final = 900.0
"""Seconds without a byte after which a tunnel of which one side has ended is given up: that side may be gone for good."""
FIRST_BYTES_S: Final = 10.0
"""Seconds that a client may take for the rest of a TLS hello that it has begun."""
HELLO_S: Final = 30.0
"""Seconds that it may take to begin one, where nothing passes before."""
_SWEEP_S: Final = 1.0
_PEEK: Final = 65_536
_NOW: Final = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK
_GONE: Final = select.EPOLLERR


@dataclass(slots=True)
class End:
    """How a tunnel ended; bytes as the client counts them."""

    bytes_out: int
    bytes_in: int
    reason: Reason | None
    """Set when it was cut by us or by a fault, not ended by its two sides."""


@dataclass(slots=True, eq=False)
class _Way:
    """One direction."""

    source: socket.socket
    target: socket.socket
    waking: Waking
    first: bytes = b""
    """Read from the source before the relay had it."""
    pipe: tuple[int, int] | None = None
    held: int = 0
    moved: int = 0
    ended: bool = False
    """The source sent its end."""
    done: bool = False
    """And the target was told."""
    cut: bool = False
    """A limit is used up: what is held is the last."""
    ready: bool = True
    """Something happened since it was found that nothing can be moved."""


@dataclass(slots=True, eq=False)
class Tunnel:
    """Two connected sockets, owned by the relay from `add` on."""

    out: _Way
    back: _Way
    on_end: Callable[[End], None]
    screen: Screen | None
    meter: Meter | None
    since: float = 0.0
    """Of the last byte."""
    deadline: float | None = None
    closed: bool = False
    watched: dict[int, int] = field(default_factory=dict)
    cause: Reason | None = None

    @property
    def held_back(self) -> bool:
        """Whether the origin may not speak yet either."""
        return self.screen is not None and self.screen.closed

    def granted(self, way: _Way) -> int:
        """How many of the bytes that wait in the pipe may go on."""
        if self.meter is None:
            return way.held
        return self.meter.out(way.held) if way is self.out else self.meter.back(way.held)


class Relay:
    """All opaque tunnels of a gate. The thread starts with the first one."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._wake, select.EPOLLIN)
        self._posted: deque[Callable[[], None]] = deque()
        self._tunnels: dict[int, Tunnel] = {}
        self._timed: set[Tunnel] = set()
        """Those that have a deadline. While there are none, the thread sleeps until something happens."""
        self._patient: set[Waking] = set()
        self._pipes = Pipes()
        self._thread: threading.Thread | None = None

    def add(
        self,
        client: socket.socket,
        origin: socket.socket,
        on_end: Callable[[End], None],
        screen: Screen | None = None,
        first: bytes = b"",
        meter: Meter | None = None,
    ) -> Tunnel:
        """Carry bytes between two connected sockets until both sides have ended; `on_end` is called in the relay's thread.

        `first` was read from the client already; it is screened, counted and sent like what follows.
        """
        for sock in (client, origin):
            sock.setblocking(False)
        tunnel = Tunnel(
            _Way(client, origin, Waking(client, PIECE), first), _Way(origin, client, Waking(origin, PIECE)), on_end, screen, meter
        )
        self._post(lambda: self._begin(tunnel))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="outpass-relay", daemon=True)
            self._thread.start()
        return tunnel

    def close(self, tunnel: Tunnel, reason: Reason | None) -> None:
        """Cut a tunnel; from any thread, twice does no harm."""
        self._post(lambda: self._end(tunnel, reason))

    def _post(self, work: Callable[[], None]) -> None:
        self._posted.append(work)
        os.eventfd_write(self._wake, 1)

    # --- the thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        again: set[Tunnel] = set()
        swept = looked = time.monotonic()
        while True:
            wait = 0 if again else PAUSE_S if self._patient else _SWEEP_S if self._timed else None
            for fd, events in self._epoll.poll(wait):
                if fd == self._wake:
                    self._run_posted()
                elif (tunnel := self._tunnels.get(fd)) is not None:
                    if events & _GONE and self._reset(fd):
                        self._end(tunnel, None)
                    else:
                        for way in (tunnel.out, tunnel.back):
                            way.ready = way.ready or way.held > 0 or way.source.fileno() == fd
                        again.add(tunnel)
            work, again = again, set()
            for tunnel in work:
                if self._turn(tunnel):
                    again.add(tunnel)
            now = time.monotonic()
            if self._patient and now - looked >= PAUSE_S:
                looked = now
                self._patient = {waking for waking in self._patient if waking.look()}
            if now - swept >= _SWEEP_S:
                swept = now
                for tunnel in [t for t in self._timed if t.deadline is not None and t.deadline <= now]:
                    self._end(tunnel, tunnel.cause)

    def _run_posted(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)
        while self._posted:
            self._posted.popleft()()

    def _reset(self, fd: int) -> bool:
        tunnel = self._tunnels[fd]
        sock = tunnel.out.source if tunnel.out.source.fileno() == fd else tunnel.back.source
        return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0

    def _begin(self, tunnel: Tunnel) -> None:
        tunnel.since = time.monotonic()
        if tunnel.closed:
            return
        for way in (tunnel.out, tunnel.back):
            self._tunnels[way.source.fileno()] = tunnel
        if tunnel.screen is not None and tunnel.screen.closed:
            self._limit(tunnel, tunnel.since + HELLO_S, Reason.SNI_MISSING)
        self._turn(tunnel)

    def _limit(self, tunnel: Tunnel, deadline: float | None, cause: Reason | None = None) -> None:
        """Cut it at `deadline` (monotonic) because of `cause`; None: no deadline any more."""
        tunnel.deadline, tunnel.cause = deadline, cause
        if deadline is None:
            self._timed.discard(tunnel)
        else:
            self._timed.add(tunnel)

    def _turn(self, tunnel: Tunnel) -> bool:
        """Move what can be moved; True when there is more to do at once."""
        if not _alive(tunnel):
            return False
        try:
            more = False
            if tunnel.screen is None or self._screened(tunnel):
                more = self._pump(tunnel, tunnel.out)
            if not _alive(tunnel):
                return False
            if not tunnel.held_back:
                more = self._pump(tunnel, tunnel.back) or more
            if not _alive(tunnel):
                return False
            if tunnel.out.done and tunnel.back.done:
                self._end(tunnel, None)
                return False
            if tunnel.out.done or tunnel.back.done:
                self._limit(tunnel, tunnel.since + HALF_CLOSED_S)
            self._arm(tunnel)
            return more
        except OSError:
            self._end(tunnel, None)
            return False

    def _screened(self, tunnel: Tunnel) -> bool:
        """Whether the client's first bytes may pass. Until then they stay where they are, in its socket."""
        client, first, screen = tunnel.out.source, tunnel.out.first, tunnel.screen
        assert screen is not None
        try:
            seen = first + client.recv(_PEEK, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            if not first:
                return False
            seen = first
        if not seen and screen.closed:
            self._end(tunnel, None)  # it has gone without a word
            return False
        answer = screen.judge(seen) if seen else 0
        if isinstance(answer, Reason):
            self._end(tunnel, answer)
            return False
        if answer > len(seen):
            # Readable again only when there are so many bytes, or an end.
            if _hung_up(client):
                self._end(tunnel, Reason.SNI_MISSING)
                return False
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, answer - len(first))
            self._limit(tunnel, time.monotonic() + FIRST_BYTES_S, Reason.SNI_MISSING)
            return False
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
        tunnel.screen = None
        self._limit(tunnel, None)
        return True

    def _pump(self, tunnel: Tunnel, way: _Way) -> bool:
        """Move what can be moved one way; True when there is more to do at once."""
        if not way.ready:
            return False
        way.ready = self._moved(tunnel, way)
        return way.ready

    def _moved(self, tunnel: Tunnel, way: _Way) -> bool:
        for _ in range(ROUNDS):
            if way.done:
                return False
            if not way.held and not way.ended:
                if not self._fill(tunnel, way):
                    return False
                granted = tunnel.granted(way)
                way.cut = granted < way.held
                way.held = granted
            if way.held:
                assert way.pipe is not None
                try:
                    moved = os.splice(way.pipe[0], way.target.fileno(), way.held, flags=_NOW)
                except BlockingIOError:
                    return False
                way.held -= moved
                way.moved += moved
                tunnel.since = time.monotonic()
            if way.cut and not way.held and tunnel.meter is not None:
                self._end(tunnel, tunnel.meter.reason)  # the rest stays in the pipe, and goes with it
                return False
            if way.ended and not way.held:
                way.done = True
                self._give_back(way)
                with contextlib.suppress(OSError):
                    way.target.shutdown(socket.SHUT_WR)
                return False
        return True

    def _fill(self, tunnel: Tunnel, way: _Way) -> bool:
        """Bring a chunk of the source into a pipe, or learn that it has ended; False: there is nothing now."""
        pipe = way.pipe = way.pipe or self._borrow(tunnel)
        if way.first:
            way.held = os.write(pipe[1], way.first[:CHUNK])
            way.first = way.first[way.held :]
            return True
        try:
            way.held = os.splice(way.source.fileno(), pipe[1], CHUNK, flags=_NOW)
        except BlockingIOError:
            self._give_back(way)
            return False
        way.ended = way.held == 0
        if way.waking.brought(way.held):
            self._patient.add(way.waking)
        return True

    def _arm(self, tunnel: Tunnel) -> None:
        """Watch each socket for what is waited for, and not at all when that is nothing: a dead peer would wake us for ever."""
        wanted = {tunnel.out.source.fileno(): 0, tunnel.back.source.fileno(): 0}
        for way in (tunnel.out, tunnel.back):
            if way.held:
                wanted[way.target.fileno()] |= select.EPOLLOUT
            elif not way.ended and not (way is tunnel.back and tunnel.held_back):
                wanted[way.source.fileno()] |= select.EPOLLIN
        for fd, events in wanted.items():
            before = tunnel.watched.get(fd, 0)
            if events == before:
                continue
            if not before:
                self._epoll.register(fd, events)
            elif events:
                self._epoll.modify(fd, events)
            else:
                self._epoll.unregister(fd)
            tunnel.watched[fd] = events

    def _end(self, tunnel: Tunnel, reason: Reason | None) -> None:
        if tunnel.closed:
            return
        tunnel.closed = True
        self._timed.discard(tunnel)
        clean = tunnel.out.done and tunnel.back.done
        for way in (tunnel.out, tunnel.back):
            fd = way.source.fileno()
            if tunnel.watched.get(fd):
                self._epoll.unregister(fd)
            self._tunnels.pop(fd, None)
            if way.pipe is not None:
                self._pipes.drop(way.pipe)
                way.pipe = None
        for way in (tunnel.out, tunnel.back):
            self._patient.discard(way.waking)
            if not clean:  # what was not delivered must not look as if it had ended well
                reset(way.source)
            way.source.close()
        tunnel.on_end(End(tunnel.out.moved, tunnel.back.moved, reason))

    def _borrow(self, tunnel: Tunnel) -> Pipe:
        """A pipe; where none is left, after the tunnel is cut whose peer has taken nothing for the longest. Raises OSError."""
        pipe = self._pipes.borrow()
        if pipe is None:
            stuck = [t for t in set(self._tunnels.values()) if t is not tunnel and (t.out.held or t.back.held)]
            if stuck:
                self._end(min(stuck, key=lambda t: t.since), Reason.TOO_MANY_CONNECTIONS)
                pipe = self._pipes.borrow()
        if pipe is None:
            self._end(tunnel, Reason.TOO_MANY_CONNECTIONS)
            raise OSError("no pipe is left")
        return pipe

    def _give_back(self, way: _Way) -> None:
        if way.pipe is not None and not way.held:
            pipe, way.pipe = way.pipe, None
            self._pipes.give_back(pipe)


def _alive(tunnel: Tunnel) -> bool:
    return not tunnel.closed


def _hung_up(sock: socket.socket) -> bool:
    poll = select.poll()
    poll.register(sock, select.POLLRDHUP)
    return bool(poll.poll(0))


def reset(sock: socket.socket) -> None:
    """Have the coming close() send RST: the other side must not take the end for an orderly one."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
