"""Frames that are joined as they come and cut as they go say what the engine's connection says, frame by frame."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mitmproxy.proxy.layers.http._http_h2 import BufferedH2Connection

from outpass.gate.engine import bulk
from outpass.gate.engine.bulk import BulkConnection

HEAD = [(b":method", b"POST"), (b":scheme", b"https"), (b":path", b"/"), (b":authority", b"a")]
PIECES = st.lists(
    st.tuples(st.sampled_from([1, 1, 1, 3]), st.binary(max_size=40), st.sampled_from([0, 0, 0, 0, 1, 8])), max_size=10
)


def _config(client: bool) -> h2.config.H2Configuration:
    return h2.config.H2Configuration(client_side=client, header_encoding=False, validate_inbound_headers=False)


def _frame(stream: int, data: bytes, flags: int) -> bytes:
    if flags == 8:
        data = bytes((2,)) + data + b"\0\0"
    return len(data).to_bytes(3) + bytes((0, flags)) + stream.to_bytes(4) + data


def _heard(kind: type[BufferedH2Connection], opening: bytes, body: list[bytes], window: int) -> Any:
    """What came on each stream, in order, and what the two windows are then; or that it was refused."""
    server = kind(_config(client=False))
    server.local_settings.initial_window_size = window
    server.local_settings.acknowledge()
    h2.connection.H2Connection.initiate_connection(server)
    server.receive_data(opening)
    said: list[Any] = []
    try:
        for piece in body:
            for event in server.receive_data(piece):
                number = getattr(event, "stream_id", 0)
                if isinstance(event, h2.events.DataReceived):
                    if said and said[-1][:2] == ["data", number]:
                        said[-1][2] += event.data
                        said[-1][3] += event.flow_controlled_length
                        said[-1][4] = event.stream_ended is not None
                    else:
                        said.append(["data", number, event.data, event.flow_controlled_length, event.stream_ended is not None])
                else:
                    said.append([type(event), number])
    except h2.exceptions.ProtocolError:
        return "refused"  # for the first of two faults, or for the second, which are seen together
    windows = [server.inbound_flow_control_window, *(s.inbound_flow_control_window for s in server.streams.values())]
    return said, windows, set(_cut(bytes(server.data_to_send()))), bytes(server.incoming_buffer._data)


def _cut(data: bytes) -> list[bytes]:
    """The frames in `data`. What is joined on a stream that is closed is refused once, and not once a frame."""
    frames = []
    while data:
        size = 9 + int.from_bytes(data[:3])
        frames.append(data[:size])
        data = data[size:]
    return frames


@given(PIECES, st.lists(st.integers(0, 300), max_size=4), st.sampled_from([20, 100, 65535]), st.sampled_from([b"", b"7", b"60"]))
def test_whatever_frames_a_body_comes_in_it_is_the_same_body(pieces: Any, cuts: list[int], window: int, length: bytes) -> None:
    """Invariant: for any DATA frames, however the network cuts them, bytes, ends, windows and refusals equal the engine's."""
    client = h2.connection.H2Connection(_config(client=True))
    client.initiate_connection()
    for stream in (1, 3):
        client.send_headers(stream, [*HEAD, *([(b"content-length", length)] if length else [])])
    opening, data = client.data_to_send(), b"".join(_frame(*piece) for piece in pieces)
    places = [0, *sorted(min(c, len(data)) for c in cuts), len(data)]
    body = [data[a:b] for a, b in itertools.pairwise(places)]
    assert _heard(BulkConnection, opening, body, window) == _heard(BufferedH2Connection, opening, body, window)


def test_frames_that_lie_behind_each_other_are_one_event() -> None:
    buffer = bulk.Joined()
    buffer.max_frame_size = 10
    buffer.add_data(
        _frame(1, b"a" * 10, 0) + _frame(1, b"b" * 5, 0) + _frame(3, b"c", 0) + _frame(1, b"d", 1) + _frame(1, b"e", 0)[:9]
    )
    found = [(f.stream_id, f.data, sorted(f.flags)) for f in buffer]
    assert found == [(1, b"a" * 10 + b"b" * 5, []), (3, b"c", []), (1, b"d", ["END_STREAM"])]
    assert len(buffer._data) == 9, "a frame whose body is still to come stays"


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.sampled_from([1, 3]), st.integers(0, 70_000)),
        st.tuples(st.just("open"), st.sampled_from([0, 1, 3]), st.integers(1, 50_000)),
        st.tuples(st.just("end"), st.sampled_from([1, 3]), st.just(0)),
        st.tuples(st.just("setting"), st.just(0), st.integers(0, 80_000)),
    ),
    max_size=12,
)


@settings(max_examples=60)
@given(STEPS)
def test_a_body_arrives_whole_whatever_the_windows_do(steps: list[tuple[str, int, int]]) -> None:
    """Invariant: the peer, an independent reader of frames and windows, gets exactly what was sent, as far as it let it come."""
    client, server = BulkConnection(_config(client=True)), h2.connection.H2Connection(_config(client=False))
    sent, got, ended = {1: b"", 3: b""}, {1: b"", 3: b""}, set[int]()
    h2.connection.H2Connection.initiate_connection(client)
    server.initiate_connection()

    def carry() -> None:
        for _ in range(3):
            for event in server.receive_data(bytes(client.data_to_send())):
                if isinstance(event, h2.events.DataReceived):
                    got[event.stream_id] += event.data
            client.receive_data(server.data_to_send())

    for stream in (1, 3):
        client.send_headers(stream, HEAD)
    carry()
    for what, stream, number in steps:
        if what == "send" and stream not in ended:
            data = bytes((len(sent[stream]) % 251,)) * number
            sent[stream] += data
            client.send_data(stream, data)
        elif what == "end" and stream not in ended:
            ended.add(stream)
            client.end_stream(stream)
        elif what == "setting":
            server.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: number})
        elif what == "open":
            _open(server, number, stream)
        carry()
    for stream in (0, 1, 3):
        _open(server, 1 << 22, stream)
    carry()
    assert got == sent and not client.stream_buffers
    assert all(server.streams[n].state_machine.state.name == "HALF_CLOSED_REMOTE" for n in ended if n in server.streams)


def _open(end: h2.connection.H2Connection, count: int, stream: int) -> None:
    try:
        end.increment_flow_control_window(count, stream or None)
    except h2.exceptions.StreamClosedError:
        pass


def test_what_waits_for_a_window_keeps_no_more_than_twice_its_size() -> None:
    whole = bytes(1000)
    assert bulk._rest(whole, 100).obj is whole
    kept = bulk._rest(bulk._rest(whole, 100), 500)
    assert type(kept) is bytes and len(kept) == 400


def _stuck(kind: Callable[[h2.config.H2Configuration], BufferedH2Connection]) -> BufferedH2Connection:
    """A connection whose peer has made its windows smaller than what is under way already."""
    client, server = kind(_config(client=True)), h2.connection.H2Connection(_config(client=False))
    h2.connection.H2Connection.initiate_connection(client)
    server.initiate_connection()
    client.send_headers(1, HEAD)
    client.send_data(1, b"x" * 100)
    server.receive_data(bytes(client.data_to_send()))
    server.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 10})
    client.receive_data(server.data_to_send())
    assert client.local_flow_control_window(1) == -90
    return client


def test_a_window_that_became_negative_is_waited_for() -> None:
    with pytest.raises(h2.exceptions.FlowControlError):
        _stuck(BufferedH2Connection).send_data(1, b"y" * 200)  # the engine's own
    client = _stuck(BulkConnection)
    client.send_data(1, b"y" * 200)
    client.end_stream(1)
    assert sum(len(chunk.data) for chunk in client.stream_buffers[1]) == 200


def _waiting() -> BulkConnection:
    """A connection with more to send on two streams than it has window for."""
    client = BulkConnection(_config(client=True))
    h2.connection.H2Connection.initiate_connection(client)
    for stream in (1, 3):
        client.send_headers(stream, HEAD)
        client.send_data(stream, bytes((stream,)) * 50_000)
    client.end_stream(3)
    client.data_to_send()
    return client


def _said(client: BulkConnection) -> Any:
    queued = {n: [(len(c.data), c.end_stream) for c in queue] for n, queue in client.stream_buffers.items() if queue}
    windows = [client.outbound_flow_control_window, *(s.outbound_flow_control_window for s in client.streams.values())]
    return bytes(client.data_to_send()), windows, queued, {n: s.state_machine.state for n, s in client.streams.items()}


UPDATES = st.lists(
    st.tuples(
        st.sampled_from([0, 0, 1, 3, 5]), st.sampled_from([0, 1, 40_000, 2**31 - 1, 2**31 + 9]), st.sampled_from([8, 8, 8, 6])
    ),
    min_size=1,
    max_size=3,
)


@given(UPDATES, st.sampled_from([0, 1, 5]))
def test_window_that_is_taken_at_one_look_is_taken_as_the_library_takes_it(updates: Any, cut: int) -> None:
    """Invariant: what is plainly right has the same effect, and of anything else nothing is done."""
    frames = [b"\0\0\4" + bytes((kind, 0)) + n.to_bytes(4) + count.to_bytes(4) for n, count, kind in updates]
    data = b"".join(frames)[cut:]
    ours, library = _waiting(), _waiting()
    if not ours.opened(data):
        assert _said(ours) == _said(_waiting())
        return
    assert all(isinstance(e, h2.events.WindowUpdated) for e in h2.connection.H2Connection.receive_data(_waiting(), data))
    assert library.receive_data(data) == []
    assert _said(ours) == _said(library)


def test_the_usual_pair_of_updates_is_taken_at_one_look() -> None:
    client = _waiting()
    assert client.opened(b"\0\0\4\x08\0\0\0\0\0\0\0\x80\0" + b"\0\0\4\x08\0\0\0\0\1\0\0\x80\0")
    assert len(client.data_to_send()) == 32_768 + 2 * 9
