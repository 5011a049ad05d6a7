"""Bodies of HTTP/2 in large pieces: many frames that have come are one event, and what goes is cut into frames once.

Lives here: joining DATA frames as they come, cutting and queueing what goes. May not live here: who gets window back (pacing.py),
what a frame means (h2.py).

A body comes in frames of 16 KiB, because that is what nearly everybody announces, and each of them climbed through every layer
and became an object on its way in and another on its way out.
"""

from __future__ import annotations

import struct
from typing import Any, Final

import h2.config
import h2.connection
import h2.frame_buffer
from h2.connection import ConnectionInputs, ConnectionState
from h2.stream import StreamInputs, StreamState
from hyperframe.frame import DataFrame
from mitmproxy.proxy.layers.http._http_h2 import BufferedH2Connection, SendH2Data

_HEAD: Final = struct.Struct(">HBBBL")
_UPDATE: Final = struct.Struct(">IBLL")
_WINDOW_UPDATE: Final = 0x0408
"""Length 4 and the frame's kind."""
_LARGEST: Final = 2**31 - 1
_RUNS: Final = frozenset((ConnectionState.CLIENT_OPEN, ConnectionState.SERVER_OPEN))
_SENDS: Final = frozenset((StreamState.OPEN, StreamState.HALF_CLOSED_REMOTE))


class Joined(h2.frame_buffer.FrameBuffer):
    """The library's buffer, where DATA frames of one stream that lie behind each other are one frame."""

    def __next__(self) -> Any:
        frame: Any = super().__next__()
        if type(frame) is DataFrame and frame.data and not frame.flags and not frame.pad_length:
            self._join(frame)
        return frame

    def _join(self, frame: Any) -> None:
        """Put what follows on to `frame`: whole frames that are plain, not empty, and no larger than any may be."""
        data, at = self._data, 0
        size, most, stream = len(data), self.max_frame_size, frame.stream_id
        with memoryview(data) as view:
            parts = [memoryview(frame.data)]
            while size - at > 9:
                high, low, kind, bits, number = _HEAD.unpack_from(data, at)
                length = high << 8 | low
                if kind or bits > 1 or number & 0x7FFFFFFF != stream or not 0 < length <= most or length > size - at - 9:
                    break
                parts.append(view[at + 9 : at + 9 + length])
                at += 9 + length
                if bits:
                    frame.flags.add("END_STREAM")
                    break
            if at:
                frame.data = b"".join(parts)
                frame.body_len = len(frame.data)
            for part in parts:
                part.release()
        del data[:at]


class BulkConnection(BufferedH2Connection):
    """[T12] The engine's, which cuts a body into frames before it looks at the window, and fails when that is negative."""

    def __init__(self, config: h2.config.H2Configuration) -> None:
        super().__init__(config)
        self.incoming_buffer = Joined(server=not config.client_side)

    def opened(self, data: bytes) -> bool:
        """Take one or two WINDOW_UPDATEs that are plainly right, and send what waited for them; False: nothing was done.

        An upload is such frames and nothing else, in this direction: one or two for every 32 KiB.
        """
        size, buffer = len(data), self.incoming_buffer
        if size not in (13, 26) or buffer._data or buffer._preamble_len or buffer._headers_buffer:
            return False
        found: dict[int, int] = {}
        for at in range(0, size, 13):
            kind, _, stream_id, increment = _UPDATE.unpack_from(data, at)
            stream = self.streams.get(stream_id)
            if kind != _WINDOW_UPDATE or not 0 < increment <= _LARGEST or stream_id in found:
                return False
            if stream_id and (stream is None or stream.state_machine.state not in _SENDS):
                return False
            window = self.outbound_flow_control_window if stream is None else stream.outbound_flow_control_window
            if window + increment > _LARGEST:
                return False
            found[stream_id] = increment
        if self.state_machine.state not in _RUNS:
            return False
        for stream_id, increment in found.items():
            if stream_id:
                self.streams[stream_id].outbound_flow_control_window += increment
            else:
                self.outbound_flow_control_window += increment
        if 0 in found:
            self.connection_window_updated()
        else:
            for stream_id in found:
                self.stream_window_updated(stream_id)
        return True

    def send_data(self, stream_id: int, data: Any, end_stream: bool = False, pad_length: None = None) -> None:
        """Send as much as the peer's window takes, and queue the rest."""
        if queue := self.stream_buffers.get(stream_id):
            queue.append(SendH2Data(data, end_stream))
            return
        room = self.local_flow_control_window(stream_id)
        if len(data) <= room:
            self._say(stream_id, data, end_stream)
            return
        if room > 0:  # SETTINGS may have made it negative (RFC 9113, section 6.9.2)
            self._say(stream_id, memoryview(data)[:room], False)
            data = _rest(data, room)
        self.stream_buffers[stream_id].append(SendH2Data(data, end_stream))

    def stream_window_updated(self, stream_id: int) -> bool:
        """Send what was queued, as far as the window goes now; whether that was anything."""
        stream, queue = self.streams.get(stream_id), self.stream_buffers.get(stream_id)
        if stream is None or stream.state_machine.state not in _SENDS:
            self.stream_buffers.pop(stream_id, None)
            return False
        room, said = self.local_flow_control_window(stream_id), False
        while queue and (room > 0 or (room == 0 and not queue[0].data)):
            data, end_stream = queue.popleft()
            some: Any = data
            if len(data) > room:
                queue.appendleft(SendH2Data(_rest(data, room), end_stream))
                some, end_stream = memoryview(data)[:room], False
            self._say(stream_id, some, end_stream)
            room -= len(some)
            said = True
        if said and not queue:
            del self.stream_buffers[stream_id]
            if stream_id in self.stream_trailers:
                self.send_headers(stream_id, self.stream_trailers.pop(stream_id), end_stream=True)
        return said

    def _say(self, stream_id: int, data: Any, end_stream: bool) -> None:
        """Write what the window has room for, as the library does frame by frame; the same states, the same windows."""
        size, most = len(data), self.max_outbound_frame_size
        if size <= most:
            h2.connection.H2Connection.send_data(self, stream_id, bytes(data), end_stream)
            return
        self.state_machine.process_input(ConnectionInputs.SEND_DATA)
        stream = self.streams[stream_id]
        stream.state_machine.process_input(StreamInputs.SEND_DATA)
        if end_stream:
            stream.state_machine.process_input(StreamInputs.SEND_END_STREAM)
        stream.outbound_flow_control_window -= size
        self.outbound_flow_control_window -= size
        assert stream.outbound_flow_control_window >= 0 and self.outbound_flow_control_window >= 0
        out: Any = self._data_to_send
        with memoryview(data) as view:
            for at in range(0, size, most):
                part = view[at : at + most]
                length = len(part)
                out += _HEAD.pack(length >> 8, length & 0xFF, 0, end_stream and at + length == size, stream_id)
                out += part
                part.release()


def _rest(data: Any, start: int) -> Any:
    """What is left of `data`, without a copy, unless most of what it would keep alive is gone already."""
    rest = memoryview(data)[start:]
    whole: Any = rest.obj
    return rest if len(rest) * 2 > len(whole) else bytes(rest)
