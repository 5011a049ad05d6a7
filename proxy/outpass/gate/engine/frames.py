"""The HTTP/2 library's own functions (h2, hpack, hyperframe), written again for what is plainly right, as nearly everything is.

Lives here: replacements that change nothing but the cost. Whatever is not plainly right goes to the library's own function,
which refuses it, or not, in its own words; tests/unit/gate/test_frames.py holds each against it. May not live here: bounds,
what a frame means to the gate (h2.py, pacing.py).

Measured per request before: 12 fields through seven generators each, a Python loop over every byte of every value, 36 look-ups
of a flag by name, two copies of each frame and one of all that follows it (quadratic in what was read).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from typing import Any, Final

import h2.config
import h2.connection
import h2.frame_buffer
import h2.stream
import h2.utilities
from h2.events import Event
from h2.exceptions import ProtocolError
from h2.stream import StreamState
from hpack.exceptions import HPACKDecodingError, OversizedHeaderListError
from hpack.hpack import INDEX_INCREMENTAL, Decoder, Encoder
from hpack.struct import HeaderTuple, NeverIndexedHeaderTuple
from hpack.table import HeaderTable
from hyperframe.frame import DataFrame, Frame, HeadersFrame, WindowUpdateFrame

from outpass.gate.engine.lean import decode_huffman, decode_pass
from outpass.gate.head import TOKEN_HEADER

Fields = list[Any]


# --- frames ----------------------------------------------------------------------------------------------------------


class Flags(set[str]):
    """hyperframe's Flags: a set that takes known names only."""

    __slots__ = ("_defined",)

    def __init__(self, defined: Any) -> None:
        self._defined = defined

    def add(self, value: str) -> None:
        """Raises ValueError for a name that this kind of frame does not have."""
        if all(flag.name != value for flag in self._defined):
            known = {flag.name for flag in self._defined}
            raise ValueError(f"Unexpected flag: {value}. Valid flags are: {known}")
        set.add(self, value)


def data_frame(self: Any, stream_id: int, data: bytes = b"", **kwargs: Any) -> None:
    """`DataFrame.__init__` without the two above it."""
    if kwargs or not stream_id:
        _data_frame(self, stream_id, data, **kwargs)
        return
    self.stream_id, self.flags, self.body_len, self.pad_length, self.data = stream_id, Flags(_DATA_FLAGS), 0, 0, data


def headers_frame(self: Any, stream_id: int, data: bytes = b"", **kwargs: Any) -> None:
    """`HeadersFrame.__init__` without the three above it."""
    if kwargs or not stream_id:
        _headers_frame(self, stream_id, data, **kwargs)
        return
    self.stream_id, self.flags, self.body_len, self.pad_length, self.data = stream_id, Flags(_HEADERS_FLAGS), 0, 0, data
    self.depends_on, self.stream_weight, self.exclusive = 0, 0, False


def serialize(self: Any) -> bytes:
    """`Frame.serialize`, for DATA and HEADERS without padding and priority."""
    kind, flags = type(self), self.flags
    if (kind is not DataFrame and kind is not HeadersFrame) or type(self.data) is not bytes or self.pad_length:
        return bytes(_serialize(self))
    if "PADDED" in flags or "PRIORITY" in flags:
        return bytes(_serialize(self))
    data = self.data
    size = self.body_len = len(data)
    bits = (0x01 if "END_STREAM" in flags else 0) | (0x04 if "END_HEADERS" in flags else 0)
    return _HEAD.pack(size >> 8 & 0xFFFF, size & 0xFF, kind.type, bits, self.stream_id & 0x7FFFFFFF) + data


def next_frame(self: Any) -> Any:
    """`FrameBuffer.__next__`: a whole DATA or HEADERS frame, not padded, of no split block, is cut out of the buffer once; so is
    WINDOW_UPDATE."""
    data = self._data
    if len(data) < 9:
        raise StopIteration
    high, low, kind, bits, stream_id = _HEAD.unpack_from(data)
    length = high << 8 | low
    if kind == 8 and length == 4 and len(data) >= 13 and not self._headers_buffer:
        increment = int.from_bytes(data[9:13])
        if 0 < increment <= 0x7FFFFFFF and self.max_frame_size >= 4:
            del data[:13]
            update = WindowUpdateFrame(stream_id & 0x7FFFFFFF, increment)
            update.body_len = 4
            return update
    if (
        kind > 1
        or bits & 0x28
        or (kind and not bits & 0x04)
        or not stream_id & 0x7FFFFFFF
        or len(data) < length + 9
        or length > self.max_frame_size
        or self._headers_buffer
    ):
        return _next_frame(self)
    with memoryview(data) as view:
        body = bytes(view[9 : length + 9])
    del data[: length + 9]
    frame: Any = (HeadersFrame if kind else DataFrame)(stream_id & 0x7FFFFFFF, body)
    frame.body_len = length
    if bits & 0x01:
        set.add(frame.flags, "END_STREAM")
    if kind:
        set.add(frame.flags, "END_HEADERS")
    return frame


def prepare_for_sending(self: Any, frames: list[Frame]) -> None:
    """`H2Connection._prepare_for_sending`."""
    for frame in frames:
        if type(frame) is DataFrame and type(frame.data) is bytes and not frame.pad_length and "PADDED" not in frame.flags:
            data = frame.data  # a body is not copied once more, to stand behind its nine bytes
            size = frame.body_len = len(data)
            bits = 0x01 if "END_STREAM" in frame.flags else 0
            self._data_to_send += _HEAD.pack(size >> 8 & 0xFFFF, size & 0xFF, 0, bits, frame.stream_id & 0x7FFFFFFF)
            self._data_to_send += data
        else:
            self._data_to_send += frame.serialize()
        assert frame.body_len <= self.max_outbound_frame_size


def data_to_send(self: Any, amount: int | None = None) -> Any:
    """`H2Connection.data_to_send`: the buffer itself, which nobody writes to any more."""
    if amount is not None:
        return _data_to_send(self, amount)
    data, self._data_to_send = self._data_to_send, bytearray()
    return data


_data_to_send: Final[Any] = h2.connection.H2Connection.data_to_send
_HEAD: Final = struct.Struct(">HBBBL")
_DATA_FLAGS: Final = DataFrame.defined_flags
_HEADERS_FLAGS: Final = HeadersFrame.defined_flags
_data_frame: Final[Any] = DataFrame.__init__
_headers_frame: Final[Any] = HeadersFrame.__init__
_serialize: Final[Any] = Frame.serialize
_next_frame: Final[Any] = h2.frame_buffer.FrameBuffer.__next__


# --- states ----------------------------------------------------------------------------------------------------------


def connection_input(self: Any, input_: Any) -> list[Event]:
    """`H2ConnectionStateMachine.process_input`: its transitions only ever change the state."""
    target = _CONNECTION.get((self.state._value_, input_._value_))
    if target is None:
        return _connection_input(self, input_)  # type: ignore[no-any-return]
    self.state = target
    return []


def stream_input(self: Any, input_: Any) -> list[Event]:
    """`H2StreamStateMachine.process_input`, with a key that is not hashed in Python."""
    step = _STREAM.get((self.state._value_, input_._value_))
    if step is None:
        return _stream_input(self, input_)  # type: ignore[no-any-return]
    call, target = step
    previous, self.state = self.state, target
    if call is None:
        return []
    try:
        return call(self, previous)  # type: ignore[no-any-return]
    except ProtocolError:
        self.state = StreamState.CLOSED
        raise
    except AssertionError as error:
        self.state = StreamState.CLOSED
        raise ProtocolError(error) from error


_connection_input: Final[Any] = h2.connection.H2ConnectionStateMachine.process_input
_stream_input: Final[Any] = h2.stream.H2StreamStateMachine.process_input
_CONNECTION: Final = {
    (state._value_, input_._value_): target
    for (state, input_), (_, target) in h2.connection.H2ConnectionStateMachine._transitions.items()
}
_STREAM: Final[dict[Any, Any]] = {(state._value_, at._value_): step for (state, at), step in h2.stream._transitions.items()}


# --- fields ----------------------------------------------------------------------------------------------------------


def validate_headers(headers: Any, flags: h2.utilities.HeaderValidationFlags) -> Any:
    """`h2.utilities.validate_headers`: one look at each field; at the least doubt the library looks itself."""
    return headers if type(headers) is list and _plain(headers, flags) else _validate_headers(headers, flags)


def _plain(fields: Fields, flags: h2.utilities.HeaderValidationFlags) -> bool:
    """Whether nothing about the fields could be wrong; False says nothing."""
    pseudo: dict[bytes, bytes] = {}
    host, regular = None, False
    for name, value in fields:
        if (name not in _KNOWN and not _NAME(name)) or not _VALUE(value) or name in _DOUBTFUL:
            return False
        if name[0] != 0x3A:
            regular = True
            if name == b"host":
                host = value
        elif regular or name in pseudo or name not in _PSEUDO:
            return False
        else:
            pseudo[name] = value
    if flags.is_response_header:
        return len(pseudo) == 1 and b":status" in pseudo and not flags.is_trailer
    if flags.is_trailer:
        return not pseudo
    authority = pseudo.get(b":authority", host)
    return (
        b":method" in pseudo
        and b":scheme" in pseudo
        and bool(pseudo.get(b":path"))
        and b":status" not in pseudo
        and authority is not None
        and (host is None or host == authority)
    )


_validate_headers: Final[Any] = h2.utilities.validate_headers
_NAME: Final = re.compile(rb":?[!-9;-@\[-~]+").fullmatch
_VALUE: Final = re.compile(rb"(?:[^\0\n\r \t](?:[^\0\n\r]*[^\0\n\r \t])?)?").fullmatch
_PSEUDO: Final = frozenset((b":method", b":scheme", b":path", b":authority", b":status"))
_DOUBTFUL: Final = h2.utilities.CONNECTION_HEADERS | {b"te"}
_KNOWN: Final = frozenset(name for name, _ in HeaderTable.STATIC_TABLE if _NAME(name))


def utf8_encode_headers(headers: Any) -> Fields:
    """`h2.utilities.utf8_encode_headers`: pairs of bytes are what they are."""
    fields = list(headers)
    for field in fields:
        if type(field) is not tuple or len(field) != 2 or type(field[0]) is not bytes or type(field[1]) is not bytes:
            return _utf8_encode_headers(fields)  # type: ignore[no-any-return]
    return fields


_utf8_encode_headers: Final[Any] = h2.utilities.utf8_encode_headers


class Config(h2.config.H2Configuration):
    """The library's, with its switches as plain attributes: it asks them 17 times a request."""

    client_side = True
    validate_outbound_headers = True
    normalize_outbound_headers = True
    split_outbound_cookies = False
    validate_inbound_headers = True
    normalize_inbound_headers = True


# --- hpack -----------------------------------------------------------------------------------------------------------


def decode(self: Decoder, data: bytes, raw: bool = False) -> Any:
    """`Decoder.decode`, without a copy of the rest of the block for each field."""
    if not raw or type(data) is not bytes:
        return _decode(self, data, raw)
    fields: Fields = []
    table, inflated, at, end = self.header_table, 0, 0, len(data)
    while at < end:
        first = data[at]
        if first & 0x80:
            index, at = (first & 0x7F, at + 1) if first != 0xFF else _integer(data, at, 0x7F)
            field = tuple.__new__(HeaderTuple, table.get_by_index(index))
        elif first & 0x60 == 0x20:
            if fields:
                raise HPACKDecodingError("Table size update not at the start of the block")
            at += self._update_encoding_context(data[at : at + 8])
            continue
        else:
            indexed = bool(first & 0x40)
            name, value, at = _literal(table, data, at, 0x3F if indexed else 0x0F)
            field = tuple.__new__(NeverIndexedHeaderTuple if first & 0x50 == 0x10 else HeaderTuple, (name, value))
            if indexed:
                table.add(name, value)
        fields.append(field)
        inflated += 32 + len(field[0]) + len(field[1])
        if inflated > self.max_header_list_size:
            raise OversizedHeaderListError(f"A header list larger than {self.max_header_list_size} has been received")
    self._assert_valid_table_size()
    return fields


def _literal(table: HeaderTable, data: bytes, at: int, mask: int) -> tuple[bytes, bytes, int]:
    """(name, value, where the next field begins) of a literal whose name is an index under `mask`, or a literal too."""
    if data[at] & mask:
        index, at = _integer(data, at, mask)
        name = table.get_by_index(index)[0]
    else:
        name, at = _text(data, at + 1)
    value, at = _text(data, at, decode_pass if name == TOKEN_HEADER else decode_huffman)
    return name, value, at


def _text(data: bytes, at: int, inflated: Callable[[bytes], bytes] = decode_huffman) -> tuple[bytes, int]:
    length, start = _integer(data, at, 0x7F)
    text = data[start : start + length]
    if len(text) != length:
        raise HPACKDecodingError("Truncated header block")
    return (inflated(text) if data[at] & 0x80 else text), start + length


def _integer(data: bytes, at: int, mask: int) -> tuple[int, int]:
    """hpack's decode_integer, from `at`: (number, where what follows begins)."""
    try:
        number = data[at] & mask
        begun, shift = at, 0
        at += 1
        if number == mask:
            while True:
                byte = data[at]
                at += 1
                number += (byte & 0x7F) << shift
                if byte < 128:
                    break
                shift += 7
                if at - begun > _LONGEST:
                    raise HPACKDecodingError("Variable integer representation is too long")
    except IndexError:
        raise HPACKDecodingError("Unable to decode HPACK integer representation") from None
    return number, at


_LONGEST: Final = 5
_decode: Final[Any] = Decoder.decode


def add(self: Encoder, to_add: tuple[bytes, bytes], sensitive: bool, huffman: bool = False) -> bytes:
    """`Encoder.add`: most fields are in one of the tables, and one byte."""
    if sensitive:
        return _add(self, to_add, sensitive, huffman)  # type: ignore[no-any-return]
    name, value = to_add
    found = self.header_table.search(name, value)
    if found is None:
        encoded = self._encode_literal(name, value, INDEX_INCREMENTAL, huffman)
    elif found[2] is None:
        encoded = self._encode_indexed_literal(found[0], value, INDEX_INCREMENTAL, huffman)
    else:
        return _INDEXED[found[0]] if found[0] < 0x7F else self._encode_indexed(found[0])
    self.header_table.add(name, value)
    return encoded


_add: Final[Any] = Encoder.add
_INDEXED: Final = tuple(bytes((0x80 | index,)) for index in range(0x7F))
