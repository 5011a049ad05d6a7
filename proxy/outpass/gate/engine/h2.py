"""HTTP/2 towards the client and towards the origin, as subclasses of the engine's.

Lives here: overrides of _http2.Http2Server and Http2Client; gate/README.md numbers their defects (T1 to T9). May not live
here: policy, anything that needs to wait.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import h2.errors
import h2.events
import h2.exceptions
from mitmproxy import http
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layer import CommandGenerator
from mitmproxy.proxy.layers.http import _http2
from mitmproxy.proxy.layers.http._base import ReceiveHttp
from mitmproxy.proxy.layers.http._events import (
    ErrorCode,
    RequestData,
    RequestProtocolError,
    RequestTrailers,
    ResponseEndOfMessage,
    ResponseHeaders,
    ResponseProtocolError,
    ResponseTrailers,
)

from outpass.gate import head, refusal, trailers
from outpass.gate.bounds import Bounds
from outpass.gate.engine.floods import Floods
from outpass.gate.engine.frames import Config
from outpass.gate.engine.pacing import (
    CLIENT_WINDOW,
    ORIGIN_WINDOW,
    GoingAway,
    HttpLayer,
    Nudge,
    PacedConnection,
    Settle,
    http_layer_of,
    leave,
)
from outpass.gate.engine.patience import HEAD, Patience, Tick
from outpass.gate.engine.watcher import MAX_DISCARD, MAX_HEAD, watcher_of
from outpass.reasons import Reason

MAX_INTERIM: Final = 32
"""1xx responses on one stream before the origin is given up."""


@dataclass
class EarlyEnd(ResponseEndOfMessage):
    """The answer is over before the request is, which still goes on to the origin."""


@dataclass
class OriginReset(ResponseProtocolError):
    """An HTTP/2 origin gave the stream up, with this code of RFC 9113, section 7."""

    h2_code: int = 0

    def __init__(self, stream_id: int, h2_code: int) -> None:
        super().__init__(stream_id, f"stream reset by the origin ({h2_code})", ErrorCode.GENERIC_SERVER_ERROR)
        self.h2_code = h2_code


class Paced(_http2.Http2Connection):
    """What both sides have in common: their windows."""

    _http: HttpLayer | None

    def _pace(self, windows: tuple[int, int]) -> None:
        self.h2_conn = PacedConnection(self.h2_conf, windows)
        self._http = http_layer_of(self.context)
        if self._http is None:
            self.h2_conn.paced = False
        else:
            self._http.paced[self.conn] = self.h2_conn, self.waiting

    h2_conn: PacedConnection

    def waiting(self, stream_id: int) -> int:
        """Bytes of a stream (numbered as the client does) that wait for this side's window."""
        return self.h2_conn.queued(stream_id)

    def clients_number(self, stream_id: int) -> int:
        """The client's number of a stream."""
        return stream_id

    def _settle(self) -> CommandGenerator[None]:
        assert self._http is not None
        for stream_id in list(self.h2_conn.owed):
            if self._http.may_go_on(self.conn, self.clients_number(stream_id)):
                self.h2_conn.credit(stream_id)
        if data := self.h2_conn.data_to_send():
            yield commands.SendData(self.conn, data)

    def _opened(self, event: events.Event) -> bool:
        """Whether `event` was window for what waits here, and nothing else."""
        return type(event) is events.DataReceived and self.h2_conn.opened(event.data)

    def close_connection(self, msg: str) -> CommandGenerator[None]:
        self.h2_conn.owed.clear()
        self.h2_conn.stream_buffers.clear()
        if self._http is not None:
            self._http.paced.pop(self.conn, None)
        yield from super().close_connection(msg)


class Http2Server(Paced, _http2.Http2Server):
    """The client's side: judged heads and trailers, refusals on the stream, bounded discarding, no engine pages."""

    h2_conf = Config(**_http2.Http2Connection.h2_conf_defaults, client_side=False)

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._pace(CLIENT_WINDOW)
        settings = self.h2_conn.local_settings
        settings.max_header_list_size = MAX_HEAD
        settings.max_concurrent_streams = 100
        settings.acknowledge()
        self._discarding: dict[int, int] = {}
        watcher = watcher_of(context.client)
        self._bounds = Bounds() if watcher is None else watcher.bounds
        self._patience = Patience(watcher)
        self._floods = Floods(self._bounds)

    def _handle_event(self, event: events.Event) -> CommandGenerator[None]:
        """[T1] Stock answers errors with an HTML page that names the engine and its version."""
        if isinstance(event, Settle) or self._opened(event):
            yield from self._settle()
            return
        if isinstance(event, Nudge):
            if isinstance(event, Tick) and (late := self._patience.late(event.now)) is not None:
                yield from self._hang_up(Reason.CLIENT_TIMEOUT, late, h2.errors.ErrorCodes.ENHANCE_YOUR_CALM)
            return
        if isinstance(event, events.DataReceived):
            yield from self._receive(event)
            return
        if isinstance(event, OriginReset) and self._passes_on(event):
            self.h2_conn.reset_stream(event.stream_id, event.h2_code or h2.errors.ErrorCodes.INTERNAL_ERROR)
            yield commands.SendData(self.conn, self.h2_conn.data_to_send())
            return
        if isinstance(event, ResponseProtocolError) and event.code.http_status_code():
            stream_id = event.stream_id
            if self.is_open_for_us(stream_id) and not self.h2_conn.streams[stream_id].state_machine.headers_sent:
                watcher = watcher_of(self.context.client)
                code, message = event.code.name, event.message
                answer = (
                    watcher.fault(code, message)
                    if watcher is not None
                    else refusal.of_reason(refusal.fault_reason(code, message))
                )
                yield from self._answer(stream_id, answer)
                return
        yield from super()._handle_event(event)
        if type(event) is ResponseEndOfMessage and self._client_still_sends(event.stream_id):
            self._discarding[event.stream_id] = 0

    def _receive(self, event: events.DataReceived) -> CommandGenerator[None]:
        """[T10] Stock keeps a header block of 64 frames of 128 KiB, and waits for the rest of any frame for ever."""
        incoming = self.h2_conn.incoming_buffer
        before = len(incoming._data)
        yield from super()._handle_event(event)
        block = sum(len(getattr(frame, "data", b"")) for frame in incoming._headers_buffer)
        if block > MAX_HEAD:
            yield from self._hang_up(
                Reason.HEAD_TOO_LARGE, "the header block is too large", h2.errors.ErrorCodes.ENHANCE_YOUR_CALM
            )
            return
        whole = len(incoming._data) < before + len(event.data)  # a frame was taken out
        self._patience.waits(HEAD if incoming._data or block else None, anew=whole and not block)

    def _short(self, stream_id: int) -> head.Flaw | None:
        """[T7] The flaw of a body that trailers end before its content-length does, unless it is answered already.

        The library looks at DATA frames only.
        """
        stream = self.h2_conn.streams.get(stream_id) if self.is_open_for_us(stream_id) else None
        if stream is None or stream._expected_content_length in (None, stream._actual_content_length):
            return None
        return head.Flaw(Reason.BAD_REQUEST, "the body is not as long as was announced")

    def _hang_up(self, reason: Reason, detail: str, code: h2.errors.ErrorCodes) -> CommandGenerator[None]:
        """End the connection, with a record."""
        watcher = watcher_of(self.context.client)
        if watcher is not None:
            watcher.refuse(reason, detail)
        yield from super().protocol_error(detail, code)

    def _passes_on(self, event: OriginReset) -> bool:
        """[T9] Whether the client learns the origin's own code, where stock says INTERNAL_ERROR: what may be tried again, and
        what is half answered already."""
        if not self.is_open_for_us(event.stream_id):
            return False
        sent = self.h2_conn.streams[event.stream_id].state_machine.headers_sent
        return bool(sent) or event.h2_code == h2.errors.ErrorCodes.REFUSED_STREAM

    def handle_h2_event(self, event: h2.events.Event) -> CommandGenerator[bool]:
        """[T2] Stock forwards any request trailer, :path with an absolute URL, and Host beside another :authority.

        [T7] The HTTP/2 library counts a body against its content-length only once a DATA frame comes.
        """
        if flood := self._floods.of(event):
            yield from self._hang_up(Reason.FLOOD, flood, h2.errors.ErrorCodes.ENHANCE_YOUR_CALM)
            return True
        if isinstance(event, h2.exceptions.DenialOfServiceError):  # a header list of more than MAX_HEAD (HPACK bomb)
            yield from self._hang_up(
                Reason.HEAD_TOO_LARGE, "the header list is too large", h2.errors.ErrorCodes.ENHANCE_YOUR_CALM
            )
            return True
        if isinstance(event, GoingAway):
            return False  # [T8] the client asks nothing more, and waits for what it has asked
        if isinstance(event, h2.events.TrailersReceived):
            trailing = tuple((bytes(name), bytes(value)) for name, value in event.headers)
            late = trailers.judge(trailing) or self._short(event.stream_id or 0)
            if late is not None:
                yield from self._refuse_late(event.stream_id or 0, late)
            elif kept := trailers.kept(trailing):
                yield ReceiveHttp(RequestTrailers(event.stream_id or 0, http.Headers(kept)))
            return False
        if isinstance(event, h2.events.RequestReceived):
            fields = [(bytes(name), bytes(value)) for name, value in event.headers]
            path = next((value for name, value in fields if name == b":path"), b"")
            flaw = head.too_many(path, len(fields), self._bounds) or head.judge_http2(fields)
            if flaw is None and event.stream_ended and dict(fields).get(b"content-length", b"0") != b"0":
                flaw = head.Flaw(Reason.BAD_REQUEST, "a body is announced, and none follows")  # RFC 9113, section 8.1.1
            if flaw is None:
                try:
                    _http2.parse_h2_request_headers(fields)
                except ValueError:
                    flaw = head.Flaw(Reason.BAD_HOST, "the :authority is not a host and a port")
            if flaw is not None:
                watcher = watcher_of(self.context.client)
                yield from self._answer(
                    event.stream_id,
                    refusal.of_reason(*flaw) if watcher is None else watcher.refuse(flaw.reason, flaw.detail),
                )
                return False
        elif isinstance(event, h2.events.DataReceived) and event.stream_id in self._discarding:
            self._discard(event)
            return False
        elif isinstance(event, (h2.events.StreamEnded, h2.events.StreamReset)):
            self._discarding.pop(event.stream_id or 0, None)
        return (yield from super().handle_h2_event(event))

    def _refuse_late(self, stream_id: int, flaw: head.Flaw) -> CommandGenerator[None]:
        """Refuse a request whose body is under way to the origin, which never gets the end of it."""
        watcher = watcher_of(self.context.client)
        answer = refusal.of_reason(*flaw) if watcher is None else watcher.refuse(flaw.reason, flaw.detail)
        if self.is_open_for_us(stream_id):
            if self.h2_conn.streams[stream_id].state_machine.headers_sent:
                self.h2_conn.reset_stream(stream_id, h2.errors.ErrorCodes.PROTOCOL_ERROR)
            else:
                yield from self._answer(stream_id, answer)
        yield ReceiveHttp(RequestProtocolError(stream_id, flaw.detail, ErrorCode.GENERIC_CLIENT_ERROR))
        self.streams.pop(stream_id, None)

    def protocol_error(self, message: str, error_code: int = h2.errors.ErrorCodes.PROTOCOL_ERROR) -> CommandGenerator[None]:
        """[T6] What the HTTP/2 library refuses by itself ends the connection, and would leave no record."""
        watcher = watcher_of(self.context.client)
        if watcher is not None:
            watcher.refuse(Reason.BAD_REQUEST, "the HTTP/2 library refuses what the client sent")
        yield from super().protocol_error(message, error_code)

    def _answer(self, stream_id: int, answer: refusal.Refusal) -> CommandGenerator[None]:
        """Answer a stream that has had no answer yet, whatever the client still sends on it."""
        if not self.is_open_for_us(stream_id):
            return
        self.h2_conn.send_headers(stream_id, [(b":status", b"%d" % answer.status), *answer.headers])
        self.h2_conn.send_data(stream_id, answer.body, end_stream=True)
        if self._client_still_sends(stream_id):
            self._discarding[stream_id] = 0
        yield commands.SendData(self.conn, self.h2_conn.data_to_send())

    def _client_still_sends(self, stream_id: int) -> bool:
        return not self.is_closed(stream_id) and not self.is_open_for_us(stream_id)

    def _discard(self, event: h2.events.DataReceived) -> None:
        """[T4] Read on after a refusal, so that the client gets to reading the answer; but only so far."""
        stream_id = event.stream_id or 0
        size = event.flow_controlled_length or 0
        self._discarding[stream_id] += size
        if self._discarding[stream_id] > MAX_DISCARD:
            del self._discarding[stream_id]
            self.h2_conn.reset_stream(stream_id, h2.errors.ErrorCodes.NO_ERROR)  # RFC 9113, section 8.1
        self.h2_conn.acknowledge_received_data(size, stream_id)
        self.h2_conn.credit(stream_id)


class Http2Client(Paced, _http2.Http2Client):
    """The origin's side: judged trailers, a status that is one, 1xx that reach the client, a GOAWAY that loses nothing."""

    h2_conf = Config(**_http2.Http2Connection.h2_conf_defaults, client_side=True)

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._pace(ORIGIN_WINDOW)
        self.h2_conn.local_settings.enable_push = 0
        self.h2_conn.local_settings.acknowledge()
        self._answered: set[int] = set()
        self._leaving = False
        self._interim: dict[int, int] = {}

    def waiting(self, stream_id: int) -> int:
        """As for the client's side; a stream that the origin has no room for yet waits whole."""
        ours = self.our_stream_id.get(stream_id)
        if ours is not None:
            return self.h2_conn.queued(ours)
        return sum(len(e.data) for e in self.stream_queue.get(stream_id, ()) if isinstance(e, RequestData))

    def clients_number(self, stream_id: int) -> int:
        return self.their_stream_id.get(stream_id, 0)

    def _handle_event(self, event: events.Event) -> CommandGenerator[None]:
        if isinstance(event, Settle) or self._opened(event):
            yield from self._settle()
            return
        if isinstance(event, RequestProtocolError) and self.stream_queue.pop(event.stream_id, None) is not None:
            return  # it was never sent
        yield from super()._handle_event(event)

    def handle_h2_event(self, event: h2.events.Event) -> CommandGenerator[bool]:
        """[T5] Response trailers are judged. [T8] GOAWAY lets those streams end that the origin has taken. [T9] A reset.

        [H4] A 1xx is swallowed by stock. [H9] Any integer is taken for a status, `-1` included.
        """
        if isinstance(event, h2.events.TrailersReceived):
            fields = tuple((bytes(name), bytes(value)) for name, value in event.headers)
            if trailers.malformed(fields):
                yield from self.protocol_error("a trailer is malformed")
                return True
            if kept := trailers.kept(fields):
                yield ReceiveHttp(ResponseTrailers(event.stream_id or 0, http.Headers(kept)))
            return False
        if isinstance(event, h2.events.InformationalResponseReceived):
            return (yield from self._informed(event))
        if isinstance(event, GoingAway):
            return (yield from self._going_away(event))
        if isinstance(event, h2.events.StreamReset):
            if self.streams.pop(event.stream_id, None) is not None and event.stream_id not in self._answered:
                yield ReceiveHttp(OriginReset(event.stream_id, int(event.error_code or 0)))
            self._answered.discard(event.stream_id)
            return (yield from self._over())
        if isinstance(event, h2.events.StreamEnded):
            self._answered.add(event.stream_id or 0)  # RFC 9113, section 8.1: it may still say that it wants no more of the body
            yield from super().handle_h2_event(event)
            if self.is_closed(event.stream_id or 0):
                self._answered.discard(event.stream_id or 0)
            return (yield from self._over())
        if isinstance(event, h2.events.ResponseReceived):
            status = bytes(dict(event.headers).get(b":status", b""))
            if not (len(status) == 3 and status.isdigit() and status[:1] != b"0"):
                yield from self.protocol_error("the status is not three digits")
                return True
        return (yield from super().handle_h2_event(event))

    def _informed(self, event: h2.events.InformationalResponseReceived) -> CommandGenerator[bool]:
        """[H4] A 1xx of the origin, on to the client; bounded."""
        stream_id = event.stream_id or 0
        count = self._interim[stream_id] = self._interim.get(stream_id, 0) + 1
        fields = tuple((bytes(n), bytes(v)) for n, v in event.headers or ())
        status, plain = dict(fields).get(b":status", b""), tuple(f for f in fields if not f[0].startswith(b":"))
        if count > MAX_INTERIM or len(status) != 3 or not status.isdigit() or trailers.malformed(plain) or status == b"101":
            yield from self.protocol_error("unexpected interim response")
            return True
        kept = http.Headers(f for f in plain if f[0] not in trailers.FORBIDDEN)
        response = http.Response(b"HTTP/2.0", int(status), b"", kept, None, None, 0.0, 0.0)
        yield ReceiveHttp(ResponseHeaders(stream_id, response, False))
        return False

    def _going_away(self, event: GoingAway) -> CommandGenerator[bool]:
        """[T8] Streams above the last that the origin took were not executed: their clients may try again."""
        self._leaving = True
        leave(self.conn)
        for number in [n for n in self.streams if n > event.last_stream_id]:
            del self.streams[number]
            yield ReceiveHttp(OriginReset(number, h2.errors.ErrorCodes.REFUSED_STREAM))
        for theirs in list(self.stream_queue):
            del self.stream_queue[theirs]
            self.their_stream_id[-theirs] = theirs  # it has no number of ours yet
            yield ReceiveHttp(OriginReset(-theirs, h2.errors.ErrorCodes.REFUSED_STREAM))
        return (yield from self._over())

    def _over(self) -> CommandGenerator[bool]:
        """Close a connection that takes nothing more and owes nothing more; True: stop reading it."""
        if not self._leaving or self.streams:
            return False
        yield from self.close_connection("the origin went away")
        return True
