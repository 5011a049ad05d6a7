"""Flow control of HTTP/2, stream by stream: a peer gets its window back when what it sent has left towards the other side.

Lives here: the HTTP/2 library's connection with bounded windows and a GOAWAY that lets streams end, and the HTTP layer that knows
which stream of one side is which of the other. May not live here: frames' meaning (h2.py), sockets (handler.py).

The engine announces windows of 2 GiB and gives back at once what it has read, so that a stalled stream is kept in memory whole,
and the only brake is to stop reading a connection with all of its streams (gate/README.md, T3).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import h2.config
import h2.connection
import h2.events
from hyperframe.frame import Frame, GoAwayFrame
from mitmproxy.connection import Connection, ConnectionState
from mitmproxy.proxy import events
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layer import CommandGenerator
from mitmproxy.proxy.layers import http as engine_http
from mitmproxy.proxy.layers.http import HTTPMode
from mitmproxy.proxy.layers.http._events import RequestData
from mitmproxy.proxy.layers.http._http1 import Http1Connection

from outpass.gate.engine.bulk import BulkConnection
from outpass.gate.engine.watcher import watcher_of

CLIENT_WINDOW: Final = (256 * 1024, 8 * 1024 * 1024)
"""Bytes that a client may send ahead, on one stream and on all of a connection."""
ORIGIN_WINDOW: Final = (1024 * 1024, 16 * 1024 * 1024)
"""The same for an origin, which is farther away."""
BEHIND: Final = 64 * 1024
"""Bytes under way to the other side above which no window is given back; asyncio's own mark, above which `drain` waits."""
_KEPT: Final = 8
"""Connections of one HTTP layer above which those that are closed are looked for."""
_LEAVING: Final = "outpass.leaving"


class Nudge(events.Event):
    """Said by the gate to the layers inside a client connection, past TLS and tunnels."""


class Settle(Nudge):
    """Something was sent: look again which streams get their window back."""


class GoingAway(h2.events.Event):
    """The peer takes no stream above `last_stream_id`, and ends those below."""

    def __init__(self, last_stream_id: int) -> None:
        self.last_stream_id = last_stream_id


class PacedConnection(BulkConnection):
    """[T3] Windows are bounded, and what was received is owed until `credit`."""

    def __init__(self, config: h2.config.H2Configuration, windows: tuple[int, int]) -> None:
        super().__init__(config)
        self.owed: dict[int, int] = {}
        """Bytes received and not given back, by stream."""
        self.paced = True
        self._window = windows[1]
        self.local_settings.initial_window_size = windows[0]
        self.local_settings.acknowledge()

    def initiate_connection(self) -> None:
        """As the library does it, without the engine's 2 GiB."""
        h2.connection.H2Connection.initiate_connection(self)
        self.increment_flow_control_window(self._window - self.inbound_flow_control_window)

    def acknowledge_received_data(self, acknowledged_size: int, stream_id: int) -> None:
        """Called by the engine for all that it has read, at once."""
        if self.paced and acknowledged_size:
            self.owed[stream_id] = self.owed.get(stream_id, 0) + acknowledged_size
        else:
            super().acknowledge_received_data(acknowledged_size, stream_id)

    def credit(self, stream_id: int) -> None:
        """Give back the window of what was received on this stream."""
        super().acknowledge_received_data(self.owed.pop(stream_id, 0), stream_id)

    def queued(self, stream_id: int) -> int:
        """Bytes that wait because the peer's window for this stream is used up."""
        return sum(len(chunk.data) for chunk in self.stream_buffers.get(stream_id, ()))

    def reset_stream(self, stream_id: int, error_code: int = 0) -> None:
        """The engine leaves trailers that wait for a stream that is gone."""
        self.stream_trailers.pop(stream_id, None)
        super().reset_stream(stream_id, error_code)

    def _receive_goaway_frame(self, frame: GoAwayFrame) -> tuple[list[Frame], list[h2.events.Event]]:
        """[T8] The library takes GOAWAY for the end, and refuses what still comes on streams that the peer goes on serving."""
        return [], [GoingAway(frame.last_stream_id)]


class GetHttpConnection(engine_http.GetHttpConnection):
    """[T8] Stock sends the next request on a connection whose origin has said that it takes no more."""

    def __hash__(self) -> int:
        return id(self)

    def connection_spec_matches(self, connection: Connection) -> bool:
        return _LEAVING not in connection.__dict__ and super().connection_spec_matches(connection)


def leave(connection: Connection) -> None:
    """No new request goes on this connection."""
    connection.__dict__[_LEAVING] = True


class HttpLayer(engine_http.HttpLayer):
    """The engine's, and after every event a look at who gets window back."""

    def __init__(self, context: Context, mode: HTTPMode) -> None:
        super().__init__(context, mode)
        self.paced: dict[Connection, tuple[PacedConnection, Callable[[int], int]]] = {}
        """HTTP/2 connections, and how many bytes of a stream (numbered as the client does) wait on them."""
        watcher = watcher_of(context.client)
        if watcher is not None:
            watcher.measure(self.pressure)
            watcher.backlog(self.backlog)

    def _handle_event(self, event: events.Event) -> CommandGenerator[None]:
        if isinstance(event, Nudge):
            for stream in list(self.streams.values()):
                # a tunnel, or a websocket; or what waits for an answer. A stream that is decided or dialled has other deadlines.
                if stream._paused is None:
                    yield from self.event_to_child(stream, event)
            if (own := self.connections.get(self.context.client)) is not None:
                yield from self.event_to_child(own, event)
        elif not self._is_of_the_past(event):
            yield from super()._handle_event(event)
        if self.paced:
            for connection, (paced, _) in list(self.paced.items()):
                if paced.owed and (layer := self.connections.get(connection)) is not None:
                    yield from self.event_to_child(layer, Settle())

    def _is_of_the_past(self, event: events.Event) -> bool:
        """Whether it is the last word of a connection that was forgotten."""
        return (
            isinstance(event, events.ConnectionEvent)
            and event.connection not in self.connections
            and event.connection is not self.context.server
        )

    def make_stream(self, stream_id: int) -> CommandGenerator[None]:
        """[T11] Stock keeps every origin connection that it ever had, and looks through all of them for each request."""
        if len(self.connections) > _KEPT:
            used = {stream.context.server for stream in self.streams.values()} | {self.context.client, self.context.server}
            for connection in [c for c in self.connections if c.state is ConnectionState.CLOSED and c not in used]:
                if connection not in self.waiting_for_establishment:
                    del self.connections[connection]
                    self.paced.pop(connection, None)
        yield from super().make_stream(stream_id)

    def may_go_on(self, connection: Connection, stream_id: int) -> bool:
        """Whether what `connection` sent on this stream has left, or nearly so."""
        stream = self.streams.get(stream_id)
        if stream is None:
            return True
        if stream._paused is not None:  # it is decided, or dialled
            return False
        other = stream.context.server if connection is self.context.client else self.context.client
        if other in self.paced and self.paced[other][1](stream_id) > BEHIND:
            return False
        watcher = watcher_of(self.context.client)
        if watcher is None or watcher.unsent(other) <= BEHIND:
            return True
        watcher.settle_when_sent(other)
        return False

    def pressure(self, connection: Connection) -> int:
        """Bytes kept because of what was read from `connection`, where it has no windows (HTTP/1) to hold them back."""
        if connection in self.paced:
            return 0
        if connection is self.context.client:
            layer: Any = self.connections.get(connection)
            kept = len(layer.buf) if isinstance(layer, Http1Connection) and layer.state == layer.wait else 0
            return kept + sum(self._held(stream_id) for stream_id in self.streams)
        paced = self.paced.get(self.context.client)
        if paced is None or not paced[0].stream_buffers:
            return 0
        return sum(paced[1](n) for n, stream in self.streams.items() if stream.context.server is connection)

    def backlog(self, connection: Connection) -> int:
        """Bytes that wait for the window of an HTTP/2 peer."""
        paced = self.paced.get(connection)
        return 0 if paced is None else sum(len(c.data) for queue in paced[0].stream_buffers.values() for c in queue)

    def _held(self, stream_id: int) -> int:
        stream = self.streams[stream_id]
        held = sum(len(e.data) for e in stream._paused_event_queue if isinstance(e, RequestData)) if stream._paused else 0
        paced = self.paced.get(stream.context.server)
        return held if paced is None else held + paced[1](stream_id)


def http_layer_of(context: Context) -> HttpLayer | None:
    """The HTTP layer that a connection's layer belongs to."""
    return next((layer for layer in reversed(context.layers) if isinstance(layer, HttpLayer)), None)
