"""Which trailers may follow a body."""

from __future__ import annotations

import pytest

from outpass.gate import trailers
from outpass.reasons import Reason


@pytest.mark.parametrize("name", [b"outpass-token", b"Outpass-Token", b"PROXY-AUTHORIZATION"])
def test_a_pass_in_the_trailers_refuses_the_request(name: bytes) -> None:
    flaw = trailers.judge(((b"x", b"1"), (name, b"a")))
    assert flaw is not None and flaw.reason is Reason.BAD_REQUEST and "pass" in flaw.detail


@pytest.mark.parametrize("field", [(b":status", b"200"), (b"a b", b"1"), (b"", b"1"), (b"a", b"x\r\ny: 1"), (b"a", b"\0")])
def test_what_is_no_field_is_no_trailer(field: tuple[bytes, bytes]) -> None:
    flaw = trailers.judge((field,))
    assert flaw is not None and flaw.reason is Reason.BAD_HEADER
    assert trailers.malformed((field,))


@pytest.mark.parametrize(
    "name", [b"Host", b"content-length", b"Transfer-Encoding", b"authorization", b"cookie", b"set-cookie", b"alt-svc", b"trailer"]
)
def test_a_trailer_that_would_change_what_was_decided_is_dropped(name: bytes) -> None:
    assert trailers.judge(((name, b"1"),)) is None
    assert trailers.kept(((name, b"1"), (b"grpc-status", b"0"), (b"digest", b"x"))) == ((b"grpc-status", b"0"), (b"digest", b"x"))
