"""A websocket after its handshake: frames pass as they are, and each asks again whether it may.

Lives here: where a frame begins and ends (RFC 6455, section 5.2), and how a connection is told that it is over. May not live
here: the right itself (addon.py), the handshake (handshake.py), messages: nothing is unmasked, inflated or kept.
"""

from __future__ import annotations

import secrets
import struct
from collections.abc import Callable
from typing import Final

from mitmproxy import http
from mitmproxy.connection import Connection
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layer import CommandGenerator
from mitmproxy.proxy.layers import websocket as engine_websocket

from outpass.gate.engine.pacing import Nudge
from outpass.gate.engine.watcher import METER, Meter, watcher_of
from outpass.reasons import Reason

RIGHT: Final = "outpass.right"
"""Key of flow.metadata: a callable that says whether the next frame may pass. Without one, none may."""
MOVED: Final = "outpass.moved"
"""Key of flow.metadata: [bytes from the client, bytes from the origin], counted as they are sent on."""

GOING_AWAY: Final = 1001
PROTOCOL_ERROR: Final = 1002
POLICY: Final = 1008
_OPCODES: Final = frozenset((0, 1, 2, 8, 9, 10))
_CLOSE: Final = 8
_REASONS: Final = {
    GOING_AWAY: b"the gate is shutting down",
    PROTOCOL_ERROR: b"not a websocket frame",
    POLICY: b"no longer allowed",
}


class Farewell(Nudge):
    """The connection must end: the gate leaves, or the right that it relied on is gone."""


class Bad(Exception):
    """Bytes that are no frame."""


class Frames:
    """Follows the frames of one direction; keeps at most the 14 bytes of a frame's head."""

    def __init__(self, *, masked: bool) -> None:
        """`masked`: from a client, whose frames must be (RFC 6455, section 5.1); an origin's must not."""
        self._masked = masked
        self._head = b""
        self._left = 0

    @property
    def between(self) -> bool:
        """No frame is half sent, so that one of ours may come next."""
        return not self._left

    def take(self, data: bytes, allowed: Callable[[], bool]) -> tuple[bytes, bool]:
        """What of `data` may be sent on, and whether that is all; asks `allowed` at the head of every frame but close.

        Raises Bad.
        """
        out: list[bytes] = []
        at = 0
        while at < len(data):
            if self._left:
                piece = data[at : at + self._left]
                at += len(piece)
                self._left -= len(piece)
                out.append(piece)
                continue
            missing = self._missing()
            self._head += data[at : at + missing]
            at += missing
            if self._missing():
                continue
            opcode, size = self._parse()
            if opcode != _CLOSE and not allowed():
                return b"".join(out), False
            out.append(self._head)
            self._head, self._left = b"", size
        return b"".join(out), True

    def _missing(self) -> int:
        """Bytes that the head still lacks, as far as is known."""
        if len(self._head) < 2:
            return 2 - len(self._head)
        extra = {126: 2, 127: 8}.get(self._head[1] & 0x7F, 0)
        return 2 + extra + (4 if self._head[1] & 0x80 else 0) - len(self._head)

    def _parse(self) -> tuple[int, int]:
        first, second = self._head[0], self._head[1]
        opcode, size = first & 0x0F, second & 0x7F
        if opcode not in _OPCODES or bool(second & 0x80) != self._masked:
            raise Bad
        if opcode >= _CLOSE and (not first & 0x80 or size > 125):
            raise Bad
        if size == 126:
            (size,) = struct.unpack("!H", self._head[2:4])
        elif size == 127:
            (size,) = struct.unpack("!Q", self._head[2:10])
            if size >> 63:
                raise Bad
        return opcode, size


class WebsocketLayer(engine_websocket.WebsocketLayer):
    """[W1] Stock keeps every message whole, and all of them; inflates and deflates anew; and lets nobody stop a message."""

    def __init__(self, context: Context, flow: http.HTTPFlow) -> None:
        super().__init__(context, flow)
        self._frames = {context.client: Frames(masked=True), context.server: Frames(masked=False)}
        self._moved: list[int] = flow.metadata.setdefault(MOVED, [0, 0])

        self._state: Callable[[events.Event], CommandGenerator[None]] = self.begin

    def _handle_event(self, event: events.Event) -> CommandGenerator[None]:
        yield from self._state(event)

    def begin(self, _: events.Event) -> CommandGenerator[None]:
        """State: the handshake is done."""
        self._state = self.relay
        yield engine_websocket.WebsocketStartHook(self.flow)

    def relay(self, event: events.Event) -> CommandGenerator[None]:
        """State: frames go both ways."""
        if isinstance(event, Farewell):
            yield from self._end(GOING_AWAY if self._allowed() else POLICY)
        elif isinstance(event, events.ConnectionClosed):
            yield from self._over()
        elif isinstance(event, events.DataReceived):
            source = event.connection
            try:
                data, whole = self._frames[source].take(event.data, self._allowed)
            except Bad:
                watcher = watcher_of(self.context.client)
                if watcher is not None and source is self.context.client:
                    watcher.refuse(Reason.BAD_REQUEST, "what follows the websocket handshake is not a frame")
                yield from self._end(PROTOCOL_ERROR)
                return
            meter: Meter | None = self.flow.metadata.get(METER)
            if meter is not None:
                size = len(data)
                data = data[: meter.out(size) if source is self.context.client else meter.back(size)]
                used_up = len(data) < size
            else:
                used_up = False
            if data:
                self._moved[source is not self.context.client] += len(data)
                yield commands.SendData(self._other(source), data)
            if used_up:  # in the middle of a frame, where no other can be said
                yield from self._over()
            elif not whole:
                yield from self._end(POLICY)

    def _allowed(self) -> bool:
        right: Callable[[], bool] | None = self.flow.metadata.get(RIGHT)
        return right is not None and right()

    def _other(self, connection: Connection) -> Connection:
        return self.context.server if connection is self.context.client else self.context.client

    def _end(self, code: int) -> CommandGenerator[None]:
        """Tell both sides why, where a frame can still be told from the one before it, and close."""
        payload = struct.pack("!H", code) + _REASONS[code]
        if self._frames[self.context.server].between:
            yield commands.SendData(self.context.client, bytes((0x80 | _CLOSE, len(payload))) + payload)
        if self._frames[self.context.client].between:
            key = secrets.token_bytes(4)
            masked = bytes(b ^ key[n % 4] for n, b in enumerate(payload))
            yield commands.SendData(self.context.server, bytes((0x80 | _CLOSE, 0x80 | len(payload))) + key + masked)
        yield from self._over()

    def _over(self) -> CommandGenerator[None]:
        self._state = self.done
        for connection in (self.context.client, self.context.server):  # what was written before still goes out
            yield commands.CloseConnection(connection)
        yield engine_websocket.WebsocketEndHook(self.flow)
        self.flow.live = False

    def done(self, _: events.Event) -> CommandGenerator[None]:
        """State: over."""
        yield from ()
