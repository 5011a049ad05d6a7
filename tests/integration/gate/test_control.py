"""What the broker can tell a gate, and how a gate ends: jails, policies, sessions, audit, drain, and the broker's death."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from outpass.gate import gate as gate_module
from outpass.model import Decision, EgressRequest, Verdict
from outpass.reasons import Reason
from tests.integration.gate.conftest import POLICY
from tests.support.gate import Gate, memory
from tests.support.h2_client import H2
from tests.support.inprocess import allow, in_process
from tests.support.proc import open_files
from tests.support.raw_origin import RawOrigin

API = "api.test:443"
NOTHING = "version: 1\npackages:\n  stripe: {allow: []}\n"
FEW_DESCRIPTORS = """
import resource, runpy
resource.setrlimit(resource.RLIMIT_NOFILE, (400, 400))
runpy.run_module("outpass.gate", run_name="__main__")
"""


@pytest.fixture
def own(origin: RawOrigin, bundle: Path) -> Iterator[Gate]:
    """A gate that a test may break."""
    with Gate(POLICY, connect_to=[("api.test", 443, "127.0.0.1", origin.port)], bundle=bundle) as made:
        yield made


def _wait_exit(gate: Gate, seconds: float = 10) -> int:
    return gate.process.wait(seconds)


def test_the_listener_says_which_jail_asks(own: Gate, origin: RawOrigin) -> None:
    second = own.add(NOTHING, "j-second")
    with own.tunnel(API, "stripe") as wire:
        assert wire.get("/v1/a", "api.test", "stripe").status == 200
    with own.connect(second) as wire:
        text = own.mint(API, "stripe", use="connect")
        head = f"CONNECT {API} HTTP/1.1\r\nHost: {API}\r\nProxy-Authorization: Bearer {text}\r\n\r\n"
        assert wire.ask(head).code == Reason.PASS_FOREIGN_JAIL
    with own.connect(second) as wire:
        text = own.mint(API, "stripe", use="connect", jail="j-second")
        assert wire.ask(f"CONNECT {API} HTTP/1.1\r\nHost: {API}\r\nProxy-Authorization: Bearer {text}\r\n\r\n").status == 200
        inner = wire.secure("api.test", verify="api.test")
        assert inner.get("/v1/a", "api.test", "stripe", jail="j-second").code == Reason.NO_CAPABILITY
    assert len(origin.seen) == 1
    assert {r["jail"] for r in own.wait_records(3)} == {"j-test", "j-second"}


def test_a_unix_listener_serves_like_a_tcp_one(own: Gate, origin: RawOrigin, tmp_path: Path) -> None:
    path = str(tmp_path / "gate.sock")
    jail = own.add(POLICY, "j-unix", path=path)
    with own.connect(jail) as wire:
        text = own.mint(API, "stripe", use="connect", jail="j-unix")
        assert wire.ask(f"CONNECT {API} HTTP/1.1\r\nHost: {API}\r\nProxy-Authorization: Bearer {text}\r\n\r\n").status == 200
        inner = wire.secure("api.test", verify="api.test")
        assert inner.get("/v1/a", "api.test", "stripe", jail="j-unix").status == 200
    assert own.call({"op": "jail.remove", "jail": "j-unix"})["op"] == "ack"
    assert os.path.exists(path), "the path belongs to whoever bound it"


@pytest.mark.parametrize(
    "message, fds",
    [
        ({"op": "jail.add", "jail": "j-test", "tier": "attributed", "kind": "no-jail", "listeners": []}, ["policy"]),
        ({"op": "jail.add", "jail": "j-x", "tier": "attributed", "kind": "no-jail", "listeners": ["http"]}, ["policy"]),
        (
            {"op": "jail.add", "jail": "j-x", "tier": "attributed", "kind": "no-jail", "listeners": ["socks"]},
            ["policy", "socket"],
        ),
        ({"op": "jail.add", "jail": "j-x", "tier": "attributed", "kind": "no-jail", "listeners": ["http"]}, ["policy", "policy"]),
        (
            {"op": "jail.add", "jail": "j-x", "tier": "attributed", "kind": "no-jail", "listeners": ["http"]},
            ["nonsense", "socket"],
        ),
        ({"op": "jail.add", "jail": "j-x"}, []),
        ({"op": "jail.policy", "jail": "j-none", "turn": 1}, ["policy"]),
        ({"op": "jail.policy", "jail": "j-test", "turn": 1}, ["nonsense"]),
        ({"op": "jail.policy", "jail": "j-test"}, ["policy"]),
        ({"op": "jail.policy", "jail": "j-test", "turn": 1}, []),
        ({"op": "jail.remove", "jail": "j-none"}, []),
        ({"op": "open.everything"}, []),
    ],
)
def test_an_operation_that_cannot_be_done_is_refused_and_changes_nothing(
    gate: Gate, origin: RawOrigin, message: dict[str, object], fds: list[str]
) -> None:
    from outpass.policy import wire
    from tests.support.gate import policy_of

    listening = socket.create_server(("127.0.0.1", 0))
    made = {
        "policy": lambda: memory(json.dumps(wire.dump(policy_of(POLICY))).encode()),
        "nonsense": lambda: memory(b'{"version": 1'),
        "socket": lambda: os.dup(listening.fileno()),
    }
    answer = gate.call(message, [made[name]() for name in fds])
    assert answer["op"] == "nack" and answer["error"]
    with gate.tunnel(API, "stripe") as wire_:
        assert wire_.get("/v1/a", "api.test", "stripe").status == 200


def test_a_staged_policy_takes_force_by_the_turn_alone_before_any_message_says_so(own: Gate, origin: RawOrigin) -> None:
    second = own.add(POLICY, "j-second")
    with own.tunnel(API, "stripe") as wire, own.connect(second) as other:
        text = own.mint(API, "stripe", use="connect", jail="j-second")
        head = f"CONNECT {API} HTTP/1.1\r\nHost: {API}\r\nProxy-Authorization: Bearer {text}\r\n\r\n"
        assert other.ask(head).status == 200
        inner = other.secure("api.test", verify="api.test")
        assert own.stage(NOTHING)["op"] == "ack" and own.stage(NOTHING, "j-second")["op"] == "ack"
        assert wire.get("/v1/a", "api.test", "stripe").status == 200, "staged is not in force"
        own.turn.advance()
        assert wire.get("/v1/a", "api.test", "stripe").code == Reason.NO_CAPABILITY
        assert inner.get("/v1/a", "api.test", "stripe", jail="j-second").code == Reason.NO_CAPABILITY
        before = own.records[0]["digest"]
        assert own.call({"op": "turn"})["op"] == "ack"
        assert wire.get("/v1/a", "api.test", "stripe").code == Reason.NO_CAPABILITY
    assert before not in {r["digest"] for r in own.wait_records(3, reason="no_capability")}


def test_a_staged_policy_that_is_dropped_never_takes_force(own: Gate, origin: RawOrigin) -> None:
    with own.tunnel(API, "stripe") as wire:
        assert own.stage(NOTHING)["op"] == "ack"
        assert own.call({"op": "policy.drop"})["op"] == "ack"
        own.turn.advance()
        assert own.call({"op": "turn"})["op"] == "ack"
        assert wire.get("/v1/a", "api.test", "stripe").status == 200


def test_what_is_refused_before_policy_is_asked_carries_the_digest_in_force(own: Gate) -> None:
    def refused() -> str:
        count = len(own.records)
        with own.connect() as wire:
            wire.ask(f"CONNECT {API} HTTP/1.1\r\nHost: {API}\r\nProxy-Authorization: Bearer nonsense\r\n\r\n")
        return str(own.wait_records(count + 1)[-1]["digest"])

    first = refused()
    assert own.change(NOTHING)["op"] == "ack"
    assert len(first) == len(refused()) == 16 and first != refused()


def test_another_policy_is_in_force_at_once_also_on_open_tunnels(own: Gate, origin: RawOrigin) -> None:
    with own.tunnel(API, "stripe") as wire:
        assert wire.get("/v1/a", "api.test", "stripe").status == 200
        assert own.change(NOTHING)["op"] == "ack"
        assert wire.get("/v1/a", "api.test", "stripe").code == Reason.NO_CAPABILITY
        assert own.change(POLICY)["op"] == "ack"
        assert wire.get("/v1/a", "api.test", "stripe").status == 200
    assert len(origin.seen) == 2


def test_a_policy_that_takes_a_right_away_ends_what_is_under_way_by_it_and_nothing_else(own: Gate, origin: RawOrigin) -> None:
    release = threading.Event()

    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n")
        await writer.drain()
        while not release.is_set():
            await asyncio.sleep(0.01)
        writer.write(b"0\r\n\r\n")

    origin.scripts["/v1/long"] = origin.scripts["/other/long"] = script
    with own.tunnel(API, "stripe") as lost, own.tunnel(API, "other") as kept:
        for wire, path, who in ((lost, "/v1/long", "stripe"), (kept, "/other/long", "other")):
            wire.sock.sendall(f"GET {path} HTTP/1.1\r\nHost: api.test\r\nOutpass-Token: {own.mint(API, who)}\r\n\r\n".encode())
            got = b""
            while not got.endswith(b"x\r\n"):
                got += wire.sock.recv(1000)
        own.change("version: 1\npackages:\n  other: {allow: [network:http], http: ['https://api.test/other/**']}\n")
        assert lost.closed()
        release.set()
        assert kept.sock.recv(1000) == b"0\r\n\r\n"


def test_while_the_audit_fails_nothing_is_decided(own: Gate, origin: RawOrigin) -> None:
    with own.tunnel(API, "stripe") as wire:
        assert own.call({"op": "audit", "state": "failing"})["op"] == "ack"
        answer = wire.get("/v1/a", "api.test", "stripe")
        assert (answer.status, answer.code) == (503, Reason.AUDIT_UNAVAILABLE)
        assert own.connect().ask(f"CONNECT {API} HTTP/1.1\r\nHost: {API}\r\n\r\n").status == 503
        own.call({"op": "audit", "state": "ok"})
        assert wire.get("/v1/a", "api.test", "stripe").status == 200
    assert len(origin.seen) == 1


def test_a_removed_jail_is_answered_when_its_connections_are_closed_and_its_records_sent(own: Gate, origin: RawOrigin) -> None:
    wire = own.tunnel(API, "stripe")
    for _ in range(150):
        assert wire.get("/v1/a", "api.test", "stripe").status == 200
    assert own.call({"op": "jail.remove", "jail": "j-test"})["op"] == "ack"
    assert len([r for r in own.records if r["verdict"] == "allow"]) == 150, "all before the answer"
    assert wire.closed()
    with pytest.raises(OSError):
        own.connect()
    assert own.add(POLICY, "j-test").port


def test_drain_finishes_what_is_under_way_and_exits_with_zero(own: Gate, origin: RawOrigin) -> None:
    go = threading.Event()

    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not go.is_set():
            await asyncio.sleep(0.01)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone")

    origin.scripts["/v1/slow"] = script
    idle = own.tunnel(API, "stripe")
    assert idle.get("/v1/a", "api.test", "stripe").status == 200
    busy = own.tunnel(API, "stripe")
    busy.sock.sendall(f"GET /v1/slow HTTP/1.1\r\nHost: api.test\r\nOutpass-Token: {own.mint(API, 'stripe')}\r\n\r\n".encode())
    origin.wait(2)
    own.send({"op": "drain", "seq": 777})
    assert idle.closed(), "an idle connection is closed at once"
    with pytest.raises(OSError):
        own.connect()
    go.set()
    assert busy.answer().body == b"done"
    assert _wait_exit(own) == 0
    own.wait_records(2, verdict="allow")
    assert own._answers[777]["op"] == "ack"


@pytest.mark.parametrize("how", ["reload", "drain"])
def test_streams_that_stay_allowed_outlive_a_reload_and_a_drain(own: Gate, origin: RawOrigin, how: str) -> None:
    """Two streams of one HTTP/2 connection and an HTTP/1.1 request are under way; bodies arrive whole afterwards."""
    go = threading.Event()

    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n" + b"x" * 50_000)
        while not go.is_set():
            await asyncio.sleep(0.01)
        writer.write(b"y" * 50_000)

    origin.scripts["/v1/half"] = script
    before = len(origin.seen)
    with own.tunnel(API, "stripe", alpn=("h2",)) as wire, own.tunnel(API, "stripe") as busy:
        client = H2(wire)
        passes = [own.mint(API, "stripe") for _ in range(2)]
        streams = [client.request("/v1/half", "api.test", extra=[("outpass-token", text)]) for text in passes]
        head = f"GET /v1/half HTTP/1.1\r\nHost: api.test\r\nOutpass-Token: {own.mint(API, 'stripe')}\r\n\r\n"
        busy.sock.sendall(head.encode())
        origin.wait(before + 3)
        if how == "reload":
            assert own.change(POLICY + "  another: {allow: []}\n")["op"] == "ack"
        else:
            own.send({"op": "drain", "seq": 777})
        go.set()
        bodies = [client.answer(stream).body for stream in streams] + [busy.answer().body]
    assert bodies == [b"x" * 50_000 + b"y" * 50_000] * 3


def test_sigterm_drains_and_sigint_is_ignored(own: Gate) -> None:
    own.process.send_signal(signal.SIGINT)
    assert own.call({"op": "audit", "state": "ok"})["op"] == "ack", "still there"
    own.process.send_signal(signal.SIGTERM)
    assert _wait_exit(own) == 0
    assert not own.errors


def test_a_gate_without_a_broker_ends_at_once_and_takes_every_connection_with_it(own: Gate) -> None:
    wire = own.tunnel(API, "stripe")
    own.hang_up()
    assert _wait_exit(own) == 1
    assert wire.closed()
    with pytest.raises(OSError):
        own.connect()


@pytest.mark.parametrize("data", [b"", b"nonsense", b"[]", b"{}", b'{"op":1}'])
def test_a_broker_that_does_not_speak_the_protocol_is_as_good_as_gone(own: Gate, data: bytes) -> None:
    own.control.send(data)
    assert _wait_exit(own) == 1


def test_a_killed_gate_comes_back_with_the_same_ledger(own: Gate, origin: RawOrigin) -> None:
    text = own.mint(API, "stripe")
    head = f"GET /v1/a HTTP/1.1\r\nHost: api.test\r\nOutpass-Token: {text}\r\n\r\n"
    with own.tunnel(API, "stripe") as wire:
        assert wire.ask(head).status == 200
    own.process.kill()
    _wait_exit(own)
    own.control.close()
    own.spawn()
    own.jail = own.add(POLICY, "j-test")
    with own.tunnel(API, "stripe") as wire:
        assert wire.ask(head).code == Reason.PASS_REPLAYED
    assert len(origin.seen) == 1


@pytest.mark.parametrize(
    "start",
    [
        {"bundle": "/nonexistent/upstream.pem"},
        {"bundle": "/dev/null"},
        {"ca_key": "nonsense"},
        {"keys": {"k1": "!"}},
        {"connect_to": [["a"]]},
    ],
)
def test_a_gate_that_cannot_start_says_so_in_one_line(start: dict[str, object]) -> None:
    gate = Gate(POLICY, start=start)
    with pytest.raises(AssertionError):
        gate.__enter__()
    assert _wait_exit(gate) == 125
    assert gate.errors[0].startswith("outpass: error: ") and "Traceback" not in "".join(gate.errors)


def test_nothing_is_written_to_the_home_directory_and_no_key_log(origin: RawOrigin, bundle: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    env = {"HOME": str(home), "SSLKEYLOGFILE": str(tmp_path / "keys.log"), "MITMPROXY_SSLKEYLOGFILE": str(tmp_path / "keys2.log")}
    with Gate(POLICY, connect_to=[("api.test", 443, "127.0.0.1", origin.port)], bundle=bundle, env=env) as gate:
        with gate.tunnel(API, "stripe") as wire:
            assert wire.get("/v1/a", "api.test", "stripe").status == 200
        held = open_files(gate.process.pid)
    assert not list(home.iterdir())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["home"]
    assert not any(".mitmproxy" in f or "keys" in f for f in held)


def test_records_of_a_burst_arrive_complete_and_in_packets_that_fit(own: Gate, origin: RawOrigin) -> None:
    with own.tunnel(API, "stripe") as wire:
        for n in range(400):
            expected = 200 if n % 2 else 403
            assert wire.get(f"/v1/{n}" if n % 2 else f"/nope/{n}", "api.test", "stripe").status == expected
    records = own.wait_records(400)
    assert len({r["id"] for r in records}) == 400


def test_a_jail_that_opens_connections_without_end_does_not_keep_the_broker_from_being_heard() -> None:
    with Gate(NOTHING, command=(sys.executable, "-c", FEW_DESCRIPTORS)) as gate:
        wires = [gate.connect() for _ in range(450)]
        gate.wait_records(1, 30, reason=Reason.TOO_MANY_CONNECTIONS.value)
        assert gate.change(NOTHING)["op"] == "ack"
        other = gate.add(NOTHING, "j-later")
        # The flood goes on, and another jail is served beside it.
        assert gate.connect(other).ask("CONNECT api.test:443 HTTP/1.1\r\nHost: x\r\n\r\n").status == 407
        assert not gate.errors
        for wire in wires:
            wire.sock.close()


def test_a_rule_that_expires_ends_what_it_allowed(plain: RawOrigin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_module, "EXPIRE_S", 0.05)
    expired = threading.Event()

    def decide(request: EgressRequest) -> Decision:
        decision = allow(request)
        return decision._replace(verdict=Verdict.DENY, reason=Reason.EXPIRED) if expired.is_set() else decision

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n")
        await writer.drain()
        await reader.read(1)

    plain.scripts["/stream"] = script
    with in_process(decide) as gate, socket.create_connection(("127.0.0.1", gate.port), 10) as sock:
        sock.sendall(f"GET http://127.0.0.1:{plain.port}/stream HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert sock.recv(10)
        expired.set()
        while sock.recv(1000):
            pass


def test_where_no_descriptor_is_left_for_the_origin_the_request_is_refused_and_the_next_is_served(
    own: Gate, origin: RawOrigin
) -> None:
    pid = own.process.pid
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    with own.tunnel(API, "stripe") as wire:
        taken = {int(fd) for fd in os.listdir(f"/proc/{pid}/fd")}
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (min(set(range(len(taken) + 1)) - taken), hard))
        try:
            answer = wire.get("/v1/a", "api.test", "stripe")
            assert (answer.status, origin.seen) == (502, []), answer
        finally:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
        with own.tunnel(API, "stripe") as another:
            assert another.get("/v1/a", "api.test", "stripe").status == 200
    assert len(origin.seen) == 1
