"""The connections of one client, to itself and to its origins, as bytes: read, deciphered, bounded, written.

Lives here: what goes between pumps (pump.py), seals (engine/seal.py) and the layers, and when a side is not read. May not live
here: what a layer makes of it, hooks, dialling (handler.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, MutableMapping
from typing import Protocol

from mitmproxy.connection import Connection, ConnectionState
from mitmproxy.proxy import events
from mitmproxy.proxy.server import ConnectionIO
from OpenSSL import SSL

from outpass.gate.engine.pacing import Settle
from outpass.gate.engine.patience import Tick
from outpass.gate.engine.seal import Seal
from outpass.gate.engine.watcher import BACKLOG_HIGH
from outpass.gate.pump import Pump


class Kept(Protocol):
    """What the layers keep of what was read (client.Client)."""

    pressure: Callable[[Connection], int] | None
    queued: Callable[[Connection], int] | None
    holds: bool


class Wires:
    """Everything that one client's layers read and write."""

    def __init__(
        self,
        transports: MutableMapping[Connection, ConnectionIO],
        client: Connection,
        kept: Kept,
        take: Callable[[events.Event], None],
    ) -> None:
        """`take` runs the layers, and calls `flush` and `release`."""
        self._transports = transports
        self._client = client
        self._kept = kept
        self._stalls: dict[Connection, tuple[int, float]] = {}
        """Bytes that wait for a connection, and since when it has been so many."""
        self._take = take
        self._pumps: dict[Connection, Pump] = {}
        self._seals: dict[Connection, Seal] = {}
        """TLS of connections whose handshake is over: the layers see and send plain text."""
        self._unsent: dict[Connection, list[bytes]] = {}
        self._parked = False
        self._settling: set[Connection] = set()

    def seal(self, connection: Connection, tls: SSL.Connection) -> None:
        """From now on the layers see and send plain text on `connection`."""
        self._seals[connection] = Seal(tls)

    def sealed(self, connection: Connection) -> bool:
        """Whether that is so."""
        return connection in self._seals

    def writer(self, connection: Connection) -> asyncio.StreamWriter | None:
        """The writer of a connection, as asyncio made it; None once it has ended."""
        io = self._transports.get(connection)
        if io is None or not isinstance(io.writer, asyncio.StreamWriter) or io.writer.is_closing():
            return None
        return io.writer

    # --- writing -----------------------------------------------------------------------------------------------------

    def queue(self, connection: Connection, data: bytes) -> None:
        """`data` goes out with the next `flush`."""
        if connection in self._unsent:
            self._unsent[connection].append(data)
        else:
            self._unsent[connection] = [data]

    def flush(self) -> None:
        """Hand what is queued to the kernel: one write for each connection, and one TLS record where it fits."""
        for connection, parts in self._unsent.items():
            writer = self.writer(connection)
            if writer is not None:
                data = parts[0] if len(parts) == 1 else b"".join(parts)
                seal = self._seals.get(connection)
                writer.write(data if seal is None else seal.encipher(data))
        self._unsent.clear()

    # --- reading -----------------------------------------------------------------------------------------------------

    async def serve(self, connection: Connection) -> None:
        """Carry a connection until both sides are done with it, or this task is cancelled."""
        io = self._transports[connection]
        assert isinstance(io.reader, asyncio.StreamReader) and isinstance(io.writer, asyncio.StreamWriter)
        pump = Pump(io.reader, io.writer, lambda data: self._received(connection, data), lambda: self._writable(connection))
        self._pumps[connection] = pump
        cancelled: asyncio.CancelledError | None = None
        lost = True
        try:
            pump.start()
            lost = await pump.ended
        except asyncio.CancelledError as error:
            cancelled = error
        pump.hold()
        # TCP connections can be half-closed.
        connection.state = ConnectionState.CLOSED if lost else connection.state & ~ConnectionState.CAN_READ
        seal = self._seals.get(connection)
        if seal is None or not seal.peer_closed:
            self._take(events.ConnectionClosed(connection))
        if connection.state is ConnectionState.CAN_WRITE:
            # It may still be written to; whoever closes it cancels this task.
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError as error:
                cancelled = error
        del self._pumps[connection]
        self._writable(connection)
        io.writer.close()
        self._transports.pop(connection)
        if cancelled is not None:
            raise cancelled

    def _received(self, connection: Connection, data: bytes) -> None:
        """Bytes came; whoever sent them is not heard again while others cannot be written to."""
        seal = self._seals.get(connection)
        if seal is None:
            self._take(events.DataReceived(connection, data))
        else:
            self._deciphered(connection, seal, data)
        if self._must_wait(connection) and (pump := self._pumps.get(connection)) is not None:
            self._hold(connection, pump)

    def _deciphered(self, connection: Connection, seal: Seal, data: bytes) -> None:
        plain, closed = seal.decipher(data)
        if (own := seal.waiting()) and (writer := self.writer(connection)) is not None:
            writer.write(own)
        if plain:
            self._take(events.DataReceived(connection, plain))
        if closed and connection.state & ConnectionState.CAN_READ:
            connection.state &= ~ConnectionState.CAN_READ
            self._take(events.ConnectionClosed(connection))

    # --- bounds ------------------------------------------------------------------------------------------------------

    def park(self, parked: bool) -> None:
        """Read nothing from the client, or read on."""
        self._parked = parked
        if not parked:
            self.release()
        elif (pump := self._pumps.get(self._client)) is not None:
            self._hold(self._client, pump)

    def release(self) -> None:
        """Read on from those for whom there is room again."""
        for connection, pump in list(self._pumps.items()):
            if pump.held and not pump.ended.done() and not self._must_wait(connection):
                pump.release()
                if connection is self._client:
                    self._kept.holds = False

    def _hold(self, connection: Connection, pump: Pump) -> None:
        pump.hold()
        if connection is self._client:
            self._kept.holds = True

    def _writable(self, connection: Connection) -> None:
        """The kernel takes more on `connection` again, or it is gone."""
        if connection in self._settling:
            self._settling.remove(connection)
            self._take(Settle())
        self.release()

    def _must_wait(self, connection: Connection) -> bool:
        """Whether what `connection` would bring has nowhere to go.

        [D7] The engine waits for every writer before it reads anything: one origin that takes nothing stops all streams of an
        HTTP/2 client, which has windows for that (engine/pacing.py). And it reads on while it keeps things itself: for an HTTP/2
        peer whose window is closed, for an origin that is being dialled, for a request that waits its turn.
        """
        one_by_one = connection is self._client and self._client.alpn != b"h2"
        if one_by_one and self._parked:
            return True
        for other, pump in self._pumps.items():
            if pump.full and (one_by_one or other is connection or other is self._client):
                return True
        pressure = self._kept.pressure
        return pressure is not None and pressure(connection) > BACKLOG_HIGH

    # --- what layers ask (engine/watcher.py) -------------------------------------------------------------------------

    def unsent(self, connection: Connection) -> int:
        """Bytes that wait for the kernel; without what this turn of the loop adds (512 KiB were read at most)."""
        writer = self.writer(connection)
        return 0 if writer is None else writer.transport.get_write_buffer_size()

    def settle_when_sent(self, connection: Connection) -> None:
        """Let the layers look again when the kernel takes more on `connection`."""
        pump = self._pumps.get(connection)
        if pump is not None and pump.full:
            self._settling.add(connection)
        else:
            self.tell(Settle())

    def tell(self, event: events.Event) -> None:
        """Hand an event to the layers; not now, as the caller may be one of them."""
        asyncio.get_running_loop().call_soon(self._take, event)

    def owed(self) -> int:
        """Bytes that the client has yet to take, wherever they wait."""
        return self._size(self._client)

    def _size(self, connection: Connection) -> int:
        queued = self._kept.queued
        return self.unsent(connection) + (queued(connection) if queued is not None else 0)

    def tick(self, now: float) -> None:
        """See Sockets."""
        self.tell(Tick(now))

    def stalled(self, now: float, longest_s: float) -> bool:
        """See Sockets."""
        for connection in list(self._transports):
            size = self._size(connection)
            before, since = self._stalls.get(connection, (0, now))
            if not size or size != before:
                self._stalls[connection] = size, now
            elif now - since > longest_s:
                if connection is self._client:
                    return True
                self.tell(Tick(now, connection))
        for connection in self._stalls.keys() - self._transports.keys():
            del self._stalls[connection]
        return False
