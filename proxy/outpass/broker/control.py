"""What `outpass run` asks of the daemon: jails opened, processes registered, jails closed, policies read again.

Lives here: the broker's half of proxy/README.md, "Control: run → broker". May not live here: the gate's protocol
(gates.py, supervise.py), what a jail is (jails.py).

One connection has one jail, and its end is the jail's end: a launcher that is killed leaves nothing open behind it.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Protocol

from outpass.broker import jails as jail_rooms
from outpass.broker import peer, publish, resume
from outpass.broker.gates import Gates
from outpass.broker.jails import Jail, Jails
from outpass.broker.packets import MAX_BYTES, Channel, Packet, close_fds
from outpass.errors import OutpassError, PolicyError, StartError

MAX_CONNECTIONS: Final = 512
MAX_LISTENERS: Final = 32
PAUSE_S: Final = 0.1
"""Seconds without accepting when there are no descriptors left."""
MAX_WAITING: Final = 8
"""Packets of one connection that wait for an answer."""


class Desk(Protocol):
    """What control needs of the daemon besides its rooms."""

    jails: Jails
    gates: Gates
    rooms: resume.Rooms

    def paths(self) -> dict[str, str]:
        """`mint`, `ca` and `bundle` as `jail.open` answers them."""

    def notices(self) -> list[str]:
        """Warnings for every jail."""

    async def shown(self) -> dict[str, str]:
        """`certs` and `java` for a kernel jail."""

    def publish(self, jail: Jail, ports: tuple[publish.Port, ...], leash: socket.socket) -> publish.Published:
        """Leave to publish; takes the leash. Raises StartError."""

    async def reload(self) -> dict[str, Any]:
        """Re-read every policy; the reply."""

    async def end_sessions(self, jail: Jail) -> None:
        """End all sessions of a jail."""


class Control:
    """Serves control connections: those of a listener, or the one that a private daemon inherited."""

    def __init__(self, desk: Desk, on_idle: Callable[[], None] | None = None) -> None:
        """`on_idle` is called when a connection ended and its jail is closed."""
        self._desk = desk
        self._on_idle = on_idle
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: socket.socket | None = None

    def listen(self, listener: socket.socket) -> None:
        """Accept connections from now on."""
        listener.setblocking(False)
        self._listener = listener
        asyncio.get_running_loop().add_reader(listener.fileno(), self._accept, listener)

    def serve(self, sock: socket.socket) -> None:
        """Serve one connection."""
        task = asyncio.ensure_future(_Session(self._desk, sock).run())
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    async def stop(self) -> None:
        """Accept nothing more, and close what is open with its jails."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener.fileno())
            self._listener.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock, _ = listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError:  # no descriptors left: later, and not at once again, which would be for ever
            loop = asyncio.get_running_loop()
            loop.remove_reader(listener.fileno())
            loop.call_later(PAUSE_S, self._resume, listener)
            return
        # The directory is ours alone, so this refuses nobody who got here by the rules.
        if peer.peer_credentials(sock).uid not in (os.geteuid(), 0) or len(self._tasks) >= MAX_CONNECTIONS:
            sock.close()
            return
        self.serve(sock)

    def _resume(self, listener: socket.socket) -> None:
        if listener.fileno() >= 0:
            asyncio.get_running_loop().add_reader(listener.fileno(), self._accept, listener)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self._on_idle is not None:
            self._on_idle()


class _Session:
    """One connection: packets are answered one after the other."""

    def __init__(self, desk: Desk, sock: socket.socket) -> None:
        self._desk = desk
        self._who = peer.peer_credentials(sock)
        self._packets: asyncio.Queue[Packet | None] = asyncio.Queue()
        self._channel = Channel(sock, self._arrived, lambda _why: self._packets.put_nowait(None))
        self._jail: Jail | None = None

    def _arrived(self, packet: Packet) -> None:
        # Requests and replies alternate. Who sends on without reading answers would fill our table of descriptors.
        if self._packets.qsize() >= MAX_WAITING:
            close_fds(packet.fds)
            self._channel.close()
            self._packets.put_nowait(None)
            return
        self._packets.put_nowait(packet)

    async def run(self) -> None:
        """Until the connection ends, from either side."""
        try:
            while (packet := await self._packets.get()) is not None:
                self._channel.send(await self._answer(packet))
        finally:
            self._channel.close()
            while not self._packets.empty():
                left = self._packets.get_nowait()
                close_fds(left.fds if left else ())
            if self._jail is not None:
                # Shielded: a daemon that stops while a jail closes still waits for its last records.
                await asyncio.shield(self._close())

    async def _answer(self, packet: Packet) -> dict[str, Any]:
        operations: dict[str, Callable[[Packet], Awaitable[dict[str, Any]]]] = {
            "jail.open": self._open,
            "jail.proc": self._register,
            "jail.publish": self._publish,
            "jail.close": self._finish,
            "reload": self._reload,
        }
        work = operations.get(str(packet.body.get("op")))
        keep = packet.body.get("op") in ("jail.open", "jail.publish")
        if not keep:
            close_fds(packet.fds)
        if work is None:
            return _refusal(StartError("the daemon does not know this operation", "are run and daemon of one version?"))
        try:
            return await work(packet)
        except OutpassError as e:
            return _refusal(e)
        except OSError as e:
            return _refusal(StartError(f"the daemon failed: {e.strerror or e}"))
        except (ValueError, OverflowError) as e:  # a NUL in a path, a number that no pid can be: found where they are used
            return _refusal(StartError(f"the launcher's message makes no sense: {e}"))

    async def _open(self, packet: Packet) -> dict[str, Any]:
        listeners: list[socket.socket] = []
        journal, name = self._desk.rooms.journal, packet.body.get("again")
        try:
            if self._jail is not None:
                raise StartError("this connection has a jail already")
            listeners = _listeners(packet.fds)
            order = jail_rooms.read_order(packet.body)
            jail_rooms.check_listeners(order.listeners, listeners)
            kept = None if name is None else resume.claim(journal, name, self._who.pid)
            force = await asyncio.to_thread(self._desk.jails.load, order.source)
            if name in self._desk.jails.by_id:
                raise StartError("this jail is open already")
        except BaseException:
            for listener in listeners:
                listener.close()
            if not listeners:
                close_fds(packet.fds)
            raise
        jail = self._desk.jails.add(order, force, self._who.uid, tuple(listeners), name)
        try:
            if kept is not None:
                await resume.restore(self._desk.rooms, jail, kept)
            warnings = [*force.warnings, *self._desk.notices(), *_shown(jail)]
            await self._desk.gates.add(jail)
        except BaseException:
            self._desk.jails.remove(jail)
            raise
        if kept is None:
            journal.note("jail", jail.id, resume.launcher(self._who.pid) or (self._who.pid, 0), jail.opened)
        jail.live = True
        self._jail = jail
        reply = {"ok": True, "jail": jail.id, **self._desk.paths(), "digest": force.digest, "mode": force.mode}
        if jail.kind == "jail":
            reply |= {**await self._desk.shown(), "files": list(force.files)}
        return _fitting(reply, "warnings", warnings)

    async def _register(self, packet: Packet) -> dict[str, Any]:
        jail = self._own()
        pid = packet.body.get("pid")
        if not isinstance(pid, int) or isinstance(pid, bool) or pid <= 0:
            raise StartError("the launcher's pid makes no sense")
        try:
            pidfd = os.pidfd_open(pid)
            try:
                process = peer.read_process(pid)
                line = (process, *peer.ancestors(process))
                owner = os.stat(f"/proc/{pid}").st_uid
                if not peer.still_alive(pidfd):
                    raise ProcessLookupError
            except BaseException:
                os.close(pidfd)
                raise
        except (ProcessLookupError, FileNotFoundError):
            raise StartError(f"process {pid} has ended already") from None
        if owner != jail.uid or all(p.pid != self._who.pid for p in line):
            os.close(pidfd)
            raise StartError(f"process {pid} was not started by the launcher of this jail")
        self._desk.jails.register(jail, process, pidfd)
        self._desk.rooms.journal.note("process", jail.id, *process.key, jail.netns)
        return {"ok": True}

    async def _publish(self, packet: Packet) -> dict[str, Any]:
        try:
            jail = self._own()
            if jail.kind != "jail" or jail.published is not None or len(packet.fds) != 1:
                raise StartError("this jail can publish nothing now", "are run and daemon of one version?")
            ports = publish.read(packet.body)
            leash = socket.socket(fileno=os.dup(packet.fds[0]))
        finally:
            close_fds(packet.fds)
        jail.published = self._desk.publish(jail, ports, leash)
        return {"ok": True}

    async def _finish(self, _packet: Packet) -> dict[str, Any]:
        jail = self._own()
        await self._close()
        return {"ok": True, "summary": jail.summary.as_dict()}

    async def _reload(self, _packet: Packet) -> dict[str, Any]:
        return await self._desk.reload()

    def _own(self) -> Jail:
        if self._jail is None:
            raise StartError("this connection has no jail")
        return self._jail

    async def _close(self) -> None:
        """No new passes, then no connections, then nothing: in this order nothing happens unrecorded."""
        jail, self._jail = self._jail, None
        if jail is None:
            return
        jail.closing = True
        await self._desk.end_sessions(jail)
        await self._desk.gates.remove(jail)
        self._desk.jails.remove(jail)
        self._desk.rooms.journal.note("close", jail.id)


def _listeners(fds: Sequence[int]) -> list[socket.socket]:
    """The descriptors as sockets. StartError for anything else."""
    if not 0 < len(fds) <= MAX_LISTENERS:
        raise StartError(f"a jail comes with one to {MAX_LISTENERS} listening sockets")
    found: list[socket.socket] = []
    try:
        for fd in fds:
            sock = socket.socket(fileno=os.dup(fd))
            found.append(sock)
    except OSError:
        for sock in found:
            sock.close()
        raise StartError("a descriptor of the launcher is not a listening socket") from None
    close_fds(fds)
    return found


def _shown(jail: Jail) -> list[str]:
    """A warning where the kernel answers no question about the jail's sockets. Raises StartError for another jail's table."""
    if jail.view is None or jail.view.shows(jail.listeners[jail.kinds.index("http")]):
        return []
    jail.without = (*jail.without, "sockets")
    return ["rules for programs (exe:) grant nothing: this kernel does not say which program holds a connection (inet_diag)"]


def refusal_of(e: OutpassError) -> dict[str, Any]:
    """An error as the fields of a reply; a policy's faults one by one."""
    reply: dict[str, Any] = {"ok": False, "error": e.message, "hint": e.hint}
    if isinstance(e, PolicyError):
        reply["error"] = f"the policy has {len(e.faults)} fault{'s' if len(e.faults) != 1 else ''}"
        reply["faults"] = [
            {"file": f.place.file, "line": f.place.line, "column": f.place.column, "message": f.message, "hint": f.hint}
            for f in e.faults
        ]
    return reply


def _refusal(e: OutpassError) -> dict[str, Any]:
    reply = refusal_of(e)
    return _fitting(reply, "faults", reply.pop("faults")) if "faults" in reply else reply


def _fitting(reply: dict[str, Any], name: str, items: list[Any]) -> dict[str, Any]:
    """`reply` with as many of `items` as fit into a packet."""
    size = len(json.dumps(reply)) + 200
    kept = []
    for item in items:
        size += len(json.dumps(item)) + 2
        if size > MAX_BYTES:
            break
        kept.append(item)
    return {**reply, name: kept}
