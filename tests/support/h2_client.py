"""A small HTTP/2 client over a connection to the gate, that sends exactly the fields it is told to.

Lives here: the client. May not live here: what the answers should be.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.events
import h2.settings

from tests.support.wire import Answer, Wire

Fields = Sequence[tuple[str, str]]


@dataclass
class H2:
    """`H2(wire)`: wire is TLS with ALPN h2. Unvalidated on purpose: it must be able to misbehave."""

    wire: Wire
    window: int | None = None
    """Initial stream window; None: the default. Windows are opened again as data arrives, unless `stalled`."""
    stalled: bool = False
    status: dict[int, int] = field(default_factory=dict)
    headers: dict[int, dict[str, str]] = field(default_factory=dict)
    body: defaultdict[int, bytearray] = field(default_factory=lambda: defaultdict(bytearray))
    ended: set[int] = field(default_factory=set)
    reset: dict[int, int] = field(default_factory=dict)
    goaway: bool = False
    interim: list[list[tuple[str, str]]] = field(default_factory=list)
    trailers: list[list[tuple[str, str]]] = field(default_factory=list)
    alternatives: list[h2.events.Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        config = h2.config.H2Configuration(
            client_side=True,
            header_encoding="latin-1",
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
            validate_inbound_headers=False,
        )
        self.conn = h2.connection.H2Connection(config)
        self.conn.initiate_connection()
        if self.window is not None:
            self.conn.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: self.window})
        self.flush()

    def flush(self) -> None:
        """Send what the connection has to say."""
        data = self.conn.data_to_send()
        if data:
            self.wire.sock.sendall(data)

    def request(
        self, path: str, authority: str, *, method: str = "GET", scheme: str = "https", extra: Fields = (), end: bool = True
    ) -> int:
        """Send a request head; returns its stream."""
        head = [(":method", method), (":scheme", scheme), (":authority", authority), (":path", path), *extra]
        return self.send(head, end=end)

    def send(self, fields: Fields, *, end: bool = True) -> int:
        """Send a head exactly as given."""
        stream = self.conn.get_next_available_stream_id()
        self.conn.send_headers(stream, list(fields), end_stream=end)
        self.flush()
        return stream

    def data(self, stream: int, data: bytes, *, end: bool = False) -> None:
        """Send body bytes, as far as windows allow (waiting for them)."""
        while data:
            room = min(self.conn.local_flow_control_window(stream), self.conn.max_outbound_frame_size)
            if room <= 0:
                self.pump()
                continue
            self.conn.send_data(stream, data[:room])
            data = data[room:]
            self.flush()
        if end:
            self.conn.end_stream(stream)
            self.flush()

    def answer(self, stream: int, seconds: float = 15) -> Answer:
        """The whole response on `stream`."""
        end = time.monotonic() + seconds
        while stream not in self.ended and stream not in self.reset and not self.goaway:
            assert time.monotonic() < end, f"no answer on stream {stream}: {self.status} {self.reset}"
            self.pump()
        if stream in self.reset and stream not in self.ended:
            return Answer(0, {"reset": str(self.reset[stream])}, b"")
        if stream not in self.status:
            return Answer(0, {"goaway": "1"}, b"")
        return Answer(self.status[stream], self.headers[stream], bytes(self.body[stream]))

    def pump(self) -> None:
        """Read once and take note."""
        data = self.wire.sock.recv(65536)
        if not data:
            self.goaway = True
            return
        for event in self.conn.receive_data(data):
            if isinstance(event, h2.events.ResponseReceived):
                fields = {str(k): str(v) for k, v in event.headers}
                self.status[event.stream_id] = int(fields.pop(":status"))
                self.headers[event.stream_id] = fields
            elif isinstance(event, h2.events.DataReceived):
                self.body[event.stream_id] += event.data
                if not self.stalled:
                    self.conn.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.InformationalResponseReceived):
                self.interim.append([(str(k), str(v)) for k, v in event.headers])
            elif isinstance(event, h2.events.TrailersReceived):
                self.trailers.append([(str(k), str(v)) for k, v in event.headers])
            elif isinstance(event, h2.events.AlternativeServiceAvailable):
                self.alternatives.append(event)
            elif isinstance(event, h2.events.StreamEnded):
                self.ended.add(event.stream_id)
            elif isinstance(event, h2.events.StreamReset):
                self.reset[event.stream_id] = event.error_code
            elif isinstance(event, h2.events.ConnectionTerminated):
                self.goaway = True
        self.flush()
