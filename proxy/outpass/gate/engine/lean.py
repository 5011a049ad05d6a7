"""The engine's own small functions, written again without what they do in vain: same results, less of the processor.

Lives here: replacements that change nothing but the cost; tests/unit/gate/test_lean.py holds each against the original. May
not live here: anything that behaves otherwise (those are h1.py, h2.py, stream.py, with a defect's number each).

Measured per request before: 142 generator frames of `Layer.handle_event` with tests for a debugging aid, 20 look-ups of a header
that encode, decode and lower every name, a Server object that nobody uses, two random UUIDs.
"""

from __future__ import annotations

from collections.abc import Generator
from functools import lru_cache
from itertools import count
from typing import Any, Final

from h11._readers import ContentLengthReader
from hpack.exceptions import HPACKDecodingError
from hpack.huffman_table import HUFFMAN_COMPLETE, HUFFMAN_EMIT_SYMBOL, HUFFMAN_FAIL, HUFFMAN_TABLE
from mitmproxy import http, optmanager
from mitmproxy.net.http import url
from mitmproxy.net.http.http1 import read
from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers import http as layers_http
from mitmproxy.proxy.layers.http import _http1
from mitmproxy.proxy.layers.http._base import ReceiveHttp
from mitmproxy.proxy.layers.http._events import RequestHeaders

Commands = Generator[Any, Any, None]


# --- layers ----------------------------------------------------------------------------------------------------------


def handle_event(self: Any, event: events.Event) -> Commands:
    """`Layer.handle_event` without its `debug`."""
    paused = self._paused
    if paused is None:
        running = self._handle_event(event)
        for command in running:
            if command.blocking is True:
                # Only this layer waits; outer layers look for `is True`.
                command.blocking = self
                self._paused = layer.Paused(command, running)
                yield command
                return
            yield command
    elif isinstance(event, events.CommandCompleted) and event.command is paused.command:
        self._paused = None
        yield from _resumed(self, paused.generator, event)
        queue = self._paused_event_queue
        while queue and self._paused is None:
            yield from handle_event(self, queue.popleft())
    else:
        self._paused_event_queue.append(event)


def _resumed(self: Any, running: Any, event: events.CommandCompleted) -> Commands:
    """Go on with a generator that waited for the reply in `event`."""
    try:
        command = running.send(event.reply)
        while True:
            if command.blocking is True:
                command.blocking = self
                self._paused = layer.Paused(command, running)
                yield command
                return
            yield command
            command = next(running)
    except StopIteration:
        return


def event_to_child(self: Any, child: Any, event: events.Event) -> Commands:
    """`HttpLayer.event_to_child`, with the commands of every request first."""
    for command in child.handle_event(event):
        kind = type(command)
        if kind is commands.SendData:
            yield command
        elif kind is ReceiveHttp:
            inner = command.event
            if isinstance(inner, RequestHeaders):
                yield from self.make_stream(inner.stream_id)
            stream = self.streams.get(inner.stream_id)
            if stream is not None:  # else it is over; see mitmproxy issue 5343
                yield from self.event_to_child(stream, inner)
        elif kind is layers_http.SendHttp:
            yield from self.event_to_child(self.connections[command.connection], command.event)
        else:
            yield from _rare(self, child, command)


def _rare(self: Any, child: Any, command: commands.Command) -> Commands:
    if command.blocking or isinstance(command, commands.RequestWakeup):
        self.command_sources[command] = child
    if isinstance(command, layers_http.DropStream):
        self.streams.pop(command.stream_id, None)
    elif isinstance(command, layers_http.GetHttpConnection):
        yield from self.get_connection(command)
    elif isinstance(command, layers_http.RegisterHttpConnection):
        yield from self.register_connection(command)
    else:
        if isinstance(command, commands.OpenConnection):
            self.connections[command.connection] = child
        yield command


def http_event(self: Any, event: events.Event) -> Commands:
    """`HttpLayer._handle_event`, with what comes on a known connection first."""
    if type(event) is events.DataReceived:
        known = self.connections.get(event.connection)
        if known is not None:
            yield from self.event_to_child(known, event)
            return
    yield from _http_event(self, event)


_http_event: Final = layers_http.HttpLayer._handle_event


def http1_event(self: Any, event: events.Event) -> Commands:
    """`Http1Connection._handle_event`: what comes of a body of known length goes on as it is, not through a buffer of h11's."""
    if type(event) is events.DataReceived and self.state == self.read_body and not self.buf:
        reader, data = self.body_reader, event.data
        if type(reader) is ContentLengthReader and 0 < len(data) <= reader._remaining:
            reader._remaining -= len(data)
            yield ReceiveHttp(self.ReceiveData(self.stream_id, data))
            if reader._remaining == 0:
                yield from self.read_body(event)
            return
    yield from _http1_event(self, event)


_http1_event: Final = _http1.Http1Connection._handle_event


def new(cls: type[Any], *_: object, **__: object) -> Any:
    """`object.__new__`, for classes whose own only checks the class."""
    return object.__new__(cls)


# --- messages --------------------------------------------------------------------------------------------------------


def get_all(self: http.Headers, name: str | bytes) -> list[str]:
    """`Headers.get_all`: the values of a field, by its name in any case."""
    key = (name.encode("utf-8", "surrogateescape") if isinstance(name, str) else name).lower()
    return [value.decode("utf-8", "surrogateescape") for found, value in self.fields if found.lower() == key]


def getitem(self: http.Headers, name: str | bytes) -> str:
    """`Headers[name]`: the values of a field, joined."""
    values = get_all(self, name)
    if not values:
        raise KeyError(name)
    return ", ".join(values)


def get(self: http.Headers, name: str | bytes, default: Any = None) -> Any:
    """`Headers.get`."""
    values = get_all(self, name)
    return ", ".join(values) if values else default


def contains(self: http.Headers, name: object) -> bool:
    """`name in Headers`."""
    if not isinstance(name, (str, bytes)):
        return bool(_contains(self, name))
    key = (name.encode("utf-8", "surrogateescape") if isinstance(name, str) else name).lower()
    return any(found.lower() == key for found, _ in self.fields)


_contains: Final[Any] = http.Headers.__contains__


def expected_http_body_size(request: http.Request, response: http.Response | None = None) -> int | None:
    """The engine's function of that name: a request without either framing field has no body (RFC 9112, section 6.3)."""
    if response is None:
        for name, _ in request.data.headers.fields:
            if name.lower() in _FRAMING:
                return _body_size(request, response)
        return 0
    return _body_size(request, response)


_body_size: Final = read.expected_http_body_size
_FRAMING: Final = frozenset((b"transfer-encoding", b"content-length"))


def parse_authority(authority: Any, check: bool) -> tuple[str, int | None]:
    """The engine's function of that name, which asks the IDNA codec about the same few hosts six times a request."""
    return _parsed(authority, check) if len(authority) <= _LONGEST_AUTHORITY else _parse_authority(authority, check)


_parse_authority: Final = url.parse_authority
_parsed: Final = lru_cache(maxsize=4096, typed=True)(_parse_authority)
_LONGEST_AUTHORITY: Final = 262
"""A name (253), brackets or a colon, and a port: what is longer is not worth keeping."""


def current(self: Any) -> Any:
    """`_Option.current`: what cannot be changed need not be copied."""
    value = self.value
    return value if type(value) in _IMMUTABLE else _current(self)


_current: Final[Any] = optmanager._Option.current
_IMMUTABLE: Final = frozenset((bool, int, float, str, type(None)))


# --- connections and contexts ----------------------------------------------------------------------------------------


def fork(self: Context) -> Context:
    """`Context.fork` without a Server that is thrown away at once."""
    made = Context.__new__(Context)
    made.client, made.options, made.server = self.client, self.options, self.server
    made.layers = self.layers.copy()
    return made


class Numbers:
    """Stands where the engine has the module `uuid`: names of flows and connections, unique in this process, no secret."""

    _next: Final = count(1).__next__

    @classmethod
    def uuid4(cls) -> str:
        """The next one."""
        return f"{cls._next():x}"


# --- HTTP/2 ----------------------------------------------------------------------------------------------------------


class Quiet:
    """Stands where hpack has a logger that it asks 44 times per request whether anybody listens."""

    def debug(self, *_: object) -> None:
        """Nobody does."""


def decode_huffman(data: bytes | bytearray | memoryview | None) -> bytes:
    """hpack's function of that name, a byte at a time: what a byte does in a state is worked out once."""
    if not data:
        return b""
    state, complete, made = _START, False, []
    for byte in bytes(data):
        state, emitted, complete = state[byte]
        made.append(emitted)
    if not complete:
        raise HPACKDecodingError("Incomplete Huffman string")
    return b"".join(made)


def decode_pass(data: bytes) -> bytes:
    """As `decode_huffman`, for passes: they begin alike, and what a part becomes in a state is remembered for a while.

    For nothing else: a pass is good once, and other long values are secrets for longer than that.
    """
    number, complete, made = 0, False, []
    for at in range(0, len(data), _PART):
        number, emitted, complete = _part(number, data[at : at + _PART])
        made.append(emitted)
    if data and not complete:
        raise HPACKDecodingError("Incomplete Huffman string")
    return b"".join(made)


@lru_cache(maxsize=1024)
def _part(number: int, data: bytes) -> tuple[int, bytes, bool]:
    """The state after `data`, what is emitted, and whether the text may end there. Errors are not kept."""
    state, complete, made = _STATES[number], False, []
    for byte in data:
        state, emitted, complete = state[byte]
        made.append(emitted)
    return state._number, b"".join(made), complete


_PART: Final = 32


class _State(dict[int, tuple[Any, bytes, bool]]):
    """A state of hpack's table: by byte, the next state, what is emitted, and whether the text may end there."""

    __slots__ = ("_number",)

    def __init__(self, number: int) -> None:
        self._number = number

    def __missing__(self, byte: int) -> tuple[_State, bytes, bool]:
        """Two nibbles of the table. Raises HPACKDecodingError, which is not remembered."""
        emitted, number, flags = bytearray(), self._number, 0
        for nibble in (byte >> 4, byte & 15):
            number, flags, symbol = HUFFMAN_TABLE[number * 16 + nibble]
            if flags & HUFFMAN_FAIL:
                raise HPACKDecodingError("Invalid Huffman string")
            if flags & HUFFMAN_EMIT_SYMBOL:
                emitted.append(symbol)
        step = self[byte] = _STATES[number], bytes(emitted), bool(flags & HUFFMAN_COMPLETE)
        return step


_STATES: Final = tuple(_State(number) for number in range(len(HUFFMAN_TABLE) // 16))
"""256 bytes in each of 256 states: 65 536 steps at most, and only those that were met."""
_START: Final = _STATES[0]
