"""Every override of the engine's layers, beside the stock class that it replaces: the stock class shows the defect of
gate/README.md, ours does not. The day the stock class does not show it any more, its test fails and the override can go.
Here: HTTP/1, streams, TLS; HTTP/2 and websockets are in test_engine_defects_h2.py.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
import pytest
from mitmproxy.connection import ConnectionState
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.layer import Layer
from mitmproxy.proxy.layers import tls

from outpass.gate.engine import hello
from tests.support.engine import Drive, deny, h2_client, h2_head, origin_end, stream

HEAD = b"GET /a HTTP/1.1\r\nHost: api.test\r\n"
POST = b"POST /a HTTP/1.1\r\nHost: api.test\r\n"


def test_h1_a_request_head_has_a_bound(ours: bool) -> None:
    drive = Drive()
    for _ in range(100):
        drive.from_client((HEAD if not drive.sent else b"") + b"X: " + b"a" * 2000 + b"\r\n")
    assert drive.to_client.startswith(b"HTTP/1.1 431") is ours


def test_h1_a_response_head_has_a_bound(ours: bool) -> None:
    drive = Drive(stream)
    drive.from_client(HEAD + b"\r\n")
    drive.from_origin(b"HTTP/1.1 200 OK\r\n")
    for _ in range(100):
        drive.from_origin(b"X: " + b"a" * 2000 + b"\r\n")
    assert drive.to_client.startswith(b"HTTP/1.1 502") is ours


@pytest.mark.parametrize("field", [b"X: a\rHost: evil.test", b"X: a\0b", b"X: a\r\n folded", b"Host: evil.test"])
def test_h2_fields_that_two_parsers_read_differently_are_not_sent_on(ours: bool, field: bytes) -> None:
    drive = Drive(stream)
    drive.from_client(HEAD + field + b"\r\n\r\n")
    assert (drive.to_origin == b"") is ours
    assert drive.to_client.startswith(b"HTTP/1.1 400") is ours


def test_h2_an_absolute_target_inside_a_tunnel_is_not_sent_on(ours: bool) -> None:
    drive = Drive(stream)
    drive.from_client(b"GET https://evil.test/a HTTP/1.1\r\nHost: api.test\r\n\r\n")
    assert (b"evil.test" not in drive.to_origin) is ours


def test_h3_request_trailers_do_not_crash(ours: bool) -> None:
    drive = Drive(stream)
    data = POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Trailer: 1\r\n\r\n"
    if not ours:
        with pytest.raises(NotImplementedError):
            drive.from_client(data)
        return
    drive.from_client(data)
    assert drive.to_origin.endswith(b"2\r\nok\r\n0\r\nx-trailer: 1\r\n\r\n")


def test_h3_response_trailers_do_not_crash(ours: bool) -> None:
    drive = Drive(stream)
    drive.from_client(HEAD + b"\r\n")
    data = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-trailer: 1\r\n\r\n"
    if not ours:
        with pytest.raises(NotImplementedError):
            drive.from_origin(data)
        return
    drive.from_origin(data)
    assert drive.to_client.endswith(b"2\r\nok\r\n0\r\nx-trailer: 1\r\n\r\n")


def test_h3_a_trailer_section_has_a_bound(ours: bool) -> None:
    drive = Drive(stream)
    drive.from_client(POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n")
    for _ in range(100):
        drive.from_client(b"X: " + b"a" * 2000 + b"\r\n")
    assert drive.to_client.startswith(b"HTTP/1.1 400") is ours


def test_h8_a_body_that_is_not_framed_as_promised_gets_an_answer(ours: bool) -> None:
    drive = Drive(stream)
    drive.from_client(POST + b"Transfer-Encoding: chunked\r\n\r\nnonsense\r\n")
    assert drive.to_client.startswith(b"HTTP/1.1 400") is ours


def test_h4_an_interim_response_is_not_taken_for_the_final_one(ours: bool) -> None:
    drive = Drive(stream)
    drive.from_client(HEAD + b"\r\n")
    drive.from_origin(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n")
    drive.from_origin(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
    early = b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"
    assert drive.to_client.startswith(early)
    assert drive.to_client.removeprefix(early).startswith(b"HTTP/1.1 200 OK") is ours


def test_h5_an_http2_body_is_framed_towards_http1(ours: bool) -> None:
    drive = Drive(stream, alpn=b"h2")
    client = h2_client()
    client.send_headers(1, h2_head(method="POST"))
    client.send_data(1, b"GET /SMUGGLED HTTP/1.1\r\nHost: api.test\r\n\r\n", end_stream=True)
    drive.from_client(client.data_to_send())
    head, _, body = drive.to_origin.partition(b"\r\n\r\n")
    assert (b"transfer-encoding: chunked" in head) is ours
    assert (not body.startswith(b"GET /SMUGGLED")) is ours, "an origin would execute it"


def test_h10_an_empty_data_frame_does_not_end_the_body(ours: bool) -> None:
    drive = Drive(stream, alpn=b"h2")
    client = h2_client()
    client.send_headers(1, h2_head(method="POST"))
    client.send_data(1, b"")
    client.send_data(1, b"GET /smuggled HTTP/1.1\r\n\r\n", end_stream=True)
    drive.from_client(client.data_to_send())
    assert drive.to_origin.partition(b"\r\n\r\n")[2].startswith(b"1a\r\nGET") is ours, "stock does not frame it at all"


def test_h6_an_error_page_names_no_engine(ours: bool) -> None:
    drive = Drive(stream)
    drive.from_client(HEAD + b"\r\n")
    drive.from_origin(b"nonsense\r\n\r\n")
    assert drive.to_client.startswith(b"HTTP/1.1 502")
    assert (b"mitmproxy" not in drive.to_client) is ours
    assert (b"application/problem+json" in drive.to_client) is ours


def test_h7_a_refused_body_is_not_parsed_for_ever(ours: bool) -> None:
    drive = Drive(deny)
    drive.from_client(POST + b"Transfer-Encoding: chunked\r\n\r\n")
    block = b"100000\r\n" + bytes(1 << 20) + b"\r\n"
    for _ in range(70):
        drive.from_client(block)
    assert (drive.client in drive.closed) is ours


def test_s1_a_refusal_does_not_wait_for_the_body(ours: bool) -> None:
    drive = Drive(deny)
    drive.from_client(POST + b"Content-Length: 1000000\r\n\r\nsome")
    assert drive.to_client.startswith(b"HTTP/1.1 403") is ours


def test_s1_a_refusal_and_a_streamed_request_do_not_crash(ours: bool) -> None:
    def hook(name: str, data: Any) -> None:
        deny(name, data)
        stream(name, data)

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
        stream(name, data)
        if name == "error":
            codes.append(data.metadata.get("outpass.fault"))

    drive = Drive(hook)
    drive.from_client(HEAD + b"\r\n")
    drive.from_origin(b"nonsense\r\n\r\n")
    assert codes == (["GENERIC_SERVER_ERROR"] if ours else [None])


@pytest.mark.parametrize("line", [b"HTTP/1.1  100 Continue", b"HTTP/1.1 2_0_0 OK", b"HTTP/9.9 200 OK", b"HTTP/1.1 200 O\rK"])
def test_h9_a_status_line_that_is_none_is_a_fault(ours: bool, line: bytes) -> None:
    drive = Drive(stream)
    drive.from_client(HEAD + b"\r\n")
    drive.from_origin(line + b"\r\n\r\n")
    assert drive.to_client.startswith(b"HTTP/1.1 502") is ours


def test_h9_a_status_that_is_none_in_http2_is_a_fault(ours: bool) -> None:
    drive = Drive(stream, origin_alpn=b"h2")
    drive.from_client(HEAD + b"\r\n")
    config = h2.config.H2Configuration(client_side=False, validate_outbound_headers=False)
    origin = h2.connection.H2Connection(config)
    origin.initiate_connection()
    origin.receive_data(drive.to_origin)
    origin.send_headers(1, [(":status", "-1")], end_stream=True)
    drive.from_origin(origin.data_to_send())
    assert drive.to_client.startswith(b"HTTP/1.1 502") is ours


def test_h11_a_cut_http2_answer_does_not_look_whole_to_an_http1_client(ours: bool) -> None:
    drive = Drive(stream, origin_alpn=b"h2")
    drive.from_client(HEAD + b"\r\n")
    origin = origin_end(drive)
    origin.send_headers(1, [(":status", "200")])
    origin.send_data(1, b"half")
    origin.reset_stream(1)
    drive.from_origin(origin.data_to_send())
    head, _, body = drive.to_client.partition(b"\r\n\r\n")
    assert (b"chunked" in head) is ours, "else the end of the connection is the end of the answer"
    assert body == (b"4\r\nhalf\r\n" if ours else b"half") and drive.client in drive.closed


def test_h12_an_http10_client_gets_no_chunks(ours: bool) -> None:
    drive = Drive(stream)
    drive.from_client(b"GET /a HTTP/1.0\r\nHost: api.test\r\n\r\n")
    drive.from_origin(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")
    assert drive.to_client.endswith(b"\r\n\r\nok") is ours
    assert (b"HTTP/1.1" in drive.to_origin) is ours, "and an origin gets our own version"


def test_h13_the_end_of_a_clients_side_is_not_the_end_of_its_answer(ours: bool) -> None:
    drive = Drive(stream)
    drive.from_client(HEAD + b"\r\n")
    drive.client.tls = False
    drive.client.state = ConnectionState.CAN_WRITE
    drive.event(events.ConnectionClosed(drive.client))
    assert (drive.client not in drive.closed) is ours


def test_s4_an_origin_may_refuse_a_body_before_it_is_invited(ours: bool) -> None:
    drive = Drive(stream)
    drive.from_client(POST + b"Content-Length: 5\r\nExpect: 100-continue\r\n\r\n")
    assert (drive.to_client == b"") is ours
    assert (b"expect: 100-continue" in drive.to_origin.lower()) is ours
    drive.from_origin(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert drive.to_client.startswith(b"HTTP/1.1 100 Continue")


def test_s5_the_end_of_an_answer_does_not_wait_for_the_end_of_the_request(ours: bool) -> None:
    drive = Drive(stream, alpn=b"h2", origin_alpn=b"h2")
    client = h2_client()
    client.send_headers(1, h2_head(method="POST"))
    drive.from_client(client.data_to_send())
    origin = origin_end(drive)
    origin.send_headers(1, [(":status", "200")])
    origin.send_data(1, b"enough", end_stream=True)
    drive.from_origin(origin.data_to_send())
    found = client.receive_data(drive.to_client)
    assert any(isinstance(e, h2.events.StreamEnded) for e in found) is ours
    client.send_data(1, b"more")
    drive.from_client(client.data_to_send())
    assert drive.to_origin.endswith(b"more"), "the origin still gets what it may want"


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
