"""One request and its response, as a subclass of the engine's HttpStream.

Lives here: the early answer, the answers before the answer (1xx), whose fault an error is. May not live here: what an answer
says.
"""

from __future__ import annotations

import time
from typing import Final

from mitmproxy import flow, http
from mitmproxy.proxy import events
from mitmproxy.proxy.layer import CommandGenerator
from mitmproxy.proxy.layers import http as engine_http
from mitmproxy.proxy.layers.http._events import (
    ErrorCode,
    RequestData,
    RequestEndOfMessage,
    RequestHeaders,
    RequestProtocolError,
    ResponseData,
    ResponseHeaders,
    ResponseProtocolError,
)
from mitmproxy.proxy.layers.http._hooks import HttpErrorHook, HttpResponseHeadersHook

from outpass.gate.engine.h2 import EarlyEnd
from outpass.gate.engine.pacing import Nudge
from outpass.gate.engine.patience import Tick
from outpass.gate.engine.watcher import METER, Meter, watcher_of
from outpass.gate.refusal import tagged
from outpass.gate.translate import strip_response
from outpass.reasons import Reason

FAULT: Final = "outpass.fault"
"""Key of flow.metadata: the name of the engine's ErrorCode, when the origin failed."""


def request_bytes(request: http.Request) -> int:
    """Size of a request's head as HTTP/1 would carry it: what is counted for either version."""
    data = request.data
    return len(data.method) + len(data.path) + 13 + _fields_bytes(request.headers)


def response_bytes(response: http.Response) -> int:
    """The same of a response's head."""
    return 17 + len(response.data.reason) + _fields_bytes(response.headers)


def _fields_bytes(headers: http.Headers) -> int:
    return 2 + sum(len(name) + len(value) + 4 for name, value in headers.fields)


class HttpStream(engine_http.HttpStream):
    """[S1] An answer that a hook gives at the head is sent at once; the body is not waited for, and not kept.

    Stock waits for the whole body, in memory, before it sends such an answer, and raises when the request streams.
    """

    _expects = False

    _first_by: float | None = None
    """When the head of the answer must be here (time.monotonic())."""

    def state_wait_for_request_headers(self, event: RequestHeaders) -> CommandGenerator[None]:
        """[S4] Stock answers `100 Continue` by itself, before an origin was asked, so that a 417 or 413 comes after the body.

        The expectation is the origin's to meet (RFC 9110, section 10.1.1): it is sent on, and its 100 comes back.
        """
        self._expects = event.request.headers.pop("expect", None) is not None and not event.end_stream
        yield from super().state_wait_for_request_headers(event)

    def start_request_stream(self) -> CommandGenerator[None]:
        if self.flow.response:
            self.client_state = self.state_consume_request_body
            return
        if self._expects:
            self.flow.request.headers["expect"] = "100-continue"
        yield from super().start_request_stream()

    def state_wait_for_response_headers(self, event: ResponseHeaders) -> CommandGenerator[None]:
        """A 1xx goes on to the client, and the answer is still waited for [H4].

        An HTTP/1 client of an HTTP/2 origin is spared Early Hints: many take them for the answer (RFC 8297, section 3).
        """
        response = event.response
        if not 100 <= response.status_code < 200 or response.status_code == 101:
            yield from super().state_wait_for_response_headers(event)
        elif response.status_code == 100 or self.flow.request.is_http2 or not response.is_http2:
            strip_response(response)
            yield engine_http.SendHttp(event, self.context.client)

    def _handle_event(self, event: events.Event) -> CommandGenerator[None]:
        if isinstance(event, (RequestData, ResponseData, ResponseHeaders)) and METER in self.flow.metadata:
            yield from self._metered(event, self.flow.metadata[METER])
            return
        if isinstance(event, Nudge):
            if isinstance(event, Tick):
                yield from self._tick(event)
            return
        if isinstance(event, RequestEndOfMessage) and not self.flow.response:
            self._answer_due()
        yield from super()._handle_event(event)
        if (
            isinstance(event, RequestHeaders)
            and not event.end_stream
            and self.client_state == self.state_consume_request_body
            and self.flow.response
            # A small body may be here already; then the answer comes in turn, and the connection stays.
            and not any(isinstance(e, RequestEndOfMessage) for e in self._paused_event_queue)
        ):
            yield from self._answer_now()

    def send_response(self, already_streamed: bool = False) -> CommandGenerator[None]:
        """[S5] Stock keeps the end of an answer back until the request is over, which an HTTP/2 client may wait for."""
        yield from super().send_response(already_streamed)
        if self.client_state == self.state_stream_request_body and self.flow.request.is_http2:
            yield engine_http.SendHttp(EarlyEnd(self.stream_id), self.context.client)

    def handle_protocol_error(self, event: RequestProtocolError | ResponseProtocolError) -> CommandGenerator[None]:
        """[S2] The error hook is given a text and not whose fault it was; note the code of an error of the origin."""
        if isinstance(event, ResponseProtocolError):
            self.flow.metadata[FAULT] = event.code.name
        yield from super().handle_protocol_error(event)

    def check_invalid(self, request: bool) -> CommandGenerator[bool]:
        if request:
            return (yield from super().check_invalid(request))
        self.flow.metadata[FAULT] = ErrorCode.RESPONSE_VALIDATION_FAILED.name
        invalid = yield from super().check_invalid(request)
        if not invalid:
            del self.flow.metadata[FAULT]
        return invalid

    def _answer_due(self) -> None:
        """The request is whole: the origin has so long to begin its answer. What follows the head may be slow."""
        watcher = watcher_of(self.context.client)
        if watcher is not None:
            self._first_by = time.monotonic() + watcher.bounds.first_byte_s
            watcher.due(self._first_by)

    def _tick(self, tick: Tick) -> CommandGenerator[None]:
        if (
            self.server_state in (self.state_done, self.state_errored, self.state_uninitialized)
            or self.flow.request.method == "CONNECT"
        ):
            return
        if tick.stalled is not None and tick.stalled is self.context.server:
            yield from self._cut(tagged(Reason.UPSTREAM_TIMEOUT, "the origin does not read the request"))
        elif self.server_state == self.state_wait_for_response_headers and self._first_by is not None:
            if tick.now >= self._first_by:
                yield from self._cut(tagged(Reason.UPSTREAM_TIMEOUT, "the origin has not begun to answer"))
            elif (watcher := watcher_of(self.context.client)) is not None:
                watcher.due(self._first_by)

    def _metered(self, event: RequestData | ResponseData | ResponseHeaders, meter: Meter) -> CommandGenerator[None]:
        """Pass on as many bytes as the limits of the policy grant; when that is not all, the exchange ends there."""
        if self.client_state == self.state_errored or self.server_state == self.state_errored:
            return
        if isinstance(event, ResponseHeaders):
            size = response_bytes(event.response)
            granted = meter.back(size)
        else:
            size = len(event.data)
            granted = meter.out(size) if isinstance(event, RequestData) else meter.back(size)
            event.data = event.data[:granted]
        if granted == size or (granted and not isinstance(event, ResponseHeaders)):
            yield from super()._handle_event(event)
        if granted < size:
            yield from self._cut(tagged(meter.reason, "the limit is used up"))

    def _cut(self, message: str) -> CommandGenerator[None]:
        """End the exchange on both sides: with an answer where there was none yet, else not as if it were whole."""
        self.flow.metadata[FAULT] = ErrorCode.KILL.name
        self.flow.error = flow.Error(message)
        yield HttpErrorHook(self.flow)
        talks = self.client_state in (self.state_stream_request_body, self.state_done)
        if talks and self.server_state != self.state_done:
            yield engine_http.SendHttp(RequestProtocolError(self.stream_id, message, ErrorCode.CANCEL), self.context.server)
        yield engine_http.SendHttp(
            ResponseProtocolError(self.stream_id, message, ErrorCode.GENERIC_CLIENT_ERROR), self.context.client
        )
        self.flow.live = False
        self.client_state = self.server_state = self.state_errored
        yield engine_http.DropStream(self.stream_id)

    def _answer_now(self) -> CommandGenerator[None]:
        self.client_state = self.state_discard
        response = self.flow.response
        assert response is not None
        if not (self.flow.request.is_http2 or self.flow.request.is_http3):
            response.headers["connection"] = "close"
        response.timestamp_start = time.time()
        response.stream = False
        yield HttpResponseHeadersHook(self.flow)
        if (yield from self.check_killed(True)):
            return
        yield from self.send_response()
        yield from self.flow_done()

    def state_discard(self, _: events.Event) -> CommandGenerator[None]:
        """State: answered; the rest of the request is thrown away (the connection's layer keeps the bound)."""
        yield from ()
