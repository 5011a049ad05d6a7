"""gRPC, a real client and a real server over TLS with the gate between: the four kinds of calls, each decided by its own pass."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import trustme

from outpass.reasons import Reason
from tests.support.gate import Gate
from tests.support.grpc_origin import SERVICE, GrpcOrigin

RPC = "rpc.test:443"
POLICY = """
version: 1
packages:
  stripe:
    allow: [network:http]
    http: ["POST https://rpc.test/test.Echo/**"]
    deny: {http: ["https://rpc.test/test.Echo/Down"]}
  other: {allow: [network:http], http: ["https://rpc.test/test.Echo/Down"]}
"""


@pytest.fixture(scope="module")
def server(ca: tuple[trustme.CA, Path]) -> Iterator[GrpcOrigin]:
    with GrpcOrigin(ca[0], "rpc.test") as made:
        yield made


@pytest.fixture
def origin(server: GrpcOrigin) -> GrpcOrigin:
    """The server, which remembers nothing of other tests."""
    server.seen.clear()
    server.go.clear()
    server.cancelled.clear()
    return server


@pytest.fixture(scope="module")
def shared(server: GrpcOrigin, ca: tuple[trustme.CA, Path]) -> Iterator[Gate]:
    with Gate(POLICY, connect_to=[("rpc.test", 443, "127.0.0.1", server.port)], bundle=ca[1]) as made:
        yield made
        assert not made.errors, made.errors


@pytest.fixture
def gate(shared: Gate) -> Gate:
    """The gate, without the records of other tests."""
    shared.records.clear()
    return shared


@pytest.fixture
def channel(gate: Gate) -> Iterator[grpc.Channel]:
    """A tunnel that was opened with stripe's pass; each call needs one of its own."""
    with _channel(gate, gate.mint(RPC, "stripe", use="connect")) as made:
        yield made


def _channel(gate: Gate, user: str) -> grpc.Channel:
    credentials = grpc.ssl_channel_credentials(gate.keys.ca_cert.encode())
    options = [("grpc.http_proxy", f"http://{user}@127.0.0.1:{gate.jail.port}"), ("grpc.enable_retries", 0)]
    return grpc.secure_channel("rpc.test:443", credentials, options)


def _with(gate: Gate, *chain: str) -> tuple[tuple[str, str], ...]:
    return (("outpass-token", gate.mint(RPC, *chain)),)


def test_one_message_each_way_and_the_trailers(gate: Gate, origin: GrpcOrigin, channel: grpc.Channel) -> None:
    call = channel.unary_unary(f"/{SERVICE}/Unary")
    answer, done = call.with_call(b"hello", metadata=(*_with(gate, "stripe"), ("x-mine", "1")), timeout=30)
    assert (answer, done.code()) == (b"echo hello", grpc.StatusCode.OK)
    assert {"x-after": "yes", "x-bin-bin": b"\0\1"}.items() <= dict(done.trailing_metadata()).items()
    ((method, metadata),) = origin.seen
    assert method == "Unary" and metadata["x-mine"] == "1" and "outpass-token" not in metadata
    (record,) = gate.wait_records(1, verdict="allow")
    assert (record["principal"], record["method"], record["path"]) == ("stripe", "POST", "/test.Echo/Unary")


def test_many_messages_down_up_and_both_ways(gate: Gate, origin: GrpcOrigin, channel: grpc.Channel) -> None:
    down = channel.unary_stream(f"/{SERVICE}/Down")(b"1000", metadata=_with(gate, "other"), timeout=30)
    assert [int(m) for m in down] == list(range(1000))
    up = channel.stream_unary(f"/{SERVICE}/Up")
    assert up(iter([b"a", b"b", b"c"]), metadata=_with(gate, "stripe"), timeout=30) == b"a,b,c"
    asked: list[threading.Event] = [threading.Event() for _ in range(3)]

    def one_by_one() -> Iterator[bytes]:
        for n, event in enumerate(asked):
            assert event.wait(30)
            yield b"%d" % n

    both = channel.stream_stream(f"/{SERVICE}/Both")(one_by_one(), metadata=_with(gate, "stripe"), timeout=30)
    for n, event in enumerate(asked):  # the next question comes only after the answer to the last
        event.set()
        assert next(both) == b"echo %d" % n
    assert list(both) == [] and both.code() is grpc.StatusCode.OK


def test_an_error_of_the_server_arrives_as_it_is(gate: Gate, channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(f"/{SERVICE}/Fail")(b"", metadata=_with(gate, "stripe"), timeout=30)
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert caught.value.details() == "not today — sorry"


@pytest.mark.parametrize(
    "chain, method, reason",
    [(("stripe",), "Down", Reason.DENIED_BY_RULE), (("other",), "Unary", Reason.NO_RULE), ((), "Unary", Reason.UNATTRIBUTED)],
)
def test_a_call_without_the_right_does_not_arrive(
    gate: Gate, origin: GrpcOrigin, channel: grpc.Channel, chain: tuple[str, ...], method: str, reason: Reason
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(f"/{SERVICE}/{method}")(b"1", metadata=_with(gate, *chain) if chain else (), timeout=30)
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED, "which is what gRPC makes of 403"
    assert not origin.seen
    assert gate.wait_records(1, verdict="deny")[0]["reason"] == reason
    ok = channel.unary_unary(f"/{SERVICE}/Unary")(b"x", metadata=_with(gate, "stripe"), timeout=30)
    assert ok == b"echo x", "and the channel goes on"


def test_a_tunnel_of_a_spawn_pass_covers_its_calls(gate: Gate, origin: GrpcOrigin) -> None:
    with _channel(gate, gate.mint(RPC, "stripe", use="spawn")) as channel:
        assert channel.unary_unary(f"/{SERVICE}/Unary")(b"x", timeout=30) == b"echo x"
    assert gate.wait_records(1, verdict="allow")[0]["chain"] == ["stripe"]


def test_a_cancelled_call_is_cancelled_at_the_server(gate: Gate, origin: GrpcOrigin, channel: grpc.Channel) -> None:
    call = channel.unary_stream(f"/{SERVICE}/Hang")(b"", metadata=_with(gate, "stripe"), timeout=60)
    assert next(call) == b"first"
    call.cancel()
    assert origin.cancelled.wait(30)


def test_a_server_that_does_not_read_stops_its_own_call_only(gate: Gate, origin: GrpcOrigin, channel: grpc.Channel) -> None:
    block, count = bytes(64 * 1024), 1024

    def messages() -> Iterator[bytes]:
        for _ in range(count):
            yield block

    slow = channel.stream_unary(f"/{SERVICE}/Slow").future(messages(), metadata=_with(gate, "stripe"), timeout=90)
    for n in range(20):
        assert channel.unary_unary(f"/{SERVICE}/Unary")(b"%d" % n, metadata=_with(gate, "stripe"), timeout=30) == b"echo %d" % n
    assert not slow.done()
    origin.go.set()
    assert slow.result(90) == b"%d" % (len(block) * count)


def test_a_server_that_leaves_ends_the_calls_it_has_taken(gate: Gate, origin: GrpcOrigin, channel: grpc.Channel) -> None:
    """The last test: the server is gone after it."""
    call = channel.unary_stream(f"/{SERVICE}/Hang")(b"", metadata=_with(gate, "stripe"), timeout=60)
    assert next(call) == b"first"
    gone = origin.leave(60)
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(f"/{SERVICE}/Unary")(b"x", metadata=_with(gate, "stripe"), timeout=30)
    assert caught.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED), "it takes no new ones"
    origin.go.set()
    assert list(call) == [b"last"] and call.code() is grpc.StatusCode.OK
    assert gone.wait(30)
