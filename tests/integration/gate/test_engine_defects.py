"""Every override of the engine's layers, beside the stock class that it replaces: the stock class shows the defect of
gate/README.md, ours does not. The day the stock class does not show it any more, its test fails and the override can go.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
import hyperframe.frame
import pytest
from mitmproxy import http
from mitmproxy.connection import ConnectionState
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.layer import Layer
from mitmproxy.proxy.layers import tls

from outpass.gate.engine import hello
from tests.support.engine import Drive, engine

HEAD = b"GET /a HTTP/1.1\r\nHost: api.test\r\n"
POST = b"POST /a HTTP/1.1\r\nHost: api.test\r\n"


@pytest.fixture(params=["stock", "ours"])
def ours(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Whether the classes are ours."""
    with engine(request.param):
        yield request.param == "ours"


def _stream(name: str, data: Any) -> None:
    if name == "requestheaders":
        data.request.stream = True
    if name == "responseheaders":
        data.response.stream = True


def _deny(name: str, data: Any) -> None:
    if name == "requestheaders":
        data.response = http.Response.make(403, b"no")


def _h2_client() -> h2.connection.H2Connection:
    config = h2.config.H2Configuration(
        client_side=True,
        header_encoding="latin-1",
        validate_outbound_headers=False,
        normalize_outbound_headers=False,
        validate_inbound_headers=False,
    )
    client = h2.connection.H2Connection(config)
    client.initiate_connection()
    return client


def _h2_head(**changes: str) -> list[tuple[str, str]]:
    fields = {"method": "GET", "scheme": "https", "authority": "api.test", "path": "/a", **changes}
    return [(f":{name}", value) for name, value in fields.items()]


def _statuses(client: h2.connection.H2Connection, data: bytes) -> list[int]:
    found = client.receive_data(data)
    return [int(dict(e.headers)[":status"]) for e in found if isinstance(e, h2.events.ResponseReceived)]


def test_h1_a_request_head_has_a_bound(ours: bool) -> None:
    drive = Drive()
    for _ in range(100):
        drive.from_client((HEAD if not drive.sent else b"") + b"X: " + b"a" * 2000 + b"\r\n")
    assert drive.to_client.startswith(b"HTTP/1.1 431") is ours


def test_h1_a_response_head_has_a_bound(ours: bool) -> None:
    drive = Drive(_stream)
    drive.from_client(HEAD + b"\r\n")
    drive.from_origin(b"HTTP/1.1 200 OK\r\n")
    for _ in range(100):
        drive.from_origin(b"X: " + b"a" * 2000 + b"\r\n")
    assert drive.to_client.startswith(b"HTTP/1.1 502") is ours


@pytest.mark.parametrize("field", [b"X: a\rHost: evil.test", b"X: a\0b", b"X: a\r\n folded", b"Host: evil.test"])
def test_h2_fields_that_two_parsers_read_differently_are_not_sent_on(ours: bool, field: bytes) -> None:
    drive = Drive(_stream)
    drive.from_client(HEAD + field + b"\r\n\r\n")
    assert (drive.to_origin == b"") is ours
    assert drive.to_client.startswith(b"HTTP/1.1 400") is ours


def test_h2_an_absolute_target_inside_a_tunnel_is_not_sent_on(ours: bool) -> None:
    drive = Drive(_stream)
    drive.from_client(b"GET https://evil.test/a HTTP/1.1\r\nHost: api.test\r\n\r\n")
    assert (b"evil.test" not in drive.to_origin) is ours


def test_h3_request_trailers_do_not_crash(ours: bool) -> None:
    drive = Drive(_stream)
    data = POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Trailer: 1\r\n\r\n"
    if not ours:
        with pytest.raises(NotImplementedError):
            drive.from_client(data)
        return
    drive.from_client(data)
    assert drive.to_origin.endswith(b"2\r\nok\r\n0\r\nx-trailer: 1\r\n\r\n")


def test_h3_response_trailers_do_not_crash(ours: bool) -> None:
    drive = Drive(_stream)
    drive.from_client(HEAD + b"\r\n")
    data = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-trailer: 1\r\n\r\n"
    if not ours:
        with pytest.raises(NotImplementedError):
            drive.from_origin(data)
        return
    drive.from_origin(data)
    assert drive.to_client.endswith(b"2\r\nok\r\n0\r\nx-trailer: 1\r\n\r\n")


def test_h3_a_trailer_section_has_a_bound(ours: bool) -> None:
    drive = Drive(_stream)
    drive.from_client(POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n")
    for _ in range(100):
        drive.from_client(b"X: " + b"a" * 2000 + b"\r\n")
    assert drive.to_client.startswith(b"HTTP/1.1 400") is ours


def test_h8_a_body_that_is_not_framed_as_promised_gets_an_answer(ours: bool) -> None:
    drive = Drive(_stream)
    drive.from_client(POST + b"Transfer-Encoding: chunked\r\n\r\nnonsense\r\n")
    assert drive.to_client.startswith(b"HTTP/1.1 400") is ours


def test_h4_an_interim_response_is_not_taken_for_the_final_one(ours: bool) -> None:
    drive = Drive(_stream)
    drive.from_client(HEAD + b"\r\n")
    drive.from_origin(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n")
    drive.from_origin(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
    early = b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"
    assert drive.to_client.startswith(early)
    assert drive.to_client.removeprefix(early).startswith(b"HTTP/1.1 200 OK") is ours


def test_h5_an_http2_body_is_framed_towards_http1(ours: bool) -> None:
    drive = Drive(_stream, alpn=b"h2")
    client = _h2_client()
    client.send_headers(1, _h2_head(method="POST"))
    client.send_data(1, b"GET /SMUGGLED HTTP/1.1\r\nHost: api.test\r\n\r\n", end_stream=True)
    drive.from_client(client.data_to_send())
    head, _, body = drive.to_origin.partition(b"\r\n\r\n")
    assert (b"transfer-encoding: chunked" in head) is ours
    assert (not body.startswith(b"GET /SMUGGLED")) is ours, "an origin would execute it"


def test_h10_an_empty_data_frame_does_not_end_the_body(ours: bool) -> None:
    drive = Drive(_stream, alpn=b"h2")
    client = _h2_client()
    client.send_headers(1, _h2_head(method="POST"))
    client.send_data(1, b"")
    client.send_data(1, b"GET /smuggled HTTP/1.1\r\n\r\n", end_stream=True)
    drive.from_client(client.data_to_send())
    assert drive.to_origin.partition(b"\r\n\r\n")[2].startswith(b"1a\r\nGET") is ours, "stock does not frame it at all"


def test_h6_an_error_page_names_no_engine(ours: bool) -> None:
    drive = Drive(_stream)
    drive.from_client(HEAD + b"\r\n")
    drive.from_origin(b"nonsense\r\n\r\n")
    assert drive.to_client.startswith(b"HTTP/1.1 502")
    assert (b"mitmproxy" not in drive.to_client) is ours
    assert (b"application/problem+json" in drive.to_client) is ours


def test_h7_a_refused_body_is_not_parsed_for_ever(ours: bool) -> None:
    drive = Drive(_deny)
    drive.from_client(POST + b"Transfer-Encoding: chunked\r\n\r\n")
    block = b"100000\r\n" + bytes(1 << 20) + b"\r\n"
    for _ in range(70):
        drive.from_client(block)
    assert (drive.client in drive.closed) is ours


def test_s1_a_refusal_does_not_wait_for_the_body(ours: bool) -> None:
    drive = Drive(_deny)
    drive.from_client(POST + b"Content-Length: 1000000\r\n\r\nsome")
    assert drive.to_client.startswith(b"HTTP/1.1 403") is ours


def test_s1_a_refusal_and_a_streamed_request_do_not_crash(ours: bool) -> None:
    def hook(name: str, data: Any) -> None:
        _deny(name, data)
        _stream(name, data)

    drive = Drive(hook)
    data = POST + b"Content-Length: 1000000\r\n\r\nsome"
    if not ours:
        with pytest.raises(NotImplementedError):
            drive.from_client(data)
        return
    drive.from_client(data)
    assert drive.to_client.startswith(b"HTTP/1.1 403")


def test_s2_whose_fault_an_error_is_can_be_told(ours: bool) -> None:
    codes = []

    def hook(name: str, data: Any) -> None:
        _stream(name, data)
        if name == "error":
            codes.append(data.metadata.get("outpass.fault"))

    drive = Drive(hook)
    drive.from_client(HEAD + b"\r\n")
    drive.from_origin(b"nonsense\r\n\r\n")
    assert codes == (["GENERIC_SERVER_ERROR"] if ours else [None])


def test_t1_an_http2_error_page_names_no_engine(ours: bool) -> None:
    drive = Drive(_stream, alpn=b"h2")
    client = _h2_client()
    client.send_headers(1, _h2_head(), end_stream=True)
    drive.from_client(client.data_to_send())
    drive.from_origin(b"nonsense\r\n\r\n")
    headers = [dict(e.headers) for e in client.receive_data(drive.to_client) if isinstance(e, h2.events.ResponseReceived)]
    assert headers[0][":status"] == "502"
    assert ("server" not in headers[0]) is ours


@pytest.mark.parametrize("changes", [{"path": "http://evil.test/a"}, {"path": "/a b"}, {"scheme": "http"}])
def test_t2_http2_heads_that_mean_something_else_in_http1_are_not_sent_on(ours: bool, changes: dict[str, str]) -> None:
    drive = Drive(_stream, alpn=b"h2")
    client = _h2_client()
    client.send_headers(1, _h2_head(**changes), end_stream=True)
    drive.from_client(client.data_to_send())
    assert (drive.to_origin == b"") is ours
    assert (_statuses(client, drive.to_client) != []) is ours


def test_t2_a_pass_in_request_trailers_is_not_sent_on(ours: bool) -> None:
    drive = Drive(_stream, alpn=b"h2", origin_alpn=b"h2")
    client = _h2_client()
    client.send_headers(1, _h2_head(method="POST"))
    client.send_headers(1, [("outpass-token", "secret")], end_stream=True)
    drive.from_client(client.data_to_send())
    config = h2.config.H2Configuration(client_side=False, header_encoding="latin-1", validate_inbound_headers=False)
    origin = h2.connection.H2Connection(config)
    found = origin.receive_data(drive.to_origin)
    assert (not any(isinstance(e, h2.events.TrailersReceived) for e in found)) is ours
    assert _statuses(client, drive.to_client) == ([400] if ours else [])


def test_t4_an_endless_refused_upload_is_reset(ours: bool) -> None:
    drive = Drive(_deny, alpn=b"h2")
    client = _h2_client()
    client.send_headers(1, _h2_head(method="POST"))
    drive.from_client(client.data_to_send())
    seen = 0
    reset = False
    for _ in range(70 * 64):
        for event in client.receive_data(drive.to_client[seen:]):
            reset = reset or isinstance(event, h2.events.StreamReset)
        seen = len(drive.to_client)
        if reset:
            break
        client.send_data(1, bytes(16_384))
        drive.from_client(client.data_to_send())
    assert reset is ours


def test_t5_response_trailers_from_http2_do_not_crash_an_http1_client(ours: bool) -> None:
    drive = Drive(_stream, origin_alpn=b"h2")
    drive.from_client(HEAD + b"\r\n")
    origin = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
    origin.initiate_connection()
    origin.receive_data(drive.to_origin)
    origin.send_headers(1, [(":status", "200")])
    origin.send_data(1, b"ok")
    origin.send_headers(1, [("x-trailer", "1")], end_stream=True)
    if not ours:
        with pytest.raises(AssertionError):
            drive.from_origin(origin.data_to_send())
        return
    drive.from_origin(origin.data_to_send())
    assert drive.to_client.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("line", [b"HTTP/1.1  100 Continue", b"HTTP/1.1 2_0_0 OK", b"HTTP/9.9 200 OK", b"HTTP/1.1 200 O\rK"])
def test_h9_a_status_line_that_is_none_is_a_fault(ours: bool, line: bytes) -> None:
    drive = Drive(_stream)
    drive.from_client(HEAD + b"\r\n")
    drive.from_origin(line + b"\r\n\r\n")
    assert drive.to_client.startswith(b"HTTP/1.1 502") is ours


def test_h9_a_status_that_is_none_in_http2_is_a_fault(ours: bool) -> None:
    drive = Drive(_stream, origin_alpn=b"h2")
    drive.from_client(HEAD + b"\r\n")
    config = h2.config.H2Configuration(client_side=False, validate_outbound_headers=False)
    origin = h2.connection.H2Connection(config)
    origin.initiate_connection()
    origin.receive_data(drive.to_origin)
    origin.send_headers(1, [(":status", "-1")], end_stream=True)
    drive.from_origin(origin.data_to_send())
    assert drive.to_client.startswith(b"HTTP/1.1 502") is ours


def test_t7_a_body_that_is_announced_and_cannot_come_is_not_announced_to_the_origin(ours: bool) -> None:
    drive = Drive(_stream, alpn=b"h2")
    client = _h2_client()
    client.send_headers(1, [*_h2_head(method="POST"), ("content-length", "50")], end_stream=True)
    drive.from_client(client.data_to_send())
    assert (b"content-length: 50" not in drive.to_origin) is ours


def _h2_origin(drive: Drive) -> h2.connection.H2Connection:
    """The origin's end of the last connection, which has read what was sent so far."""
    config = h2.config.H2Configuration(client_side=False, header_encoding="latin-1", validate_inbound_headers=False)
    origin = h2.connection.H2Connection(config)
    origin.initiate_connection()
    origin.receive_data(drive.to_origin)
    return origin


def test_h11_a_cut_http2_answer_does_not_look_whole_to_an_http1_client(ours: bool) -> None:
    drive = Drive(_stream, origin_alpn=b"h2")
    drive.from_client(HEAD + b"\r\n")
    origin = _h2_origin(drive)
    origin.send_headers(1, [(":status", "200")])
    origin.send_data(1, b"half")
    origin.reset_stream(1)
    drive.from_origin(origin.data_to_send())
    head, _, body = drive.to_client.partition(b"\r\n\r\n")
    assert (b"chunked" in head) is ours, "else the end of the connection is the end of the answer"
    assert body == (b"4\r\nhalf\r\n" if ours else b"half") and drive.client in drive.closed


def test_h12_an_http10_client_gets_no_chunks(ours: bool) -> None:
    drive = Drive(_stream)
    drive.from_client(b"GET /a HTTP/1.0\r\nHost: api.test\r\n\r\n")
    drive.from_origin(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")
    assert drive.to_client.endswith(b"\r\n\r\nok") is ours
    assert (b"HTTP/1.1" in drive.to_origin) is ours, "and an origin gets our own version"


def test_h13_the_end_of_a_clients_side_is_not_the_end_of_its_answer(ours: bool) -> None:
    drive = Drive(_stream)
    drive.from_client(HEAD + b"\r\n")
    drive.client.tls = False
    drive.client.state = ConnectionState.CAN_WRITE
    drive.event(events.ConnectionClosed(drive.client))
    assert (drive.client not in drive.closed) is ours


def test_s4_an_origin_may_refuse_a_body_before_it_is_invited(ours: bool) -> None:
    drive = Drive(_stream)
    drive.from_client(POST + b"Content-Length: 5\r\nExpect: 100-continue\r\n\r\n")
    assert (drive.to_client == b"") is ours
    assert (b"expect: 100-continue" in drive.to_origin.lower()) is ours
    drive.from_origin(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert drive.to_client.startswith(b"HTTP/1.1 100 Continue")


def test_s5_the_end_of_an_answer_does_not_wait_for_the_end_of_the_request(ours: bool) -> None:
    drive = Drive(_stream, alpn=b"h2", origin_alpn=b"h2")
    client = _h2_client()
    client.send_headers(1, _h2_head(method="POST"))
    drive.from_client(client.data_to_send())
    origin = _h2_origin(drive)
    origin.send_headers(1, [(":status", "200")])
    origin.send_data(1, b"enough", end_stream=True)
    drive.from_origin(origin.data_to_send())
    found = client.receive_data(drive.to_client)
    assert any(isinstance(e, h2.events.StreamEnded) for e in found) is ours
    client.send_data(1, b"more")
    drive.from_client(client.data_to_send())
    assert drive.to_origin.endswith(b"more"), "the origin still gets what it may want"


def test_t3_a_peer_is_not_given_two_gibibytes_to_send_ahead(ours: bool) -> None:
    drive = Drive(_stream, alpn=b"h2", origin_alpn=b"h2")
    client = _h2_client()
    client.send_headers(1, _h2_head(), end_stream=True)
    drive.from_client(client.data_to_send())
    client.receive_data(drive.to_client)
    assert (client.remote_settings.initial_window_size <= 1 << 20) is ours
    assert (client.outbound_flow_control_window <= 16 << 20) is ours
    origin = _h2_origin(drive)
    assert (origin.remote_settings.initial_window_size <= 1 << 20) is ours


def test_t8_an_origin_that_leaves_ends_what_it_has_taken_and_gets_nothing_more(ours: bool) -> None:
    drive = Drive(_stream, alpn=b"h2", origin_alpn=b"h2")
    client = _h2_client()
    client.send_headers(1, _h2_head(), end_stream=True)
    client.send_headers(3, _h2_head(path="/b"), end_stream=True)
    drive.from_client(client.data_to_send())
    origin = _h2_origin(drive)
    leaving = hyperframe.frame.GoAwayFrame(0, last_stream_id=1).serialize()
    drive.from_origin(origin.data_to_send() + leaving)
    origin.send_headers(1, [(":status", "200")], end_stream=True)
    drive.from_origin(origin.data_to_send())
    found = client.receive_data(drive.to_client)
    answered = [int(dict(e.headers)[":status"]) for e in found if isinstance(e, h2.events.ResponseReceived)]
    refused = [(e.stream_id, e.error_code) for e in found if isinstance(e, h2.events.StreamReset)]
    assert answered == ([200] if ours else [502, 502])
    assert refused == ([(3, h2.errors.ErrorCodes.REFUSED_STREAM)] if ours else []), "which may be sent again"
    if ours:
        client.send_headers(5, _h2_head(path="/c"), end_stream=True)
        drive.from_client(client.data_to_send())
        assert len(drive.origins) == 2, "on a connection of its own"


def test_t12_a_window_that_became_negative_costs_nobody_the_connection(ours: bool) -> None:
    drive = Drive(_stream, alpn=b"h2", origin_alpn=b"h2")
    client = _h2_client()
    client.send_headers(1, _h2_head(), end_stream=True)
    drive.from_client(client.data_to_send())
    origin = _h2_origin(drive)
    origin.send_headers(1, [(":status", "200")])
    origin.send_data(1, b"x" * 100)
    drive.from_origin(origin.data_to_send())
    client.receive_data(drive.to_client)
    client.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 10})
    drive.from_client(client.data_to_send())
    origin.send_data(1, b"y" * 200)
    with nullcontext() if ours else pytest.raises(h2.exceptions.FlowControlError):
        drive.from_origin(origin.data_to_send())


def test_t9_a_client_learns_the_origins_own_code(ours: bool) -> None:
    drive = Drive(_stream, alpn=b"h2", origin_alpn=b"h2")
    client = _h2_client()
    client.send_headers(1, _h2_head(), end_stream=True)
    drive.from_client(client.data_to_send())
    origin = _h2_origin(drive)
    origin.send_headers(1, [(":status", "200")])
    origin.reset_stream(1, h2.errors.ErrorCodes.ENHANCE_YOUR_CALM)
    drive.from_origin(origin.data_to_send())
    (reset,) = [e for e in client.receive_data(drive.to_client) if isinstance(e, h2.events.StreamReset)]
    assert (reset.error_code == h2.errors.ErrorCodes.ENHANCE_YOUR_CALM) is ours


def test_t9_an_origin_that_has_answered_and_wants_no_more_loses_none_of_its_answer(ours: bool) -> None:
    drive = Drive(_stream, alpn=b"h2", origin_alpn=b"h2")
    client = _h2_client()
    client.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 3})
    client.send_headers(1, _h2_head(method="POST"))
    drive.from_client(client.data_to_send())
    origin = _h2_origin(drive)
    origin.send_headers(1, [(":status", "413")])
    origin.send_data(1, b"too large", end_stream=True)
    drive.from_origin(origin.data_to_send())
    origin.reset_stream(1, h2.errors.ErrorCodes.NO_ERROR)
    drive.from_origin(origin.data_to_send())
    found = client.receive_data(drive.to_client)
    assert (not any(isinstance(e, h2.events.StreamReset) for e in found)) is ours
    if ours:
        client.increment_flow_control_window(100, 1)
        drive.from_client(client.data_to_send())
        assert b" large" in drive.to_client


def test_w1_a_websocket_message_is_sent_on_as_it_comes_and_only_if_it_may(ours: bool) -> None:
    from outpass.gate.engine.websocket import RIGHT

    allowed = [True]

    def hook(name: str, data: Any) -> None:
        _stream(name, data)
        if name == "websocket_start":
            data.metadata[RIGHT] = lambda: allowed[0]

    drive = Drive(hook)
    drive.from_client(
        HEAD + b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    drive.from_origin(
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
        b"sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
    )
    before = len(drive.to_origin)
    drive.from_client(b"\x82\xff" + (1 << 30).to_bytes(8, "big") + b"\0\0\0\0" + b"part")
    assert (len(drive.to_origin) > before) is ours, "stock waits for all of a gibibyte"
    allowed[0] = False
    drive.from_origin(b"\x81\x02no")
    assert (not drive.to_client.endswith(b"\x81\x02no")) is ours


def test_t7_a_body_that_trailers_cut_short_is_refused(ours: bool) -> None:
    drive = Drive(_stream, alpn=b"h2")
    client = _h2_client()
    client.send_headers(1, [*_h2_head(method="POST"), ("content-length", "50")])
    client.send_headers(1, [("x-trailer", "1")], end_stream=True)
    with nullcontext() if ours else pytest.raises(AssertionError):  # stock passes trailers to a layer that has no word for them
        drive.from_client(client.data_to_send())
    assert (_statuses(client, drive.to_client) == [400]) is ours


def _feed(layer: Layer, event: events.Event) -> None:
    """One event, with every hook done at once."""
    for command in layer.handle_event(event):
        if isinstance(command, commands.StartHook) and command.blocking:
            _feed(layer, events.HookCompleted(command))


@pytest.mark.parametrize("kind", [tls.ClientTLSLayer, hello.ClientTls])
def test_s3_a_client_hello_has_a_bound_and_what_follows_a_bad_one_is_ignored(kind: type[tls.ClientTLSLayer]) -> None:
    ours = kind is hello.ClientTls
    context = Drive().layer.context.fork()
    tls.ServerTLSLayer(context)
    endless, bad = kind(context), kind(context)
    _feed(endless, events.Start())
    for n in range(12):
        start = b"\x16\x03\x01\x40\x00" + (b"\x01\xff\xff\xff" if n == 0 else b"")
        _feed(endless, events.DataReceived(context.client, start.ljust(0x4005, b"a")))
    assert (len(endless.recv_buffer) <= 65_536) is ours
    _feed(bad, events.Start())
    _feed(bad, events.DataReceived(context.client, b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00"))
    with nullcontext() if ours else pytest.raises(AttributeError):
        _feed(bad, events.DataReceived(context.client, b"more"))
