"""Tunnels that are not looked into: `intercept: false`, and CONNECT for socket rules. Judged at the origin and by the records."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from outpass.reasons import Reason
from tests.support.gate import Gate
from tests.support.raw_origin import RawOrigin
from tests.support.streams import Streams
from tests.support.wire import Answer, Wire

PIN, WEB = "pin.test:443", "api.test:443"
SOCKET = "network:socket"
POLICY = """
version: 1
packages:
  pinned:
    allow: [network:http, network:socket]
    http: [{url: "https://pin.test", intercept: false}, {url: "https://loop.test", intercept: false},
           {url: "https://localhost", intercept: false}, {url: "https://gone.test", intercept: false},
           {url: "https://no-such-name.invalid", intercept: false}, {url: "https://talker.test", intercept: false}]
    socket: ["echo.test:7", "first.test:25", "half.test:79", "pin.test:993"]
  looker: {allow: [network:http], http: ["https://pin.test/v1/**"]}
  unattributed:
    allow: [network:http, network:socket]
    http: [{url: "https://open.test", intercept: false}]
    socket: ["echo.test:7"]
"""
EAGER = """
import runpy, outpass.gate.gate
outpass.gate.gate.EXPIRE_S = 0.05
runpy.run_module("outpass.gate", run_name="__main__")
"""
"""A gate that asks about live rights twenty times a second, and not every five seconds."""


@pytest.fixture(scope="module")
def streams() -> Iterator[Streams]:
    with Streams() as made:
        yield made


@pytest.fixture(scope="module")
def origin() -> Iterator[RawOrigin]:
    with RawOrigin("pin.test", cert_hosts=("pin.test", "open.test")) as made:
        yield made


@pytest.fixture(scope="module")
def overrides(origin: RawOrigin, streams: Streams) -> list[tuple[str, int, str, int]]:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        closed = unused.getsockname()[1]
    ports = {"echo.test": (7, "echo"), "first.test": (25, "first"), "half.test": (79, "half"), "talker.test": (443, "first")}
    raw = [(host, port, "127.0.0.1", streams.ports[name]) for host, (port, name) in ports.items()]
    web = [(host, 443, "127.0.0.1", origin.port) for host in ("pin.test", "open.test")]
    return [*raw, *web, ("pin.test", 993, "127.0.0.1", streams.ports["sink"]), ("gone.test", 443, "127.0.0.1", closed)]


@pytest.fixture(scope="module")
def gate(origin: RawOrigin, overrides: list[tuple[str, int, str, int]]) -> Iterator[Gate]:
    with Gate(POLICY, connect_to=overrides) as made:
        yield made
        assert not made.errors, made.errors


def ask(gate: Gate, wire: Wire, dst: str, *chain: str, first: bytes = b"", use: str = "connect", **claims: str) -> Answer:
    """CONNECT, with `first` behind it in the same segment."""
    line = f"Proxy-Authorization: Bearer {gate.mint(dst, *chain, use=use, **claims)}\r\n" if chain else ""
    wire.sock.sendall(f"CONNECT {dst} HTTP/1.1\r\nHost: {dst}\r\n{line}\r\n".encode() + first)
    head = b""
    while not head.endswith(b"\r\n\r\n"):  # byte by byte: a server that speaks first may be close behind
        byte = wire.sock.recv(1)
        assert byte, head
        head += byte
    fields = [field.partition(": ") for field in head.decode().split("\r\n")[1:]]
    headers = {name.lower(): value for name, _, value in fields if name}
    body = b""
    while len(body) < int(headers.get("content-length", 0)):
        body += wire.sock.recv(4096)
    return Answer(int(head[9:12]), headers, body)


@contextlib.contextmanager
def carried(gate: Gate, dst: str = PIN, *chain: str, **claims: str) -> Iterator[Wire]:
    with gate.connect() as wire:
        answer = ask(gate, wire, dst, *(chain or ("pinned",)), **({"tunnel": "opaque"} | claims))
        assert answer.status == 200, answer
        yield wire


def trusting(origin: RawOrigin) -> ssl.SSLContext:
    context = ssl.create_default_context()
    assert origin.ca is not None
    origin.ca.configure_trust(context)
    return context


def hello(name: str | None) -> bytes:
    """A real TLS hello."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    tls = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


def cut(wire: Wire) -> bool:
    """Whether the tunnel is reset, with nothing before it."""
    try:
        return wire.sock.recv(1) == b"never"
    except ConnectionResetError:
        return True


# --- what passes -----------------------------------------------------------------------------------------------------


def test_the_certificate_is_the_origins_own_and_the_close_is_recorded_with_the_bytes(gate: Gate, origin: RawOrigin) -> None:
    before = len(gate.records)
    with carried(gate) as wire, trusting(origin).wrap_socket(wire.sock, server_hostname="pin.test") as tls:
        tls.sendall(b"GET /anything HTTP/1.1\r\nHost: pin.test\r\n\r\n")
        response = http.client.HTTPResponse(tls)
        response.begin()
        assert (response.status, response.read()) == (200, b"ok")
    (closed,) = gate.wait_records(1, kind="close", host="pin.test")
    opened = next(r for r in gate.records[before:] if r["kind"] == "decision" and r["host"] == "pin.test")
    assert (opened["verdict"], opened["intercept"], opened["principal"]) == ("allow", False, "pinned")
    assert opened["dialled"] == f"127.0.0.1:{origin.port}" and opened["path"] is None
    assert closed["bytes_out"] > 300 and closed["bytes_in"] > 1000 and closed["reason"] == "allowed"
    assert b"outpass" not in origin.seen[0].head.lower() and b"proxy-" not in origin.seen[0].head.lower()


def test_a_hello_that_comes_with_the_connect_is_sent_on(gate: Gate, origin: RawOrigin) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = trusting(origin).wrap_bio(incoming, outgoing, server_hostname="pin.test")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    with gate.connect() as wire:
        assert ask(gate, wire, PIN, "pinned", first=outgoing.read(), tunnel="opaque").status == 200
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                wire.sock.sendall(outgoing.read())
                incoming.write(wire.sock.recv(1 << 16))
        assert tls.getpeercert()


def test_the_hello_may_come_in_pieces(gate: Gate, origin: RawOrigin) -> None:
    data = hello("pin.test")
    with carried(gate) as wire:
        for start in range(0, len(data), 7):
            wire.sock.sendall(data[start : start + 7])
        assert wire.sock.recv(3)[:2] == b"\x16\x03", "the server's hello"


def test_unattributed_code_is_carried_where_a_rule_says_so(gate: Gate, origin: RawOrigin) -> None:
    with gate.connect() as wire:
        assert ask(gate, wire, "open.test:443").status == 200
        assert trusting(origin).wrap_socket(wire.sock, server_hostname="open.test").getpeercert()


def test_a_spawn_pass_is_carried_by_what_the_policy_says_alone(gate: Gate, origin: RawOrigin) -> None:
    with gate.connect() as wire:
        assert wire.basic(PIN, gate.mint("*:0", "pinned", use="spawn")).status == 200
        assert trusting(origin).wrap_socket(wire.sock, server_hostname="pin.test").getpeercert()


# --- what does not ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sentence", "sent", "reason"),
    [
        ("another name behind the same front", hello("evil.test"), Reason.SNI_MISMATCH),
        ("a name below it", hello("x.pin.test"), Reason.SNI_MISMATCH),
        ("no name", hello(None), Reason.SNI_MISSING),
        ("no TLS", b"GET / HTTP/1.1\r\nHost: pin.test\r\n\r\n", Reason.SNI_MISSING),
        ("a record that is no hello", b"\x16\x03\x01\x00\x04\x02\x00\x00\x00", Reason.SNI_MISMATCH),
        ("a hello of more than one record", b"\x16\x03\x01\xff\xff" + b"\x01" * 40, Reason.SNI_MISMATCH),
    ],
)
@pytest.mark.parametrize("together", [True, False])
def test_nothing_but_tls_to_the_host_itself_passes(
    gate: Gate, origin: RawOrigin, sentence: str, sent: bytes, reason: Reason, together: bool
) -> None:
    before, seen, count = origin.bytes_in, len(origin.seen), len([r for r in gate.records if r["reason"] == reason])
    with gate.connect() as wire:
        assert ask(gate, wire, PIN, "pinned", first=sent if together else b"", tunnel="opaque").status == 200
        if not together:
            wire.sock.sendall(sent)
        assert cut(wire), sentence
    record = gate.wait_records(count + 1, reason=reason)[-1]
    assert (record["verdict"], record["kind"], record["bytes_out"], record["bytes_in"]) == ("deny", "decision", 0, 0)
    assert (origin.bytes_in, len(origin.seen)) == (before, seen)


def test_an_origin_that_speaks_first_is_not_heard_before_the_hello(gate: Gate, streams: Streams) -> None:
    with carried(gate, "talker.test:443") as wire:
        wire.sock.settimeout(0.3)
        with pytest.raises(TimeoutError):
            wire.sock.recv(1)
        wire.sock.settimeout(20)
        wire.sock.shutdown(socket.SHUT_WR)
        assert cut(wire), "and not by a client that ends instead"


@pytest.mark.parametrize(
    ("sentence", "chain", "told"),
    [
        ("a shim that would put passes inside", "pinned", "http"),
        ("a shim that would put none inside", "looker", "opaque"),
    ],
)
def test_a_pass_of_before_the_policy_changed_opens_no_tunnel(
    gate: Gate, origin: RawOrigin, sentence: str, chain: str, told: str
) -> None:
    before = origin.connections
    with gate.connect() as wire:
        answer = ask(gate, wire, PIN, chain, tunnel=told)
        assert (answer.status, answer.code) == (403, Reason.PASS_WRONG_USE), sentence
    assert origin.connections == before


def test_a_denial_pass_is_answered_inside_as_ever(gate: Gate, origin: RawOrigin) -> None:
    before = origin.connections
    with gate.tunnel(PIN, "pinned", deny=Reason.NO_RULE) as wire:
        assert wire.get("/", "pin.test", "pinned", deny=Reason.NO_RULE).code == Reason.NO_RULE
    assert origin.connections == before


@pytest.mark.parametrize(
    ("dst", "status", "reason"),
    [
        ("localhost:443", 403, Reason.ADDRESS_LOOPBACK),
        ("no-such-name.invalid:443", 502, Reason.RESOLVE_FAILED),
        ("gone.test:443", 502, Reason.UPSTREAM_UNREACHABLE),
    ],
)
def test_a_tunnel_that_leads_nowhere_is_refused_on_the_connect(gate: Gate, dst: str, status: int, reason: Reason) -> None:
    with gate.connect() as wire:
        answer = ask(gate, wire, dst, "pinned", tunnel="opaque")
        assert (answer.status, answer.code) == (status, reason)
        (record,) = gate.wait_records(1, reason=reason)
        assert record["id"] in answer.problem["instance"] and record["status"] == status
        again = ask(gate, wire, "echo.test:7", "pinned", cap=SOCKET, tunnel="opaque")
        assert again.status == 200, "the connection is still the gate's"
        wire.sock.sendall(b"ping")
        assert wire.sock.recv(4) == b"ping"


def test_a_pass_opens_one_tunnel(gate: Gate) -> None:
    text = gate.mint(PIN, "pinned", use="connect", tunnel="opaque")
    head = f"CONNECT {PIN} HTTP/1.1\r\nHost: {PIN}\r\nProxy-Authorization: Bearer {text}\r\n\r\n"
    with gate.connect() as wire, gate.connect() as again:
        assert wire.ask(head).status == 200
        assert again.ask(head).code == Reason.PASS_REPLAYED


# --- CONNECT for socket rules ----------------------------------------------------------------------------------------


def _echo(wire: Wire) -> None:
    wire.sock.sendall(b"ping")
    assert wire.sock.recv(10) == b"ping"


def _first(wire: Wire) -> None:
    assert wire.sock.recv(100) == b"220 ready\r\n"
    wire.sock.sendall(b"EHLO\r\n")
    assert wire.sock.recv(100) == b"250 EHLO\r\n"


def _half(wire: Wire) -> None:
    wire.sock.sendall(b"z" * 300_000)
    wire.sock.shutdown(socket.SHUT_WR)
    with wire.sock.makefile("rb") as file:
        assert file.readline() == b"300000 bytes\n" and file.read() == b"x" * 1_000_000


@pytest.mark.parametrize(("dst", "talk"), [("echo.test:7", _echo), ("first.test:25", _first), ("half.test:79", _half)])
@pytest.mark.parametrize("use", ["connect", "channel"])
def test_any_protocol_is_carried_where_a_socket_rule_names_it(
    gate: Gate, dst: str, talk: Callable[[Wire], None], use: str
) -> None:
    count = len([r for r in gate.records if r["kind"] == "close" and r["port"] == int(dst.partition(":")[2])])
    with carried(gate, dst, use=use, cap=SOCKET) as wire:
        talk(wire)
    closed = gate.wait_records(count + 1, kind="close", port=int(dst.partition(":")[2]))[-1]
    assert (closed["capability"], closed["scheme"]) == (SOCKET, "tcp")
    assert closed["bytes_out"] == {"echo.test:7": 4, "first.test:25": 6, "half.test:79": 300_000}[dst]


def test_unattributed_code_reaches_what_its_socket_rule_names(gate: Gate) -> None:
    with gate.connect() as wire:
        assert ask(gate, wire, "echo.test:7").status == 200
        _echo(wire)
    with gate.connect() as wire:
        assert ask(gate, wire, "first.test:25").code == Reason.PASS_MISSING


def test_tls_on_a_socket_rule_must_name_the_host_too(gate: Gate, streams: Streams) -> None:
    before = streams.got("sink")
    with carried(gate, "pin.test:993", cap=SOCKET) as wire:
        wire.sock.sendall(hello("evil.test"))
        assert cut(wire)
    assert streams.got("sink") == before


@pytest.mark.parametrize(
    ("sentence", "dst", "claims", "code"),
    [
        ("no rule", "half.test:80", {"cap": SOCKET}, Reason.NO_RULE),
        ("denied when it was minted", "echo.test:7", {"cap": SOCKET, "deny": Reason.NO_RULE}, Reason.NO_RULE),
        ("one for requests", "echo.test:7", {"use": "request"}, Reason.PASS_WRONG_USE),
        ("one for raw requests", "echo.test:7", {"use": "request", "cap": SOCKET}, Reason.PASS_WRONG_USE),
    ],
)
def test_a_socket_pass_without_the_right_is_refused_on_the_connect(
    gate: Gate, streams: Streams, sentence: str, dst: str, claims: dict[str, str], code: Reason
) -> None:
    server = dst.partition(".")[0]
    before = [name for name, _ in streams.log].count(server)
    with gate.connect() as wire:
        answer = ask(gate, wire, dst, "pinned", **({"tunnel": "opaque"} | claims))
        assert (answer.status, answer.code) == (403, code), sentence
    assert [name for name, _ in streams.log].count(server) == before


def test_a_socket_pass_is_no_good_for_a_request(gate: Gate) -> None:
    with gate.connect() as wire:
        text = gate.mint("api.test:80", "pinned", cap=SOCKET, use="connect")
        answer = wire.ask(f"GET http://api.test/ HTTP/1.1\r\nHost: api.test\r\nProxy-Authorization: Bearer {text}\r\n\r\n")
        assert (answer.status, answer.code) == (403, Reason.PASS_WRONG_USE)


# --- life ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sentence", "change", "lives"),
    [
        ("nothing that concerns it", ("half.test:79", "half.test:80"), True),
        ("the rule is gone", ('{url: "https://pin.test", intercept: false}, ', ""), False),
        ("it is to be looked into", ('"https://pin.test", intercept: false', '"https://pin.test"'), False),
        ("a path of it is denied", ("    socket: [", '    deny: {http: ["https://pin.test/x"]}\n    socket: ['), False),
    ],
)
def test_a_reload_that_takes_the_tunnels_right_away_cuts_it(
    overrides: list[tuple[str, int, str, int]], origin: RawOrigin, sentence: str, change: tuple[str, str], lives: bool
) -> None:
    policy = POLICY.replace(*change, 1)
    assert policy != POLICY
    with Gate(POLICY, connect_to=overrides) as gate, carried(gate) as wire:
        tls = trusting(origin).wrap_socket(wire.sock, server_hostname="pin.test")
        assert gate.change(policy)["op"] == "ack"
        if lives:
            tls.sendall(b"GET / HTTP/1.1\r\nHost: pin.test\r\n\r\n")
            assert tls.recv(12) == b"HTTP/1.1 200", sentence
        else:
            with pytest.raises(ConnectionResetError):
                assert tls.recv(1), sentence
            gate.wait_records(1, kind="close", host="pin.test")


def test_revoking_a_session_cuts_its_tunnels_and_no_others(overrides: list[tuple[str, int, str, int]]) -> None:
    """A process that ended may have left its connection to a fork; one whose session the operator revoked may not."""
    with (
        Gate(POLICY, connect_to=overrides) as gate,
        carried(gate, "echo.test:7", cap=SOCKET, sid="s-bad") as bad,
        carried(gate, "echo.test:7", cap=SOCKET, sid="s-good") as good,
    ):
        _echo(bad)
        assert gate.call({"op": "session.end", "sids": ["s-bad", "s-good"]})["op"] == "ack"
        _echo(bad)
        assert gate.call({"op": "session.end", "sids": ["s-bad"], "revoked": True})["op"] == "ack"
        assert cut(bad)
        _echo(good)
        (closed,) = gate.wait_records(1, kind="close")
        assert (closed["sid"], closed["bytes_out"], closed["bytes_in"]) == ("s-bad", 8, 8)


def test_a_tunnel_that_is_being_dialled_when_its_session_is_revoked_is_not_opened() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as slow, socket.create_connection(slow.getsockname()):
        # There is no room for another connection until that one is accepted.
        with Gate(POLICY, connect_to=[("echo.test", 7, "127.0.0.1", slow.getsockname()[1])]) as gate, gate.connect() as wire:
            with ThreadPoolExecutor(1) as pool:
                asked = pool.submit(ask, gate, wire, "echo.test:7", "pinned", cap=SOCKET, tunnel="opaque", sid="s-bad")
                gate.wait_records(1, host="echo.test", verdict="allow")
                assert gate.call({"op": "session.end", "sids": ["s-bad"], "revoked": True})["op"] == "ack"
                slow.accept()[0].close()
                answer = asked.result(30)
            assert (answer.status, answer.code) == (403, Reason.PASS_SESSION_ENDED)
            (refused,) = gate.wait_records(1, host="echo.test", verdict="deny")
            assert (refused["reason"], refused["sid"]) == ("pass_session_ended", "s-bad")


def test_a_rule_that_expires_cuts_a_tunnel_that_is_not_looked_into(
    overrides: list[tuple[str, int, str, int]], origin: RawOrigin
) -> None:
    soon = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(time.time() + 6))
    policy = POLICY.replace('"https://pin.test", intercept: false', f'"https://pin.test", intercept: false, expires: "{soon}"', 1)
    assert policy != POLICY
    with Gate(policy, connect_to=overrides, command=(sys.executable, "-c", EAGER)) as gate:
        with carried(gate) as wire:
            tls = trusting(origin).wrap_socket(wire.sock, server_hostname="pin.test")
            tls.sendall(b"GET / HTTP/1.1\r\nHost: pin.test\r\n\r\n")
            assert tls.recv(100).startswith(b"HTTP/1.1 200")
            with pytest.raises(ConnectionResetError):
                tls.recv(1)
        (closed,) = gate.wait_records(1, kind="close", host="pin.test")
        assert closed["bytes_out"] > 0 and closed["intercept"] is False


def test_the_end_of_the_jail_ends_its_tunnels(overrides: list[tuple[str, int, str, int]]) -> None:
    with Gate(POLICY, connect_to=overrides) as gate, carried(gate, "echo.test:7", cap=SOCKET) as wire:
        _echo(wire)
        assert gate.call({"op": "jail.remove", "jail": gate.name})["op"] == "ack"
        assert cut(wire)
        (closed,) = gate.wait_records(1, kind="close")
        assert (closed["bytes_out"], closed["bytes_in"]) == (4, 4)


def test_a_unix_listener_carries_too(overrides: list[tuple[str, int, str, int]], tmp_path: Path, origin: RawOrigin) -> None:
    with Gate(POLICY, connect_to=overrides) as gate:
        jail = gate.add(POLICY, "j-unix", path=str(tmp_path / "s"))
        gate.name = "j-unix"
        with gate.connect(jail) as wire:
            assert ask(gate, wire, PIN, "pinned", tunnel="opaque").status == 200
            data = hello("pin.test")
            wire.sock.sendall(data[:50])
            wire.sock.sendall(data[50:])
            assert wire.sock.recv(2) == b"\x16\x03"


FEW_DESCRIPTORS = """
import resource, runpy
resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))
runpy.run_module("outpass.gate", run_name="__main__")
"""


def _fill(sock: socket.socket) -> None:
    """As much as goes, to a peer that reads nothing."""
    sock.setblocking(False)
    with contextlib.suppress(BlockingIOError, ConnectionError):
        while True:
            sock.send(bytes(1 << 20))


def test_tunnels_that_nobody_reads_leave_the_broker_its_descriptors(overrides: list[tuple[str, int, str, int]]) -> None:
    """Each held two pipes, twice its own descriptors: then every jail's new connections were refused, and tunnels cut without a reason."""
    with contextlib.ExitStack() as stack:
        deaf = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=64))
        to = [(host, port, "127.0.0.1", deaf.getsockname()[1] if host == "echo.test" else at) for host, port, _, at in overrides]
        gate = stack.enter_context(Gate(POLICY, connect_to=to, command=(sys.executable, "-c", FEW_DESCRIPTORS)))
        socks = []
        for _ in range(30):
            wire = stack.enter_context(gate.connect())
            assert ask(gate, wire, "echo.test:7", "pinned", cap=SOCKET).status == 200
            socks += [wire.sock, stack.enter_context(deaf.accept()[0])]
        for sock in socks:
            _fill(sock)
        gate.wait_records(30)
        assert gate.change(POLICY)["op"] == "ack" and gate.process.poll() is None
        assert gate.wait_records(1, 30, reason=Reason.TOO_MANY_CONNECTIONS.value)[0]["verdict"] == "deny", (
            "who takes nothing is cut"
        )
        with gate.connect(gate.add(POLICY, "j-later")) as wire:
            assert wire.ask("CONNECT api.test:443 HTTP/1.1\r\nHost: x\r\n\r\n").status == 407, "and another jail is served"
