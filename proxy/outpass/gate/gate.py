"""One gate: what the broker's operations do, and how a connection becomes a client of a jail.

Lives here: jails by id, ended sessions, accepting, draining. May not live here: the process and its signals (serve.py),
the wire (control.py), judging (addon.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final

from mitmproxy.options import Options

from outpass.errors import StartError
from outpass.gate import listeners, sweep, transparent
from outpass.gate.addon import Addon
from outpass.gate.bounds import Bounds
from outpass.gate.budget import Budgets
from outpass.gate.ca import GateTls
from outpass.gate.client import DEFAULTS, Client, Tunnel
from outpass.gate.control import Packet, read_memory
from outpass.gate.descriptors import scarce
from outpass.gate.handler import GateHandler
from outpass.gate.jails import Jail, Rules, over
from outpass.gate.listeners import RawServer
from outpass.gate.opaque import Opener
from outpass.gate.outgoing import MAX_BACKLOG, Outgoing
from outpass.gate.pins import Overrides, Pins, Via, resolve
from outpass.gate.questions import Questions
from outpass.gate.recorder import Recorder
from outpass.gate.shared import Share
from outpass.gate.sweep import Portions
from outpass.gate.transparent import Arrival, Doorman
from outpass.model import Decision
from outpass.policy import decide, limits, names, wire
from outpass.policy.reach import Anybody
from outpass.policy.turn import Turn
from outpass.reasons import Reason

if TYPE_CHECKING:
    from outpass.gate.nameserver import Nameserver

DRAIN_S: Final = 5.0
"""Seconds that a drain waits for what is under way."""
_POLL_S: Final = 0.02
EXPIRE_S: Final = 5.0
"""Seconds by which a stream may outlive the rule that allowed it, when the rule expires (a reload ends it at once)."""

Operation = Callable[[Packet], Awaitable[None]]

log = logging.getLogger("outpass.gate")


class Gate:
    """Everything that one gate process serves."""

    def __init__(
        self,
        outgoing: Outgoing,
        overrides: Overrides,
        turn: Turn,
        budgets: Budgets,
        share: Share | None = None,
        bounds: Bounds = DEFAULTS,
        via: Via | None = None,
    ) -> None:
        """`turn`: which of the policies that are handed over is in force. `share`: where there are other gates.

        `via`: the proxy through which everything goes that has no override.
        """
        self.jails: dict[str, Jail] = {}
        self.ended: set[str] = set()
        """Sessions that are over. It only grows, by about 100 bytes a process: a spawn pass may come back much later."""
        self.draining = False
        self.audit_failing = False
        self.finished = asyncio.Event()
        self.recorder = Recorder(outgoing, time.time)
        self._outgoing = outgoing
        self._overrides = overrides
        self._via = via
        self._turn = turn
        self._share = share
        self._addon: Addon | None = None
        self._options: Options | None = None
        self._tls: GateTls | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._told = False
        self.questions = Questions(outgoing)
        self.budgets = budgets
        self.bounds = bounds
        self.portions = Portions(bounds, self.jails, self.recorder)
        self.opener = Opener(self.recorder, overrides, budgets, via)
        self.doorman = Doorman(self.questions, self.recorder, self.opener, self.unavailable, self.ended, self._serve_http)
        self._nameserver: Nameserver | None = None
        self._operations: dict[str, Operation] = {
            "jail.add": self._jail_add,
            "jail.policy": self._jail_policy,
            "policy.drop": self._policy_drop,
            "turn": self._turned,
            "beat": self._beat,
            "ca": self._renew_ca,
            "jail.remove": self._jail_remove,
            "session.end": self._session_end,
            "address": self._address,
            "answer": self._answer,
            "audit": self._audit,
            "drain": self._drain,
        }

    def serve_with(self, addon: Addon, tls: GateTls, options: Options) -> None:
        """Set what connections are served with; before the first `jail.add`. Needs a running loop."""
        addon.table.update(
            tls_start_client=tls.tls_start_client,
            tls_start_server=tls.tls_start_server,
            server_disconnected=tls.server_disconnected,
        )
        self._addon, self._options, self._tls = addon, options, tls
        self._keep(self._expire())
        self._keep(sweep.watch(self.jails, self.bounds))

    def unavailable(self) -> Reason | None:
        """Why nothing is decided now, if so."""
        if self.draining:
            return Reason.DRAINING
        if self.audit_failing or self._outgoing.backlog > MAX_BACKLOG:
            return Reason.AUDIT_UNAVAILABLE
        return None

    async def handle(self, packet: Packet) -> None:
        """Carry out one operation; a fault in it is answered with nack, and leaves everything else as it was."""
        seq = packet.message.get("seq")
        operation = self._operations.get(packet.message["op"])
        try:
            if operation is None:
                raise StartError(f"the gate knows no operation {packet.message['op']!r}")
            await operation(packet)
        except (StartError, KeyError, ValueError, TypeError, OSError) as error:
            text = error.message if isinstance(error, StartError) else f"{type(error).__name__}: {error}"
            if seq is not None:
                self._outgoing.post({"op": "nack", "seq": seq, "error": text})
        finally:
            packet.close()

    def _ack(self, packet: Packet) -> None:
        if (seq := packet.message.get("seq")) is not None:
            self._outgoing.post({"op": "ack", "seq": seq})

    # --- operations --------------------------------------------------------------------------------------------------

    async def _jail_add(self, packet: Packet) -> None:
        message = packet.message
        name, kinds = str(message["jail"]), list(message["listeners"])
        if name in self.jails:
            raise StartError(f"the gate already has a jail {name}")
        first = 2 if message.get("book") else 1
        if len(packet.fds) != first + len(kinds):
            raise StartError("the gate was handed another number of descriptors than listeners")
        rules = _policy(packet.fds[0])
        jail = Jail(name, str(message["tier"]), str(message["kind"]), *rules[:3], digest=rules.digest)
        jail.search = tuple(names.host(str(domain)) for domain in message.get("search", ()))
        if first == 2:  # this gate takes over: addresses are in use, and connections wait already
            jail.book.note(json.loads(read_memory(packet.fds[1])), [])
        try:
            for kind, fd in zip(kinds, packet.fds[first:], strict=True):
                # A duplicate, because packet.close() closes what it was handed.
                await self._adopt(jail, str(kind), socket.socket(fileno=os.dup(fd)))
        except BaseException:
            jail.stop_accepting()
            raise
        self.jails[name] = jail
        self._ack(packet)

    async def _adopt(self, jail: Jail, kind: str, sock: socket.socket) -> None:
        """Serve one listener of a jail. Raises StartError for a kind that the gate does not know."""
        if kind == listeners.HTTP:
            await listeners.adopt(jail, sock, self.accept, self._share)
        elif kind == listeners.TRANSPARENT:
            jail.servers.append(RawServer(sock, lambda client: self._arrived(jail, client), lambda: self._crowded(jail)))
        elif kind.startswith(listeners.FORWARD):
            to = (names.HOST, names.port(kind.removeprefix(listeners.FORWARD)))
            jail.servers.append(
                RawServer(sock, lambda client: self.doorman.accepted(jail, client, to), lambda: self._crowded(jail))
            )
        elif kind in listeners.DATAGRAMS:
            jail.servers.append(self._dns().datagrams(jail, sock))
        elif kind == listeners.DNS_TCP:
            jail.servers.append(RawServer(sock, lambda client: self._dns().connection(jail, client)))
        else:
            raise StartError(f"the gate has no listener of kind {kind!r}")

    def _crowded(self, jail: Jail) -> bool:
        return jail.crowded() or self.portions.full(jail)

    def _arrived(self, jail: Jail, client: socket.socket) -> None:
        """A connection to any address. Port 53 of an address that stands for nothing is a nameserver, as it is over UDP."""
        if transparent.asks_nameserver(client):
            self._dns().connection(jail, client)
        else:
            self.doorman.accepted(jail, client)

    def _dns(self) -> Nameserver:
        """Made for the first jail that looks names up: without one, its codec is never imported."""
        if self._nameserver is None:
            from outpass.gate.nameserver import Nameserver

            assert self._addon is not None
            self._nameserver = Nameserver(self._addon.dns_request, self.recorder, asyncio.get_running_loop().time)
        return self._nameserver

    async def _address(self, packet: Packet) -> None:
        message = packet.message
        self._jail(packet).book.note(list(message["entries"]), list(message.get("drop", ())))
        self._ack(packet)

    async def _answer(self, packet: Packet) -> None:
        self.questions.answered(packet.message)

    async def _jail_policy(self, packet: Packet) -> None:
        jail = self._jail(packet)
        if len(packet.fds) != 1:
            raise StartError("the gate was handed no policy")
        jail.stage(int(packet.message["turn"]), self._turn, _policy(packet.fds[0]))
        self._ack(packet)

    async def _policy_drop(self, packet: Packet) -> None:
        for jail in self.jails.values():
            jail.unstage()
        self._ack(packet)

    async def _turned(self, packet: Packet) -> None:
        for jail in self.jails.values():
            jail.turned(self._turn)
        self._ack(packet)

    async def _renew_ca(self, packet: Packet) -> None:
        assert self._tls is not None
        self._tls.renew(str(packet.message["ca_cert"]))
        self._ack(packet)

    async def _beat(self, packet: Packet) -> None:
        """The broker asks whether the loop turns."""
        self._ack(packet)

    async def _jail_remove(self, packet: Packet) -> None:
        jail = self._jail(packet)
        jail.removed = True
        jail.stop_accepting()
        jail.close_clients()
        # In the background: connections may take seconds to end, and the broker takes a gate that is silent for one that hangs.
        self._keep(self._removed(jail, packet))

    async def _removed(self, jail: Jail, packet: Packet) -> None:
        await self._until(lambda: not jail.clients, DRAIN_S)
        self.jails.pop(jail.id, None)
        await self._outgoing.drained()
        self._ack(packet)

    async def _session_end(self, packet: Packet) -> None:
        self.ended |= over(self.jails.values(), packet.message)
        self._ack(packet)

    async def _audit(self, packet: Packet) -> None:
        self.audit_failing = packet.message.get("state") != "ok"
        self._ack(packet)

    async def _drain(self, packet: Packet) -> None:
        self.begin_drain(packet.message.get("seq"))

    def _jail(self, packet: Packet) -> Jail:
        name = str(packet.message["jail"])
        jail = self.jails.get(name)
        if jail is None:
            raise StartError(f"the gate has no jail {name}")
        return jail

    # --- connections -------------------------------------------------------------------------------------------------

    async def accept(self, jail: Jail, source: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection that a listener of `jail` accepted, until it ends."""
        if jail.removed or self.draining or self._addon is None or self._options is None:
            writer.close()
            return
        if scarce(writer):
            if not self._told:
                log.error("outpass: error: the gate has no descriptors left: connections are refused until some end")
            self._told = True
            writer.close()
            return
        if self.portions.full(jail):
            await self.portions.refuse(jail, reader, writer)
            return
        pins = Pins(self._overrides, resolve, asyncio.get_running_loop().time, self._via)
        await self._carry(Client(jail, source, self.recorder, pins, writer.close, ends=_ends(writer)), reader, writer)

    def _serve_http(self, jail: Jail, arrival: Arrival, sock: socket.socket) -> None:
        """Serve a connection of the transparent listener that HTTP rules are about; takes the socket."""
        self._keep(self._serve(jail, arrival, sock))

    async def _serve(self, jail: Jail, arrival: Arrival, sock: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=sock)
        if jail.removed or arrival.sid in jail.revoked or self.draining or self._addon is None or self._options is None:
            writer.close()
            return
        pins = Pins(self._overrides, resolve, asyncio.get_running_loop().time, self._via)
        client = Client(jail, arrival.source, self.recorder, pins, writer.close, transparent=True)
        asker = arrival.asker
        client.tunnel = Tunnel(arrival.host, arrival.port, None, None, asker.sid, asker=asker, opener=asker.chain)
        await self._carry(client, reader, writer)

    async def _carry(self, client: Client, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert self._addon is not None and self._options is not None
        client.bounds = self.bounds
        client.jail.clients.add(client)
        try:
            await GateHandler(reader, writer, self._options, client, self._addon).handle_client()
        finally:
            client.jail.clients.discard(client)

    # --- the end -----------------------------------------------------------------------------------------------------

    def begin_drain(self, seq: int | None = None) -> None:
        """`drain` in the background, so that `audit` and `session.end` are still heard meanwhile."""
        self._keep(self.drain(seq))

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` in the background; asyncio itself keeps weak references to tasks only."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _expire(self) -> None:
        """Ask again, from time to time, about what is under way: a rule that expires ends what it allowed."""
        while True:
            await asyncio.sleep(EXPIRE_S)
            for jail in self.jails.values():
                jail.sweep()

    async def drain(self, seq: int | None = None) -> None:
        """Stop accepting, finish what is under way (5 s), hand every record to the kernel, answer; sets `finished`."""
        if self.draining:
            return
        self.draining = True
        clients = [jail.clients for jail in self.jails.values()]
        for jail in self.jails.values():
            jail.stop_accepting()

        def idle() -> bool:
            for client in [c for group in clients for c in group if c.idle]:
                client.close()
            return not any(clients)

        await self._until(idle, DRAIN_S)
        for jail in self.jails.values():
            jail.close_clients()
        await self._until(lambda: not any(clients), 1.0)
        if seq is not None:
            self._outgoing.post({"op": "ack", "seq": seq})
        await self._outgoing.drained()
        self.finished.set()

    async def _until(self, done: Callable[[], bool], seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not done():
                    await asyncio.sleep(_POLL_S)


def _policy(fd: int) -> Rules:
    """The policy in a memfd, ready to decide. Raises ValueError for anything that is not a policy."""
    data: Any = json.loads(read_memory(fd))
    compiled = decide.compile(wire.load(data))
    answer = decide.decide
    anybody: list[Anybody] = []

    def reach(host: str) -> Decision | None:
        if not anybody:  # a policy of 100 000 rules takes a while to turn round, and many jails never ask
            anybody.append(Anybody(compiled))
        return anybody[0].reachable(host, now=time.time())

    return Rules(
        lambda request: answer(compiled, request, now=time.time()),
        reach,
        lambda request: limits.holding(compiled, request, time.time()),
        compiled.digest,
    )


def _ends(writer: asyncio.StreamWriter) -> tuple[tuple[str, int], tuple[str, int]] | None:
    """Both ends of a TCP connection; None for a Unix socket."""
    peer, own = writer.get_extra_info("peername"), writer.get_extra_info("sockname")
    if not isinstance(peer, tuple) or not isinstance(own, tuple):
        return None
    return (names.host(peer[0]), peer[1]), (names.host(own[0]), own[1])
