"""As test_engine_defects.py: every override of the engine's HTTP/2 and websockets beside the stock class that it replaces."""

from __future__ import annotations

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

from tests.support.engine import Drive, deny, h2_client, h2_head, origin_end, statuses, stream

HEAD = b"GET /a HTTP/1.1\r\nHost: api.test\r\n"
POST = b"POST /a HTTP/1.1\r\nHost: api.test\r\n"


def test_t1_an_http2_error_page_names_no_engine(ours: bool) -> None:
    drive = Drive(stream, alpn=b"h2")
    client = h2_client()
    client.send_headers(1, h2_head(), end_stream=True)
    drive.from_client(client.data_to_send())
    drive.from_origin(b"nonsense\r\n\r\n")
    headers = [dict(e.headers) for e in client.receive_data(drive.to_client) if isinstance(e, h2.events.ResponseReceived)]
    assert headers[0][":status"] == "502"
    assert ("server" not in headers[0]) is ours


@pytest.mark.parametrize("changes", [{"path": "http://evil.test/a"}, {"path": "/a b"}, {"scheme": "http"}])
def test_t2_http2_heads_that_mean_something_else_in_http1_are_not_sent_on(ours: bool, changes: dict[str, str]) -> None:
    drive = Drive(stream, alpn=b"h2")
    client = h2_client()
    client.send_headers(1, h2_head(**changes), end_stream=True)
    drive.from_client(client.data_to_send())
    assert (drive.to_origin == b"") is ours
    assert (statuses(client, drive.to_client) != []) is ours


def test_t2_a_pass_in_request_trailers_is_not_sent_on(ours: bool) -> None:
    drive = Drive(stream, alpn=b"h2", origin_alpn=b"h2")
    client = h2_client()
    client.send_headers(1, h2_head(method="POST"))
    client.send_headers(1, [("outpass-token", "secret")], end_stream=True)
    drive.from_client(client.data_to_send())
    config = h2.config.H2Configuration(client_side=False, header_encoding="latin-1", validate_inbound_headers=False)
    origin = h2.connection.H2Connection(config)
    found = origin.receive_data(drive.to_origin)
    assert (not any(isinstance(e, h2.events.TrailersReceived) for e in found)) is ours
    assert statuses(client, drive.to_client) == ([400] if ours else [])


def test_t4_an_endless_refused_upload_is_reset(ours: bool) -> None:
    drive = Drive(deny, alpn=b"h2")
    client = h2_client()
    client.send_headers(1, h2_head(method="POST"))
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
    drive = Drive(stream, origin_alpn=b"h2")
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


def test_t7_a_body_that_is_announced_and_cannot_come_is_not_announced_to_the_origin(ours: bool) -> None:
    drive = Drive(stream, alpn=b"h2")
    client = h2_client()
    client.send_headers(1, [*h2_head(method="POST"), ("content-length", "50")], end_stream=True)
    drive.from_client(client.data_to_send())
    assert (b"content-length: 50" not in drive.to_origin) is ours


def test_t3_a_peer_is_not_given_two_gibibytes_to_send_ahead(ours: bool) -> None:
    drive = Drive(stream, alpn=b"h2", origin_alpn=b"h2")
    client = h2_client()
    client.send_headers(1, h2_head(), end_stream=True)
    drive.from_client(client.data_to_send())
    client.receive_data(drive.to_client)
    assert (client.remote_settings.initial_window_size <= 1 << 20) is ours
    assert (client.outbound_flow_control_window <= 16 << 20) is ours
    origin = origin_end(drive)
    assert (origin.remote_settings.initial_window_size <= 1 << 20) is ours


def test_t8_an_origin_that_leaves_ends_what_it_has_taken_and_gets_nothing_more(ours: bool) -> None:
    drive = Drive(stream, alpn=b"h2", origin_alpn=b"h2")
    client = h2_client()
    client.send_headers(1, h2_head(), end_stream=True)
    client.send_headers(3, h2_head(path="/b"), end_stream=True)
    drive.from_client(client.data_to_send())
    origin = origin_end(drive)
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
        client.send_headers(5, h2_head(path="/c"), end_stream=True)
        drive.from_client(client.data_to_send())
        assert len(drive.origins) == 2, "on a connection of its own"


def test_t12_a_window_that_became_negative_costs_nobody_the_connection(ours: bool) -> None:
    drive = Drive(stream, alpn=b"h2", origin_alpn=b"h2")
    client = h2_client()
    client.send_headers(1, h2_head(), end_stream=True)
    drive.from_client(client.data_to_send())
    origin = origin_end(drive)
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
    drive = Drive(stream, alpn=b"h2", origin_alpn=b"h2")
    client = h2_client()
    client.send_headers(1, h2_head(), end_stream=True)
    drive.from_client(client.data_to_send())
    origin = origin_end(drive)
    origin.send_headers(1, [(":status", "200")])
    origin.reset_stream(1, h2.errors.ErrorCodes.ENHANCE_YOUR_CALM)
    drive.from_origin(origin.data_to_send())
    (reset,) = [e for e in client.receive_data(drive.to_client) if isinstance(e, h2.events.StreamReset)]
    assert (reset.error_code == h2.errors.ErrorCodes.ENHANCE_YOUR_CALM) is ours


def test_t9_an_origin_that_has_answered_and_wants_no_more_loses_none_of_its_answer(ours: bool) -> None:
    drive = Drive(stream, alpn=b"h2", origin_alpn=b"h2")
    client = h2_client()
    client.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 3})
    client.send_headers(1, h2_head(method="POST"))
    drive.from_client(client.data_to_send())
    origin = origin_end(drive)
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
        stream(name, data)
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
    drive = Drive(stream, alpn=b"h2")
    client = h2_client()
    client.send_headers(1, [*h2_head(method="POST"), ("content-length", "50")])
    client.send_headers(1, [("x-trailer", "1")], end_stream=True)
    with nullcontext() if ours else pytest.raises(AssertionError):  # stock passes trailers to a layer that has no word for them
        drive.from_client(client.data_to_send())
    assert (statuses(client, drive.to_client) == [400]) is ours
