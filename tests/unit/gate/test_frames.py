"""The cheaper functions of the HTTP/2 library give what the library's own give."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import h2.config
import h2.connection
import h2.frame_buffer
import h2.stream
import h2.utilities
import hyperframe.flags
import hyperframe.frame
import pytest
from h2.exceptions import ProtocolError
from hpack import hpack
from hpack.exceptions import HPACKError, OversizedHeaderListError
from hpack.struct import HeaderTuple, NeverIndexedHeaderTuple
from hyperframe.exceptions import HyperframeError
from hyperframe.frame import DataFrame, Frame, HeadersFrame
from hypothesis import example, given
from hypothesis import strategies as st
from mitmproxy import optmanager
from mitmproxy.net.http import url

from outpass.gate.engine import frames, lean
from outpass.gate.engine.install import CHEAPER, ORIGINALS

LIBRARY = [
    (r.module, r.name, original) for r, original in zip(CHEAPER, ORIGINALS, strict=True) if r.ours in vars(frames).values()
]
OURS = [(r.module, r.name, r.ours) for r in CHEAPER if r.ours in vars(frames).values()]
NAMES = st.sampled_from(
    [  # noqa: RUF005
        b":method",
        b":scheme",
        b":path",
        b":authority",
        b":status",
        b":protocol",
        b":",
        b":x",
        b"",
        b"host",
        b"te",
        b"x",
        b"cookie",
        b"X",
    ]
    + [b"a b", b"a:b", b"\x00", b"\x7f", b"\xff", b"connection", b"transfer-encoding", b"upgrade", b"content-length"]
)
VALUES = st.one_of(
    st.sampled_from(
        [b"", b"GET", b"CONNECT", b"/", b"a", b"b", b"trailers", b" a", b"a\t", b"a b", b"a\0b", b"a\nb", b"\r", b"\x0b", b"\xff"]
    ),
    st.binary(max_size=6),
)
HEAD = [(b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/"), (b":authority", b"a")]
FIELDS = st.lists(st.tuples(NAMES, VALUES), max_size=6)
FLAGS = st.builds(h2.utilities.HeaderValidationFlags, st.booleans(), st.booleans(), st.booleans(), st.booleans())
BLOCKS = st.one_of(
    st.binary(max_size=40),
    st.lists(
        st.sampled_from(
            [
                b"\x82",
                b"\xbe",
                b"\xbf",
                b"\x80",
                b"\xff\x00",
                b"\x41\x01a",
                b"\x40\x01b\x82\x1d\x1d",
                b"\x10\x01c\x01d",
                b"\x00\x00\x00",
            ]
        )
        | st.sampled_from(
            [
                b"\x3f\x00",
                b"\x20",
                b"\x3f\xe1\x1f",
                b"\x3f\xe2\x1f",
                b"\x7f\x00\x01a",
                b"\x0f\xff\xff\xff\xff\xff\xff",
                b"\x40\x7f\x00a",
            ]
        ),
        max_size=8,
    ).map(b"".join),
)


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    before = [(module, name, getattr(module, name)) for module, name, _ in LIBRARY]
    yield
    _use(before)


def _use(which: list[tuple[Any, str, Any]]) -> None:
    for module, name, function in which:
        setattr(module, name, function)


def _outcome(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except (ProtocolError, HPACKError, ValueError, AssertionError, IndexError, KeyError, StopIteration, HyperframeError) as error:
        return type(error)


def _both(call: Callable[[], Any]) -> tuple[Any, Any]:
    """What `call` gives with our functions in the library, and with its own."""
    _use(OURS)
    ours = _outcome(call)
    _use(LIBRARY)
    return ours, _outcome(call)


@given(st.one_of(FIELDS, FIELDS.map(lambda more: HEAD + more), FIELDS.map(lambda more: [(b":status", b"200"), *more])), FLAGS)
def test_fields_are_refused_exactly_where_the_library_refuses_them(fields: list[tuple[bytes, bytes]], flags: Any) -> None:
    """Invariant: for any fields, of a request, an answer or a trailer, verdict, words and result equal the library's."""

    def said(validate: Any) -> Any:
        try:
            return list(validate(list(fields), flags))
        except (ProtocolError, IndexError) as error:
            return type(error), str(error)

    assert said(frames.validate_headers) == said(frames._validate_headers)


@pytest.mark.parametrize("name", [*sorted(h2.utilities.CONNECTION_HEADERS), b"te", b"host", b"X", b":path", b":new", b":status"])
def test_one_wrong_field_in_a_good_head_is_refused(name: bytes) -> None:
    with pytest.raises(ProtocolError):
        list(frames.validate_headers([*HEAD, (name, b"other")], h2.utilities.HeaderValidationFlags(False, False, False, False)))


@pytest.mark.parametrize("value", [b" a", b"a\t", b"a\0b", b"a\nb", b"a\r"])
def test_one_wrong_value_in_a_good_head_is_refused(value: bytes) -> None:
    with pytest.raises(ProtocolError):
        list(frames.validate_headers([*HEAD, (b"x", value)], h2.utilities.HeaderValidationFlags(False, False, False, False)))


@pytest.mark.parametrize("missing", HEAD)
def test_a_head_without_one_of_its_fields_is_refused(missing: tuple[bytes, bytes]) -> None:
    rest = [field for field in HEAD if field is not missing]
    with pytest.raises(ProtocolError):
        list(frames.validate_headers(rest, h2.utilities.HeaderValidationFlags(False, False, False, False)))


def test_an_ordinary_head_is_not_handed_to_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "_validate_headers", lambda *_: pytest.fail("it was"))
    fields = [*HEAD, (b"host", b"a"), (b"accept", b"*/*"), (b"outpass-token", b"x" * 400)]
    assert frames.validate_headers(fields, h2.utilities.HeaderValidationFlags(False, False, False, False)) is fields


@given(st.lists(BLOCKS, min_size=1, max_size=4), st.sampled_from([40, 200, 65536]))
def test_any_block_decodes_as_hpack_decodes_it(blocks: list[bytes], limit: int) -> None:
    """Invariant: for any series of header blocks on one connection, fields, their kind, the table and the error equal hpack's."""

    def said() -> list[Any]:
        decoder, made = hpack.Decoder(limit), []
        for block in blocks:
            try:
                fields = decoder.decode(block, raw=True)
            except (HPACKError, UnicodeDecodeError) as error:
                return [*made, type(error)]
            made.append(([(type(f), tuple(f)) for f in fields], list(decoder.header_table.dynamic_entries)))
        return made

    ours, stock = _both(said)
    assert ours == stock


def test_a_list_of_fields_that_grows_too_large_is_refused_while_it_grows() -> None:
    decoder = hpack.Decoder(max_header_list_size=1000)
    with pytest.raises(OversizedHeaderListError):
        frames.decode(decoder, b"\x40\x01a\x7f\x81\x02" + b"b" * 384 + b"\xbe" * 60_000, raw=True)


@given(
    st.lists(
        st.lists(
            st.builds(
                lambda kind, name, value: kind(name, value) if kind is not tuple else (name, value),
                st.sampled_from([tuple, HeaderTuple, NeverIndexedHeaderTuple]),
                NAMES,
                VALUES,
            ),
            max_size=6,
        ),
        min_size=1,
        max_size=4,
    )
)
def test_fields_are_encoded_as_hpack_encodes_them(heads: list[Any]) -> None:
    """Invariant: for any series of heads on one connection, every byte equals hpack's."""

    def said() -> list[bytes]:
        encoder = hpack.Encoder()
        return [encoder.encode(h2.stream.utf8_encode_headers(head)) for head in heads]

    ours, stock = _both(said)
    assert ours == stock


def _shown(frame: Frame) -> Any:
    return type(frame), {name: sorted(value) if name == "flags" else value for name, value in vars(frame).items()}


FRAMES = st.builds(
    lambda size, kind, flags, stream, body: size.to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + body,
    st.sampled_from([0, 1, 5, 6, 8, 30]),
    st.integers(0, 11),
    st.sampled_from([0, 1, 4, 5, 8, 9, 0x20, 0x25, 0x2D, 0xFF, 0x10]),
    st.sampled_from([0, 1, 3, 1 << 31, 1 << 31 | 1]),
    st.binary(max_size=8),
)
WHOLE = st.builds(
    lambda kind, flags, stream, body: len(body).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + body,
    st.sampled_from([0, 1, 1, 8, 9]),
    st.sampled_from([0, 1, 4, 5, 0x0D, 0x25]),
    st.sampled_from([1, 1, 3, 1 << 31 | 1, 0]),
    st.binary(max_size=25),
)


@example(b"\0\0\4\x08\0\0\0\0\1\x80\0\0\1", [])  # an increment with the reserved bit
@given(st.lists(WHOLE | FRAMES | st.binary(max_size=20), max_size=6).map(b"".join), st.lists(st.integers(0, 60), max_size=3))
def test_any_bytes_are_cut_into_the_frames_that_the_library_cuts(data: bytes, cuts: list[int]) -> None:
    """Invariant: for any bytes, however they arrive, frames, what stays in the buffer and the error equal the library's."""

    def said() -> list[Any]:
        buffer, made = h2.frame_buffer.FrameBuffer(), []
        buffer.max_frame_size = 20
        at = 0
        for cut in [*sorted(cuts), len(data)]:
            buffer.add_data(data[at : max(at, cut)])
            at = max(at, cut)
            try:
                made += [_shown(frame) for frame in buffer]
            except (ProtocolError, hyperframe.frame.InvalidPaddingError) as error:
                return [*made, type(error), str(error)]
            made += [bytes(buffer._data), len(buffer._headers_buffer)]
        return made

    ours, stock = _both(said)
    assert ours == stock


@given(
    st.sampled_from([DataFrame, HeadersFrame]),
    st.sampled_from([0, 1, 2**31 - 1]),
    st.binary(max_size=8),
    st.sets(st.sampled_from(["END_STREAM", "END_HEADERS", "PADDED", "PRIORITY", "ACK"])),
    st.integers(0, 3),
)
def test_a_frame_is_written_as_the_library_writes_it(kind: Any, stream: int, data: bytes, flags: set[str], padding: int) -> None:
    """Invariant: for any frame of the two kinds that carry requests, its bytes, its length or the error equal the library's."""

    def said() -> Any:
        frame = kind(stream, data)
        for flag in sorted(flags):
            frame.flags.add(flag)
        frame.pad_length = padding
        return frame.serialize(), frame.body_len, sorted(frame.flags), "ACK" in frame.flags

    ours, stock = _both(said)
    assert ours == stock


def _do(own: h2.connection.H2Connection, what: int, stream: int, data: bytes) -> None:
    head = [*HEAD, (b"x", data)] if own.config.client_side else [(b":status", b"200"), (b"x", data)]
    match what:
        case 1:
            own.send_headers(stream, head, end_stream=not data)
        case 2:
            own.send_data(stream, data, end_stream=len(data) < 3)
        case 3:
            own.end_stream(stream)
        case 4:
            own.reset_stream(stream, len(data))
        case 5:
            own.send_headers(stream, [(b"y", data)], end_stream=True)
        case 6:
            own.acknowledge_received_data(len(data), stream)


def _talk(steps: list[tuple[int, int, bytes]]) -> list[Any]:
    """What a client's and a server's connection say while each of `steps` is done on one of them, and carried over."""
    configs = [h2.config.H2Configuration(client_side=client, header_encoding=False) for client in (True, False)]
    ends = [h2.connection.H2Connection(config) for config in configs]
    said: list[Any] = []
    for end in ends:
        end.initiate_connection()
    for what, stream, data in [(0, 0, b""), *steps]:
        own, other = ends[what % 2], ends[1 - what % 2]
        said.append(_outcome(partial(_do, own, what // 2, stream, data)))
        for a, b in ((own, other), (other, own)) * 2:
            sent = a.data_to_send()
            said += [sent, _outcome(partial(_received, b, sent))]
    states = [[(n, s.state_machine.state, s.state_machine.stream_closed_by) for n, s in end.streams.items()] for end in ends]
    return [*said, *states, *(end.state_machine.state for end in ends)]


def _received(end: h2.connection.H2Connection, data: bytes) -> list[str]:
    return [repr(event) for event in end.receive_data(data)]


@given(
    st.lists(st.tuples(st.integers(0, 13), st.sampled_from([1, 1, 3, 2]), st.sampled_from([b"", b"ab", b"abcdef"])), max_size=8)
)
def test_two_ends_say_the_same_with_our_functions_as_with_the_librarys(steps: list[tuple[int, int, bytes]]) -> None:
    """Invariant: whatever two ends do, in order or not, every byte, event, error and state equals the library's."""
    ours, stock = _both(lambda: _talk(steps))
    assert ours == stock


def test_a_frame_that_is_too_large_for_the_peer_is_not_sent() -> None:
    connection = h2.connection.H2Connection()
    with pytest.raises(AssertionError):
        frames.prepare_for_sending(connection, [DataFrame(1, b"x" * (connection.max_outbound_frame_size + 1))])


def test_flags_take_known_names_only() -> None:
    ours, stock = frames.Flags(DataFrame.defined_flags), hyperframe.flags.Flags(DataFrame.defined_flags)
    for flags in (ours, stock):
        flags.add("PADDED")
        with pytest.raises(ValueError, match="Unexpected flag: PRIORITY"):
            flags.add("PRIORITY")
        assert sorted(flags) == ["PADDED"] and "PADDED" in flags and "END_STREAM" not in flags


def test_switches_say_what_the_librarys_say() -> None:
    wanted = {
        "client_side": False,
        "header_encoding": False,
        "normalize_inbound_headers": False,
        "validate_outbound_headers": False,
    }
    ours, stock = frames.Config(**wanted), h2.config.H2Configuration(**wanted)
    for name in ("split_outbound_cookies", "validate_inbound_headers", "normalize_outbound_headers", *wanted):
        assert getattr(ours, name) is getattr(stock, name)


@given(
    st.one_of(
        st.text(max_size=12),
        st.binary(max_size=12),
        st.sampled_from([b"a:1", "a:1", b"[::1]:2", "\xe9", "a:99999", b"a:", "A" * 400]),
    ),
    st.booleans(),
)
def test_an_authority_is_read_as_the_engine_reads_it_the_first_time_and_again(authority: Any, check: bool) -> None:
    """Invariant: for any authority, text or bytes, checked or not, host, port and error equal the engine's."""
    stock = _outcome(lambda: lean._parse_authority(authority, check))
    assert _outcome(lambda: lean.parse_authority(authority, check)) == stock
    assert _outcome(lambda: lean.parse_authority(authority, check)) == stock


def test_the_authorities_kept_are_bounded_in_number_and_size() -> None:
    assert lean._parsed.cache_info().maxsize == 4096
    before = lean._parsed.cache_info().currsize
    lean.parse_authority("a" * 300, check=False)
    assert lean._parsed.cache_info().currsize == before
    assert url.parse_authority in (lean.parse_authority, lean._parse_authority)


@pytest.mark.parametrize(("kind", "value"), [(bool, True), (int, 3), (str, "x")])
def test_an_option_that_cannot_be_changed_is_not_copied(kind: type, value: Any) -> None:
    option = optmanager._Option("o", kind, value, "", None)
    assert lean.current(option) == value == lean._current(option)
    option.set(value)
    assert lean.current(option) is value


def test_an_option_that_can_be_changed_is_a_copy() -> None:
    option = optmanager._Option("o", Sequence[str], [], "", None)
    option.set(["a"])
    lean.current(option).append("b")
    assert lean.current(option) == ["a"]
