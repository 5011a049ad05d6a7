"""Raw TCP out of a jail, over the transparent listener: judged at servers outside, and by what the audit says."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import RunningDaemon
from tests.support.enclosed import Enclosure, enclosure
from tests.support.proc import open_files
from tests.support.streams import Streams
from tests.support.waiting import until

POLICY = """
version: 1
packages:
  unattributed:
    allow: [network:socket]
    socket: ["echo.example.com:7", "first.example.com:25", "half.example.com:79", "tls.example.com:993", "reset.example.com:19",
             "host.outpass.internal:1-65535", "no-such-host.invalid:80", "93.184.216.0/24:443", "127.0.0.1:7"]
  somebody: {allow: [network:socket], socket: ["sink.example.com:9", "gone.example.com:25"]}
"""


@pytest.fixture(scope="module")
def jail(outpassd: RunningDaemon, where: Path) -> Iterator[Enclosure]:
    with enclosure(outpassd, POLICY, where, forward=[7070]) as made:
        yield made


def address(jail: Enclosure, name: str) -> str:
    return jail.run("getent", "ahosts", name).stdout.split()[0]


def dial(jail: Enclosure, name: str, port: int) -> socket.socket:
    return jail.connect(address(jail, name), port)


def is_reset(sock: socket.socket) -> bool:
    """Whether the connection ends with a reset (and not in an orderly way)."""
    try:
        sock.sendall(b"hello")
        return sock.recv(100) == b"never"
    except ConnectionResetError:
        return True
    except BrokenPipeError:
        return True


def test_a_connection_to_a_name_that_a_rule_allows_is_carried_both_ways(jail: Enclosure, streams: Streams) -> None:
    with dial(jail, "echo.example.com", 7) as sock:
        sock.sendall(b"ping")
        assert sock.recv(100) == b"ping"
        (opened,) = jail.records(host="echo.example.com", kind="decision", scheme="tcp")[-1:]
        assert (opened["verdict"], opened["port"], opened["override"]) == ("allow", 7, True)
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(100) == b""
    closed = jail.records(host="echo.example.com", kind="close")[-1]
    assert (closed["bytes_out"], closed["bytes_in"], closed["reason"]) == (4, 4, "allowed")
    assert closed["dialled"] == f"127.0.0.1:{streams.ports['echo']}"


def test_a_server_that_speaks_first_is_heard_before_the_client_says_anything(jail: Enclosure) -> None:
    with dial(jail, "first.example.com", 25) as sock:
        assert sock.recv(100) == b"220 ready\r\n"
        sock.sendall(b"EHLO\r\n")
        assert sock.recv(100) == b"250 EHLO\r\n"


def test_the_end_of_one_side_is_passed_on_and_the_other_goes_on(jail: Enclosure) -> None:
    with dial(jail, "half.example.com", 79) as sock:
        sock.sendall(b"z" * 300_000)
        sock.shutdown(socket.SHUT_WR)
        with sock.makefile("rb") as file:
            assert file.readline() == b"300000 bytes\n" and file.read() == b"x" * 1_000_000
    closed = jail.records(host="half.example.com", kind="close")[-1]
    assert (closed["bytes_out"], closed["bytes_in"]) == (300_000, 1_000_013)


def test_megabytes_both_ways_at_once_arrive_as_they_were_sent(jail: Enclosure) -> None:
    data = bytes(range(256)) * 65_536  # 16 MiB
    got = bytearray()
    with dial(jail, "echo.example.com", 7) as sock:

        def read() -> None:
            while len(got) < len(data):
                part = sock.recv(1 << 18)
                if not part:
                    return
                got.extend(part)

        reader = threading.Thread(target=read)
        reader.start()
        sock.sendall(data)
        reader.join(60)
    assert bytes(got) == data


def test_a_reset_of_the_origin_is_a_reset_for_the_client(jail: Enclosure) -> None:
    with dial(jail, "reset.example.com", 19) as sock:
        assert is_reset(sock)


@pytest.mark.parametrize(
    ("sentence", "name", "port", "reason"),
    [
        ("another port of an allowed host", "echo.example.com", 8, "unattributed"),
        ("a host that somebody else may reach", "sink.example.com", 9, "unattributed"),
        ("a name that does not resolve", "no-such-host.invalid", 80, "resolve_failed"),
    ],
)
def test_a_connection_that_nothing_allows_is_reset_and_recorded(
    jail: Enclosure, streams: Streams, sentence: str, name: str, port: int, reason: str
) -> None:
    before = len(streams.log)
    with dial(jail, name, port) as sock:
        assert is_reset(sock), sentence
    assert jail.records(host=name, port=port, reason=reason, verdict="deny"), sentence
    assert len(streams.log) == before, "nothing arrived"


@pytest.mark.parametrize(
    ("sentence", "to", "port", "reason"),
    [
        ("a synthetic address that was never given out", "198.19.255.7", 7, "address_unknown"),
        ("a literal address", "203.0.113.9", 7, "unattributed"),
        ("a literal address over IPv6", "2001:db8::9", 7, "unattributed"),
        ("an address of a network that a rule names, on another port", "93.184.216.34", 80, "unattributed"),
        ("the metadata service", "169.254.169.254", 80, "unattributed"),
        ("IPv4 inside IPv6", "::ffff:203.0.113.9", 7, "unattributed"),
        ("a machine of the private network", "10.0.0.1", 22, "unattributed"),
    ],
)
def test_addresses_without_a_rule_are_reset_and_recorded(jail: Enclosure, sentence: str, to: str, port: int, reason: str) -> None:
    with contextlib.suppress(ConnectionResetError), jail.connect(to, port) as sock:
        assert is_reset(sock), sentence
    host = to.removeprefix("::ffff:")
    (record, *_) = jail.records(host=host, port=port, reason=reason)
    assert record["verdict"] == "deny" and record["tier"] == "enforced", sentence


def test_the_hosts_loopback_has_a_name_which_needs_a_rule(jail: Enclosure, streams: Streams) -> None:
    with dial(jail, "host.outpass.internal", streams.ports["echo"]) as sock:
        sock.sendall(b"hello host")
        assert sock.recv(100) == b"hello host"
    (record, *_) = jail.records(host="host.outpass.internal", kind="decision", scheme="tcp")
    assert record["dialled"] == f"127.0.0.1:{streams.ports['echo']}"


@pytest.mark.parametrize(
    ("policy", "sent"),
    [
        ('packages: {unattributed: {allow: ["network:socket"]}}', b"hello"),
        ('mode: audit\npackages: {unattributed: {allow: ["network:socket"]}}', b"hello"),
        ("mode: audit\npackages: {}", b"hello"),
        ('packages: {unattributed: {allow: ["network:http"]}}', b"GET / HTTP/1.1\r\nHost: host.outpass.internal:%d\r\n\r\n"),
        ('mode: audit\npackages: {"*": {allow: ["network:http"]}}', b"GET / HTTP/1.1\r\nHost: host.outpass.internal:%d\r\n\r\n"),
    ],
)
def test_a_capability_without_a_list_does_not_open_the_hosts_loopback(
    outpassd: RunningDaemon, where: Path, streams: Streams, policy: str, sent: bytes
) -> None:
    before, port = len(streams.log), streams.ports["echo"]
    with enclosure(outpassd, f"version: 1\n{policy}\n", where) as jail:
        with dial(jail, "host.outpass.internal", port) as sock, contextlib.suppress(ConnectionError):
            sock.sendall(sent % port if b"%d" in sent else sent)
            assert b"HTTP/1.1 403" in sock.recv(4096) or sock.recv(1) == b""
        assert jail.records(host="host.outpass.internal", reason="address_loopback", verdict="deny"), policy
    assert len(streams.log) == before


def test_the_jails_own_loopback_stays_its_own(jail: Enclosure, streams: Streams) -> None:
    with jail.socket() as sock, pytest.raises(ConnectionRefusedError):
        sock.connect(("127.0.0.1", streams.ports["echo"]))


def test_a_forwarded_port_leads_to_the_same_port_of_the_host(outpassd: RunningDaemon, where: Path, streams: Streams) -> None:
    port = streams.ports["echo"]
    with enclosure(outpassd, POLICY, where, forward=[port]) as jail, jail.connect("127.0.0.1", port) as sock:
        sock.sendall(b"through")
        assert sock.recv(100) == b"through"
        assert jail.records(host="host.outpass.internal", port=port, verdict="allow")
    with (
        enclosure(outpassd, "version: 1\npackages: {}\n", where, forward=[port]) as jail,
        jail.connect("127.0.0.1", port) as sock,
    ):
        assert is_reset(sock), "a forwarded port needs a rule too"


@pytest.mark.parametrize("port", [7, 443, 123, 3478])
def test_udp_other_than_dns_is_refused_at_once(jail: Enclosure, port: int) -> None:
    with jail.socket(kind=socket.SOCK_DGRAM) as sock:
        sock.connect(("203.0.113.9", port))
        sock.send(b"hello")
        with pytest.raises(ConnectionRefusedError):
            sock.recv(10)


# --- TLS on socket rules ---------------------------------------------------------------------------------------------


def hello(sni: str | None) -> bytes:
    """A real TLS hello."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    tls = context.wrap_bio(incoming, outgoing, server_hostname=sni)
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


@pytest.mark.parametrize(
    ("sentence", "sni", "passes"),
    [
        ("the name itself", "tls.example.com", True),
        ("in another case", "TLS.Example.com", True),
        ("none: the server that was dialled answers", None, True),
        ("another name behind the same front", "evil.example", False),
        ("a name below it", "x.tls.example.com", False),
    ],
)
@pytest.mark.parametrize("chunk", [1 << 16, 3])
def test_the_server_name_of_tls_is_the_name_that_was_dialled(
    jail: Enclosure, streams: Streams, sentence: str, sni: str | None, passes: bool, chunk: int
) -> None:
    before, data = len(streams.got("sink")), hello(sni)
    with dial(jail, "tls.example.com", 993) as sock:
        with contextlib.suppress(OSError):
            for start in range(0, len(data), chunk):
                sock.sendall(data[start : start + chunk])
        if passes:
            until(sentence, lambda: streams.got("sink")[before:] == data)
        else:
            with pytest.raises(ConnectionResetError):
                sock.recv(100)
            assert len(streams.got("sink")) == before, "not a byte arrived"
            (*_, record) = jail.records(host="tls.example.com", reason="sni_mismatch")
            assert (record["verdict"], record["kind"], record["bytes_out"]) == ("deny", "decision", 0)


def test_a_tls_hello_that_ends_in_the_middle_does_not_pass(jail: Enclosure, streams: Streams) -> None:
    before = len(streams.got("sink"))
    with dial(jail, "tls.example.com", 993) as sock:
        sock.sendall(hello("evil.example")[:60])
        sock.shutdown(socket.SHUT_WR)
        with pytest.raises(ConnectionResetError):
            sock.recv(100)
    assert len(streams.got("sink")) == before


@pytest.mark.parametrize("data", [b"\x16\x01\x00", b"hello\n", b"\0\0\0\x08\x04\xd2\x16\x2f"])
def test_what_is_no_tls_passes_as_it_is(jail: Enclosure, streams: Streams, data: bytes) -> None:
    """The last is PostgreSQL's SSLRequest."""
    before = len(streams.got("sink"))
    with dial(jail, "tls.example.com", 993) as sock:
        sock.sendall(data)
        until("it arrived", lambda: streams.got("sink")[before:] == data)


def test_a_byte_that_may_begin_tls_waits_for_the_next(jail: Enclosure, streams: Streams) -> None:
    before = len(streams.got("sink"))
    with dial(jail, "tls.example.com", 993) as sock:
        sock.sendall(b"\x16")
        with dial(jail, "echo.example.com", 7) as other:
            other.sendall(b"x")
            assert other.recv(1) == b"x"
        assert len(streams.got("sink")) == before
        sock.sendall(b"\xff")
        until("both arrived", lambda: streams.got("sink")[before:] == b"\x16\xff")


# --- life ------------------------------------------------------------------------------------------------------------


def test_a_policy_that_takes_the_right_away_cuts_the_tunnel(outpassd: RunningDaemon, where: Path) -> None:
    file = where / "changing.yaml"
    file.write_text(POLICY)
    with enclosure(outpassd, file, where) as jail, dial(jail, "echo.example.com", 7) as sock:
        sock.sendall(b"a")
        assert sock.recv(1) == b"a"
        file.write_text(POLICY.replace('"echo.example.com:7", ', ""))
        assert jail.control.ask({"op": "reload"})["ok"]
        with pytest.raises(ConnectionResetError):
            sock.recv(1)


def test_a_right_that_expires_ends_the_tunnel(outpassd: RunningDaemon, where: Path) -> None:
    soon = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(time.time() + 4))
    policy = f'version: 1\npackages: {{unattributed: {{allow: ["network:socket"], socket: [{{to: "echo.example.com:7", expires: "{soon}"}}]}}}}\n'
    with enclosure(outpassd, policy, where) as jail:
        known = address(jail, "echo.example.com")
        with jail.connect(known, 7) as sock:
            sock.sendall(b"a")
            assert sock.recv(1) == b"a"
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
        with jail.connect(known, 7) as late:
            assert is_reset(late)
        assert jail.run("getent", "ahosts", "echo.example.com").returncode == 2
        assert jail.records(host="echo.example.com", reason="expired")


def test_the_end_of_the_jail_ends_its_tunnels(outpassd: RunningDaemon, where: Path) -> None:
    with enclosure(outpassd, POLICY, where) as jail:
        sock = dial(jail, "echo.example.com", 7)
        sock.sendall(b"a")
        assert sock.recv(1) == b"a"
        jail.control.ask({"op": "jail.close"})
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
        sock.close()


def test_a_gate_that_takes_over_knows_every_address(outpassd: RunningDaemon, where: Path) -> None:
    import os
    import signal

    with enclosure(outpassd, POLICY, where) as jail:
        first = address(jail, "echo.example.com")
        gate = outpassd.gate_pid()
        assert gate is not None
        os.kill(gate, signal.SIGKILL)
        with jail.connect(first, 7) as sock:  # waits in the backlog for the next gate
            sock.sendall(b"again")
            assert sock.recv(100) == b"again"
        assert address(jail, "echo.example.com") == first


def test_hundreds_of_idle_tunnels_stay_open_and_cost_no_pipes(jail: Enclosure) -> None:
    to = address(jail, "echo.example.com")
    gate = jail.daemon.gate_pid()
    socks = [jail.connect(to, 7) for _ in range(300)]
    try:
        for sock in socks:
            sock.sendall(b"x")
        for sock in socks:
            assert sock.recv(1) == b"x"
        pipes = [held for held in open_files(gate) if held.startswith("pipe:")]
        assert len(pipes) < 2 * 80, "pipes are borrowed, not kept"
        for sock in reversed(socks):
            sock.sendall(b"y")
            assert sock.recv(1) == b"y"
    finally:
        for sock in socks:
            sock.close()


def test_a_client_that_does_not_read_holds_up_nobody(jail: Enclosure) -> None:
    with dial(jail, "echo.example.com", 7) as deaf, dial(jail, "echo.example.com", 7) as other:
        deaf.setblocking(False)
        writable = select.poll()  # not select(): descriptors beyond 1023 are ordinary in a long test run
        writable.register(deaf, select.POLLOUT)
        sent = 0
        with contextlib.suppress(BlockingIOError):
            while sent < 64 << 20:
                if not writable.poll(1000):
                    break
                sent += deaf.send(b"z" * 65_536)
        assert sent < 64 << 20, "what nobody reads is not taken"
        other.sendall(b"alive")
        assert other.recv(10) == b"alive"
