"""Carries one client connection: reads, runs the engine's layers, calls the hooks, dials, keeps queues bounded.

Lives here: running layers, hooks and dials, as a subclass of the engine's handler; gate/README.md numbers its defects (D1 to
D8). May not live here: what a hook decides, what a layer parses, bytes on sockets (wires.py).
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol

from mitmproxy.connection import Connection, ConnectionState, Server
from mitmproxy.options import Options
from mitmproxy.proxy import commands, events, mode_specs, server
from mitmproxy.proxy.layers.http import HttpLayer
from mitmproxy.proxy.layers.modes import HttpProxy, TransparentProxy
from mitmproxy.tls import TlsData

from outpass.gate.client import Client
from outpass.gate.dialling import dial, reason_of
from outpass.gate.engine.seal import ESTABLISHED, inner_layer
from outpass.gate.engine.unread import unread
from outpass.gate.engine.watcher import attach
from outpass.gate.refusal import tagged
from outpass.gate.wires import Wires
from outpass.reasons import Reason

Hook = Callable[[Any], Awaitable[None] | None]
"""A hook of ours: returns None when it is done, or something to await when it has to wait (for a resolver)."""

log = logging.getLogger("outpass.gate")


class Hooks(Protocol):
    """What the handler calls: the hooks, and the one place that knows what a failed hook means."""

    @property
    def table(self) -> Mapping[str, Hook]:
        """The hooks by the engine's names; one that is missing is done at once."""

    def failed(self, name: str, data: Any, error: BaseException) -> bool:
        """The hook `name` raised. Refuse what it was about and return True, or return False: end the connection."""


class GateHandler(server.LiveConnectionHandler):
    """One client connection."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        options: Options,
        client: Client,
        hooks: Hooks,
    ) -> None:
        super().__init__(reader, writer, options, _MODE)
        # The engine formats addresses as (host, port); a Unix peer has neither.
        if client.source.startswith("unix:"):
            self.client.peername = self.client.sockname = (client.source, 0)
        self.gate_client = client
        self.hooks = hooks
        context = self.layer.context
        if client.tunnel is not None:  # the destination is known: the transparent listener's
            context.server.address = (client.tunnel.host, client.tunnel.port)
            self.layer = TransparentProxy(context)
        else:
            self.layer = HttpProxy(context)
        self._busy = False
        self._dead = False
        self._events: deque[events.Event] = deque()
        self._established: list[TlsData] = []
        """Handshakes that are over and whose layer is still in place."""
        attach(self.client, client)
        self._wires = Wires(self.transports, self.client, client, self.take)
        client.sockets = self._wires
        client.close = self.abort
        client.way_out = self

    # --- hooks -------------------------------------------------------------------------------------------------------

    async def handle_hook(self, hook: commands.StartHook) -> None:
        """[D1] The engine logs an exception of a hook and goes on as if the hook had agreed: it fails open."""
        waiting = self._start_hook(hook)
        if waiting is not None:
            await self._wait_for(hook, waiting)

    def _start_hook(self, hook: commands.StartHook) -> Awaitable[None] | None:
        call = self.hooks.table.get(hook.name)
        if call is None:
            return None
        try:
            return call(_argument(hook))
        except Exception as error:
            self._hook_failed(hook, error)
            return None

    async def _wait_for(self, hook: commands.StartHook, waiting: Awaitable[None]) -> None:
        with self.timeout_watchdog.disarm():
            try:
                await waiting
            except Exception as error:
                self._hook_failed(hook, error)
            except asyncio.CancelledError as error:
                self._hook_failed(hook, error)
                raise

    def _hook_failed(self, hook: commands.StartHook, error: BaseException) -> None:
        if not self.hooks.failed(hook.name, _argument(hook), error):
            self.abort()

    # --- events and commands -----------------------------------------------------------------------------------------

    async def server_event(self, event: events.Event) -> None:
        """[D2] The engine makes a task and takes a lock for every hook, also for hooks that do not wait: half its CPU."""
        self.take(event)

    def take(self, event: events.Event) -> None:
        """Run the layers on `event` and on all that follows from it, then send what they sent, in one write each."""
        if self._busy:
            self._events.append(event)
            return
        self._busy = True
        self.timeout_watchdog.last_activity = time.time()
        try:
            self._events.append(event)
            while self._events and not self._dead:
                event = self._events.popleft()
                if isinstance(event, events.CommandCompleted) and self._is_stale(event):
                    continue
                for command in self.layer.handle_event(event):
                    self._do(command)
            self._wires.flush()
            self._shorten()
        except Exception as error:
            # [D3] The engine logs this and leaves the client hanging until the idle timeout.
            self.hooks.failed("layer", self.client, error)
            self._dead = True
            self.abort()
        finally:
            self._busy = False
        self._wires.release()

    def _do(self, command: commands.Command) -> None:
        """Carry out one command of a layer; nothing in here waits."""
        if isinstance(command, commands.SendData):
            self._wires.queue(command.connection, command.data)
        elif isinstance(command, commands.StartHook):
            if command.name in ESTABLISHED:
                self._established.append(_argument(command))
            waiting = self._start_hook(command)
            if waiting is not None:
                self._spawn(self._finish_hook(command, waiting))
            elif command.blocking:
                self._events.append(events.HookCompleted(command))
        elif isinstance(command, commands.Log):
            if command.level > logging.WARNING:
                log.error("%s", command.message)
        elif isinstance(command, commands.OpenConnection):
            task = self._spawn(self.open_connection(command))
            self.transports[command.connection] = server.ConnectionIO(handler=task)
        elif isinstance(command, commands.RequestWakeup):
            self.wakeup_timer.add(self._spawn(self.wakeup(command)))
        elif isinstance(command, commands.ConnectionCommand) and command.connection not in self.transports:
            pass  # it was closed in the meantime
        elif isinstance(command, commands.CloseConnection):
            self._wires.flush()
            # As the engine does with what closes a connection inside a tunnel: the whole of it.
            half = isinstance(command, commands.CloseTcpConnection) and command.half_close
            self.close_connection(command.connection, half and not self._wires.sealed(command.connection))
        else:
            raise RuntimeError(f"unexpected command: {type(command).__name__}")

    def _shorten(self) -> None:
        """[D8] Leave out layers that only pass on: those of a finished CONNECT, and TLS after its handshake."""
        if not isinstance(self.layer, HttpLayer):
            context = self.layer.context
            found = context.layers[1] if len(context.layers) > 1 else None
            if isinstance(found, HttpLayer) and not self.layer._paused:
                self.layer = found
        if self._established:
            self._established = [data for data in self._established if not self._left_out(data)]

    def _left_out(self, data: TlsData) -> bool:
        inner = inner_layer(data)
        if inner is None or data.ssl_conn is None:
            return False
        self._wires.seal(data.conn, data.ssl_conn)
        if data.conn is self.client:
            self.layer = inner
        return True

    def _is_stale(self, event: events.CommandCompleted) -> bool:
        """Whether a layer that was left out had asked for this (a timer)."""
        layer = self.layer
        return isinstance(layer, HttpLayer) and event.command not in layer.command_sources

    async def handle_connection(self, connection: Connection) -> None:
        """Serve a connection until both sides are done with it, or this task is cancelled."""
        await self._wires.serve(connection)

    async def _finish_hook(self, hook: commands.StartHook, waiting: Awaitable[None]) -> None:
        await self._wait_for(hook, waiting)
        if hook.blocking:
            await self.server_event(events.HookCompleted(hook))

    def _spawn(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        _ALIVE.add(task)
        task.add_done_callback(_ALIVE.discard)
        return task

    def abort(self) -> None:
        """End the connection, whatever is under way on it; safe to call twice and from anywhere."""
        io = self.transports.get(self.client)
        if io is None:
            return
        if io.handler is not None:
            io.handler.cancel("closed by the gate")
        elif io.writer is not None:
            io.writer.close()

    # --- leaving -----------------------------------------------------------------------------------------------------

    def park(self) -> None:
        """See client.WayOut."""
        self._wires.park(True)

    def stay(self) -> None:
        """See client.WayOut."""
        self._wires.park(False)

    def leave(self) -> tuple[socket.socket, bytes] | None:
        """See client.WayOut. What is closed afterwards is the engine's descriptor; the connection goes on."""
        writer, left = self._wires.writer(self.client), None
        # An answer to an earlier request that is still on its way would mix with what the origin says.
        if not self._dead and writer is not None and not writer.transport.get_write_buffer_size():
            left = writer.get_extra_info("socket").dup(), unread(self.layer.context, self.client)
        self._dead = True
        self.abort()
        return left

    # --- dialling ----------------------------------------------------------------------------------------------------

    async def open_connection(self, command: commands.OpenConnection) -> None:
        """Dial an address that was decided, within a bound.

        [D4] The engine resolves the name again when it dials, so that the address that was checked need not be the one that
        is dialled (DNS rebinding). [D5] It waits for a connection without bound. [D6] It lets a client have five
        connections to one origin at a time; the sixth request of an HTTP/2 client waits for ever behind five streams.
        """
        origin = command.connection
        pin = self.gate_client.pins.known(origin.address) if origin.address else None
        if pin is None:
            await self._not_opened(command, Reason.INTERNAL, "nothing was decided about this destination")
            return
        pin.users += 1
        try:
            try:
                origin.timestamp_start = time.time()
                sock = await dial(pin, origin.address[0] if origin.address else "")
                reader, writer = await asyncio.open_connection(sock=sock)
            except OSError as error:
                await self._not_opened(command, reason_of(error), error.strerror or "no connection")
                return
            except asyncio.CancelledError:
                await self._not_opened(command, Reason.UPSTREAM_UNREACHABLE, "cancelled")
                raise
            except Exception as problem:  # the client would wait for ever, and no record would say for what
                await self._not_opened(command, Reason.INTERNAL, type(problem).__name__)
                return
            await self._carry(command, origin, reader, writer)
        finally:
            pin.users -= 1

    async def _not_opened(self, command: commands.OpenConnection, reason: Reason, text: str) -> None:
        self.transports.pop(command.connection, None)
        await self.server_event(events.OpenConnectionCompleted(command, tagged(reason, text)))

    async def _carry(
        self,
        command: commands.OpenConnection,
        origin: Server,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        origin.timestamp_tcp_setup = time.time()
        origin.state = ConnectionState.OPEN
        origin.peername = writer.get_extra_info("peername") or None  # TLS to a proxy has neither
        origin.sockname = writer.get_extra_info("sockname") or None
        self.transports[origin] = server.ConnectionIO(asyncio.current_task(), reader, writer)
        shaken = asyncio.get_running_loop().call_later(self.gate_client.bounds.handshake_s, self._late, origin)
        await self.server_event(events.OpenConnectionCompleted(command, None))
        try:
            await self.handle_connection(origin)
        finally:
            shaken.cancel()
            origin.timestamp_end = time.time()
            if (ended := self.hooks.table.get("server_disconnected")) is not None:
                ended(origin)

    def _late(self, origin: Server) -> None:
        """The origin has had its time for the TLS handshake."""
        io = self.transports.get(origin)
        if origin.tls and not origin.tls_established and io is not None and io.handler is not None and origin.address:
            self.gate_client.late.add(origin.address)
            io.handler.cancel("the TLS handshake did not come in time")


def _argument(hook: commands.StartHook) -> Any:
    """What a hook is about: every hook of the engine's is a dataclass of one field."""
    return next(iter(vars(hook).values()))


_ALIVE: Final[set[asyncio.Task[None]]] = set()
"""asyncio keeps weak references to tasks only."""
_MODE: Final = mode_specs.ProxyMode.parse("regular")
