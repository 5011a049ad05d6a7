"""HTTP/1 towards the client and towards the origin, as subclasses of the engine's.

Lives here: overrides of _http1.Http1Server and Http1Client; gate/README.md numbers their defects (H1 to H13). May not live
here: policy, anything that needs to wait.
"""

from __future__ import annotations

import re
from typing import Final

from mitmproxy import http
from mitmproxy.connection import ConnectionState
from mitmproxy.net.http import http1, status_codes
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layer import CommandGenerator
from mitmproxy.proxy.layers.http import _http1
from mitmproxy.proxy.layers.http._base import HttpEvent, ReceiveHttp
from mitmproxy.proxy.layers.http._events import (
    ErrorCode,
    RequestData,
    RequestEndOfMessage,
    RequestHeaders,
    RequestProtocolError,
    RequestTrailers,
    ResponseData,
    ResponseEndOfMessage,
    ResponseHeaders,
    ResponseProtocolError,
    ResponseTrailers,
)
from mitmproxy.proxy.layers.modes import TransparentProxy

from outpass.gate import head, refusal, trailers
from outpass.gate.bounds import Bounds
from outpass.gate.engine import chunks
from outpass.gate.engine.handshake import is_handshake
from outpass.gate.engine.pacing import Nudge
from outpass.gate.engine.patience import BODY, HEAD, Patience, Tick
from outpass.gate.engine.watcher import LINGER_S, MAX_DISCARD, MAX_HEAD, watcher_of
from outpass.reasons import Reason

_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([1-9][0-9][0-9])(?: [\t\x20-\x7e\x80-\xff]*)?\r?\n")
_FOLD: Final = re.compile(rb"\r\n[ \t]+")
_MAX_INTERIM: Final = 32
"""1xx responses to one request before the origin is given up."""
HALF_CLOSED_S: Final = 60.0
"""Seconds in which an answer must begin once the client has ended its side: one that waits looks like one that left."""


class Http1Server(_http1.Http1Server):
    """The client's side: bounded and judged heads, refusals that arrive, no engine pages."""

    _discarded = 0
    _half_closed = False
    _trailers: http.Headers | None = None

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        watcher = watcher_of(context.client)
        self._bounds = Bounds() if watcher is None else watcher.bounds
        self._patience = Patience(watcher)

    def _handle_event(self, event: events.Event) -> CommandGenerator[None]:
        if isinstance(event, events.Wakeup):
            if self.state == self.linger:
                yield commands.CloseConnection(self.conn)
            elif self.state == self.wait and self._half_closed and self.response is None:
                yield from super().wait(events.ConnectionClosed(self.conn))
            return
        if isinstance(event, Nudge):
            if isinstance(event, Tick) and (late := self._patience.late(event.now)) is not None:
                yield from self._refuse_late(head.Flaw(Reason.CLIENT_TIMEOUT, late), begun=late is BODY)
            return
        yield from super()._handle_event(event)
        kind = BODY if self.state == self.read_body else HEAD if self.state == self.read_headers and self.buf else None
        self._patience.waits(kind, len(event.data) if isinstance(event, events.DataReceived) else 0)

    def send(self, event: HttpEvent) -> CommandGenerator[None]:
        """[H6] Stock answers errors with an HTML page that names the engine and its version."""
        if isinstance(event, ResponseProtocolError) and event.code.http_status_code() and not self.response:
            watcher = watcher_of(self.context.client)
            code, message = event.code.name, event.message
            answer = (
                watcher.fault(code, message) if watcher is not None else refusal.of_reason(refusal.fault_reason(code, message))
            )
            yield from self._answer(answer)
            return
        if isinstance(event, ResponseHeaders):
            if 100 <= event.response.status_code < 200 and event.response.status_code != 101:
                if self.request is not None and self.request.http_version != "HTTP/1.0":  # RFC 9110, section 15.2
                    head_ = http1.assemble_response_head(event.response)  # type: ignore[no-untyped-call]
                    yield commands.SendData(self.conn, head_)
                return
            event = ResponseHeaders(event.stream_id, self._framed(event.response), event.end_stream)
        elif isinstance(event, ResponseTrailers):
            self._trailers = event.trailers
            return
        elif isinstance(event, ResponseData) and not event.data:
            return  # [H10] it would be written as the last chunk
        if self._trailers is not None and isinstance(event, ResponseEndOfMessage):
            trailers, self._trailers = self._trailers, None
            yield from _trailed(super().send(event), trailers)
        else:
            yield from super().send(event)

    def _framed(self, response: http.Response) -> http.Response:
        """`response` as this client can tell its end.

        [H11] Stock ends an HTTP/2 answer without a length by closing, where a cut one looks whole and trailers are lost; [H12] it
        sends chunks to HTTP/1.0, which has none.
        """
        assert self.request is not None
        old = self.request.http_version == "HTTP/1.0"
        if not old and not response.is_http2:
            return response
        framed = response.copy()
        framed.http_version = "HTTP/1.1"
        if response.is_http2:
            framed.reason = status_codes.RESPONSES.get(response.status_code, "")
        size = http1.expected_http_body_size(self.request, framed)
        if not old:
            if size == -1:
                framed.headers["transfer-encoding"] = "chunked"
            return framed
        framed.headers.pop("transfer-encoding", None)
        leaves = http1.connection_close(self.request.http_version, self.request.headers)  # type: ignore[no-untyped-call]
        ends = size is None or size < 0 or leaves
        framed.headers["connection"] = "close" if ends else "keep-alive"
        return framed

    def read_headers(self, event: events.ConnectionEvent) -> CommandGenerator[None]:
        """[H1] Stock reads a head of any size. [H2] Stock keeps bare CR, NUL and obs-fold, and several Host fields."""
        if not isinstance(event, events.DataReceived):
            yield commands.CloseConnection(self.conn)
            return
        lines = self.buf.maybe_extract_lines()
        while lines is not None and not lines:  # RFC 9112, section 2.2: empty lines before a request line
            lines = self.buf.maybe_extract_lines()
        if lines is None:
            if (too_long := head.too_long(self.buf._data, self._bounds)) is not None:
                yield from self._refuse(*too_long)
            elif len(self.buf) > MAX_HEAD:
                yield from self._refuse(Reason.HEAD_TOO_LARGE)
            elif self.buf.is_next_line_obviously_invalid_request_line() and self.buf._data[0] not in b"\r\n":
                yield from self._refuse(Reason.BAD_REQUEST, "these bytes are not HTTP")
            return
        if sum(map(len, lines)) > MAX_HEAD:
            yield from self._refuse(Reason.HEAD_TOO_LARGE)
            return
        flaw = head.too_many(lines[0], len(lines) - 1, self._bounds) or head.judge_http1(
            lines, tunnelled=self.context.client.tls or is_origin_form(self.context)
        )
        if flaw is not None:
            yield from self._refuse(flaw.reason, flaw.detail)
            return
        try:
            request = http1.read_request_head([bytes(line) for line in lines])
            size = http1.expected_http_body_size(request)
        except ValueError:
            yield from self._refuse(Reason.BAD_REQUEST)
            return
        self.request = request
        yield ReceiveHttp(RequestHeaders(self.stream_id, request, size == 0))
        self.body_reader = chunks.make_body_reader(size)
        self.state = self.read_body
        yield from self.state(event)

    def wait(self, event: events.Event) -> CommandGenerator[None]:
        """[H13] Stock takes the end of a client's side for its end, and drops the answer that it waits for.

        Only without TLS: a TLS client that ends its side does so because it leaves.
        """
        if isinstance(event, events.ConnectionClosed) and not self.context.client.tls and self._still_reads():
            self._half_closed = True
            yield commands.RequestWakeup(HALF_CLOSED_S)
            return
        yield from super().wait(event)

    def _still_reads(self) -> bool:
        return bool(self.conn.state & ConnectionState.CAN_WRITE)

    def read_body(self, event: events.Event) -> CommandGenerator[None]:
        """[H8] Stock hangs up without a word on a client whose body is not framed as its head says."""
        for command in super().read_body(event):
            broken = isinstance(command, commands.CloseConnection) and not self.request_done
            if broken and isinstance(event, events.DataReceived) and self.response is None:
                yield from self._refuse(Reason.BAD_REQUEST, "the body is not framed as the head says")
                continue
            if isinstance(command, ReceiveHttp) and isinstance(command.event, RequestEndOfMessage):
                fields = getattr(self.body_reader, "trailers", ())
                flaw = trailers.judge(fields) if fields else None
                if flaw is not None:
                    yield from self._refuse_late(flaw)
                    return
                if kept := trailers.kept(fields):
                    yield ReceiveHttp(RequestTrailers(self.stream_id, http.Headers(kept)))
            yield command

    def _refuse_late(self, flaw: head.Flaw, *, begun: bool = True) -> CommandGenerator[None]:
        """Refuse a request whose body is under way to the origin, which never gets the end of it."""
        if self.response is None:
            yield from self._refuse(flaw.reason, flaw.detail)
        else:
            watcher = watcher_of(self.context.client)
            if watcher is not None:
                watcher.refuse(flaw.reason, flaw.detail)
            yield commands.CloseConnection(self.conn)
            self.state = self.linger
        if begun:
            yield ReceiveHttp(RequestProtocolError(self.stream_id, flaw.detail, ErrorCode.GENERIC_CLIENT_ERROR))

    def mark_done(self, *, request: bool = False, response: bool = False) -> CommandGenerator[None]:
        """[H7] With a refusal sent before the body arrived, stock would go on parsing a body of any size for any time."""
        yield from super().mark_done(request=request, response=response)
        if self.response_done and not self.request_done:
            yield from self._linger()
        elif self._half_closed and self.state in (self.read_headers, self.read_body):
            self._half_closed = False
            yield from self.state(events.ConnectionClosed(self.conn))  # nothing more comes

    def linger(self, event: events.ConnectionEvent) -> CommandGenerator[None]:
        """State: answered; what the client still sends is thrown away, so that no RST overtakes the answer."""
        thrown = self.buf.maybe_extract_at_most(len(self.buf))
        self._discarded += len(thrown or b"")
        if isinstance(event, events.ConnectionClosed) or self._discarded > MAX_DISCARD:
            yield commands.CloseConnection(self.conn)

    def _refuse(self, reason: Reason, detail: str = "") -> CommandGenerator[None]:
        watcher = watcher_of(self.context.client)
        answer = refusal.of_reason(reason, detail) if watcher is None else watcher.refuse(reason, detail)
        yield from self._answer(answer)

    def _answer(self, answer: refusal.Refusal) -> CommandGenerator[None]:
        yield commands.SendData(self.conn, refusal.as_http1(answer))
        yield from self._linger()

    def _linger(self) -> CommandGenerator[None]:
        self.state = self.linger
        self.buf.maybe_extract_at_most(len(self.buf))
        yield commands.RequestWakeup(LINGER_S)


class Http1Client(_http1.Http1Client):
    """The origin's side: framed bodies and trailers, 1xx that are not the answer, bounded heads."""

    _interim = 0
    _trailers: http.Headers | None = None

    def send(self, event: HttpEvent) -> CommandGenerator[None]:
        """[H5] Stock writes the body of an HTTP/2 request without content-length with no framing at all.

        The origin then reads the body as the next request: request smuggling (confirmed; CWE-444).

        [H10] Stock writes an empty DATA frame of HTTP/2 as the chunk that ends the body; what follows is the next
        message (CWE-444).
        """
        if isinstance(event, RequestHeaders):
            event = RequestHeaders(event.stream_id, self._adapted(event.request, event.end_stream), event.end_stream)
        elif isinstance(event, (RequestData, RequestTrailers, RequestEndOfMessage)) and self.state == self.done:
            return  # the origin answered early and closed
        elif isinstance(event, RequestTrailers):
            self._trailers = event.trailers
            return
        elif isinstance(event, RequestData) and not event.data:
            return  # [H10]
        if self._trailers is not None and isinstance(event, RequestEndOfMessage):
            trailers, self._trailers = self._trailers, None
            yield from _trailed(super().send(event), trailers)
        else:
            yield from super().send(event)

    @staticmethod
    def _adapted(request: http.Request, end_stream: bool) -> http.Request:
        """`request` as HTTP/1.1 says it: framed, in our own version (RFC 9110, section 6.2), with TE named as hop-by-hop."""
        if request.is_http2 and not end_stream and "content-length" not in request.headers:
            request.headers["transfer-encoding"] = "chunked"
        if request.http_version == "HTTP/1.0":
            request = request.copy()
            request.http_version = "HTTP/1.1"
        if "te" in request.headers:
            request.headers.add("Connection", "TE")
        return request

    def read_headers(self, event: events.ConnectionEvent) -> CommandGenerator[None]:
        """[H4] Stock takes a 1xx for the final response. [H1] It reads a head of any size. [H2] It keeps bare CR and NUL.

        [H9] It splits the status line at any white space and takes any number for a status; what it does not see as a 1xx, and
        the client does, ends in a client that waits for ever.
        """
        if isinstance(event, events.DataReceived) and self.request:
            status = self._status()
            while status is not None and status[1][:1] == b"1" and status[1] != b"101":
                lines = self.buf.maybe_extract_lines()
                if lines is None:
                    break  # its head is not complete yet
                interim = _interim(lines)
                self._interim += 1
                if interim is None or self._interim > _MAX_INTERIM:
                    yield from self._give_up("unexpected interim response")
                    return
                assert self.stream_id is not None
                yield ReceiveHttp(ResponseHeaders(self.stream_id, interim, False))
                status = self._status()
            if len(self.buf) > MAX_HEAD and b"\n\r\n" not in self.buf._data[: MAX_HEAD + 2]:
                yield from self._give_up("response head too large")
                return
            if status is None and b"\n" in self.buf._data.lstrip(b"\r\n"):
                yield from self._give_up("not a status line")
                return
            if status is not None and status[1][:1] == b"1" and status[1] != b"101":
                return
        for command in super().read_headers(event):
            inner = command.event if isinstance(command, ReceiveHttp) else None
            if isinstance(inner, ResponseHeaders):
                if not _unfold(inner.response.headers):
                    yield from self._give_up("response header with a control character")
                    return
                if inner.response.status_code == 101 and not is_handshake(self.request, inner.response):
                    yield from self._give_up("switches to a protocol that nobody asked for")
                    return
            yield command

    def read_body(self, event: events.Event) -> CommandGenerator[None]:
        """[H3] Trailers go on as an event of their own, without those that may not stand there."""
        for command in super().read_body(event):
            if isinstance(command, ReceiveHttp) and isinstance(command.event, ResponseEndOfMessage):
                fields = getattr(self.body_reader, "trailers", ())
                if fields and trailers.malformed(fields):
                    yield from self._give_up("response trailer with a control character")
                    return
                if kept := trailers.kept(fields):
                    assert self.stream_id is not None
                    yield ReceiveHttp(ResponseTrailers(self.stream_id, http.Headers(kept)))
            yield command

    def _status(self) -> re.Match[bytes] | None:
        """The status line at the start of what was received, if it is a whole one and is well formed."""
        return _STATUS.match(self.buf._data)

    def mark_done(self, *, request: bool = False, response: bool = False) -> CommandGenerator[None]:
        yield from super().mark_done(request=request, response=response)
        if self.request is None:
            self._interim = 0

    def _give_up(self, message: str) -> CommandGenerator[None]:
        assert self.stream_id is not None
        yield commands.CloseConnection(self.conn)
        yield ReceiveHttp(ResponseProtocolError(self.stream_id, message, ErrorCode.GENERIC_SERVER_ERROR))
        self.state = self.done


def _trailed(sent: CommandGenerator[None], trailers: http.Headers) -> CommandGenerator[None]:
    """The end of a message as stock sends it, with `trailers` in the last chunk if there is one."""
    for command in sent:
        if trailers and isinstance(command, commands.SendData) and command.data == chunks.LAST:
            command = commands.SendData(command.connection, chunks.last(trailers))
        yield command


def _interim(lines: list[bytearray]) -> http.Response | None:
    """A 1xx response from its head; None if it is malformed. It has no body and no framing (RFC 9110, section 15.2)."""
    try:
        response = http1.read_response_head([bytes(line) for line in lines])
    except ValueError:
        return None
    response.headers.fields = tuple(f for f in response.headers.fields if f[0].lower() not in trailers.FORBIDDEN)
    if not _unfold(response.headers) or not all(head.is_field(*f) for f in response.headers.fields):
        return None
    return response


def _unfold(headers: http.Headers) -> bool:
    """Put obs-fold into one line (RFC 9112, section 5.2: a proxy MUST); False if a value holds what no value may hold."""
    fields = headers.fields
    if any(b"\r" in value or b"\0" in value or b"\n" in value for _, value in fields):
        headers.fields = fields = tuple((name, _FOLD.sub(b" ", value)) for name, value in fields)
    return not any(b"\r" in value or b"\0" in value or b"\n" in value for _, value in fields)


def is_origin_form(context: Context) -> bool:
    """Whether requests in the clear name a path only: the client takes us for the origin (the transparent listener)."""
    return isinstance(context.layers[0], TransparentProxy)
