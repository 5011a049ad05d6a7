"""Destinations in other forms than a name over IPv4: IPv6 alone, addresses in addresses, and UDP, which nothing carries."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import RunningDaemon, daemon
from tests.support.enclosed import Enclosure, enclosure, possible

LITERAL = "2606:2800:220:1::9"
POLICY = f"""
version: 1
packages:
  unattributed:
    allow: [network:socket]
    socket: ["six.example.com:7", "[{LITERAL}]:7", "93.184.216.34:7", "quic.example.com:443"]
"""
ANYWHERE = "version: 1\npackages: {unattributed: {allow: [network:socket]}}\n"


@pytest.fixture(scope="module")
def six() -> Iterator[socket.socket]:
    """An echo server on ::1 alone, which says first who it is."""
    try:
        server = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")

    def one(peer: socket.socket) -> None:
        with contextlib.suppress(OSError), peer:
            peer.sendall(b"six ")
            while data := peer.recv(4096):
                peer.sendall(data)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=one, args=(server.accept()[0],), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    yield server
    server.close()


@pytest.fixture(scope="module")
def jail(tmp_path_factory: pytest.TempPathFactory, six: socket.socket) -> Iterator[Enclosure]:
    if not possible():
        pytest.skip("no network namespace can be made here")
    where, port = tmp_path_factory.mktemp("forms"), six.getsockname()[1]
    options = [o for host in ("six.example.com", f"[{LITERAL}]") for o in ("--connect-to", f"{host}:7:[::1]:{port}")]
    with daemon(where, *options) as started, enclosure(started, POLICY, where) as made:
        yield made


def talk(sock: socket.socket) -> bytes:
    """What comes back, up to ten bytes; empty where the connection is reset."""
    got = b""
    with contextlib.suppress(ConnectionError):
        sock.sendall(b"hello")
        while len(got) < 9 and (data := sock.recv(9)):
            got += data
    return got


def test_a_name_that_leads_to_ipv6_only(jail: Enclosure) -> None:
    address = jail.run("getent", "ahosts", "six.example.com").stdout.split()[0]
    assert address.startswith("198.18."), "inside there is IPv4 for it"
    with jail.connect(address, 7) as sock:
        assert talk(sock) == b"six hello"
    with jail.connect(f"::ffff:{address}", 7) as sock:
        assert talk(sock) == b"six hello", "and over an IPv6 socket"
    assert jail.records(2, host="six.example.com", kind="decision", scheme="tcp", verdict="allow")[0]["dialled"].startswith(
        "[::1]:"
    )


def test_a_literal_ipv6_destination(jail: Enclosure) -> None:
    with jail.connect(LITERAL, 7) as sock:
        assert talk(sock) == b"six hello"
    assert jail.records(host=LITERAL, port=7, verdict="allow")
    with contextlib.suppress(ConnectionResetError), jail.connect(LITERAL, 8) as sock:
        assert talk(sock) == b""
    assert jail.records(host=LITERAL, port=8, verdict="deny", reason="unattributed")


@pytest.mark.parametrize(
    ("to", "reason"),
    [
        ("64:ff9b::a9fe:a9fe", "address_metadata"),
        ("64:ff9b::7f00:1", "address_loopback"),
        ("64:ff9b::a00:1", "address_private"),
        ("64:ff9b:1::a9fe:a9fe", "address_"),
        ("2002:7f00:1::", "address_loopback"),
        ("2002:a9fe:a9fe::1", "address_metadata"),
        ("::ffff:169.254.169.254", "address_metadata"),
        ("::ffff:10.0.0.1", "address_private"),
        ("fe80::1", "address_"),
        ("fd00::1", "address_private"),
    ],
)
def test_an_address_in_an_address_is_what_it_embeds(outpassd: RunningDaemon, where: Path, to: str, reason: str) -> None:
    """The widest grant there is, and yet none of these is in it."""
    with enclosure(outpassd, ANYWHERE, where) as jail:
        with contextlib.suppress(OSError), jail.connect(to, 7) as sock:
            assert talk(sock) == b""
        if to.startswith("fe80"):
            return  # without an interface the kernel makes no connection at all
        (record, *_) = jail.records(port=7, verdict="deny")
        assert record["reason"].startswith(reason) and record["dialled"] is None, record


@pytest.mark.parametrize("to", ["203.0.113.9", "2001:db8::9", "::ffff:203.0.113.9"])
@pytest.mark.parametrize("port", [7, 443])
def test_udp_is_refused_at_once_over_both_protocols(jail: Enclosure, to: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in to else socket.AF_INET
    with jail.socket(family, socket.SOCK_DGRAM) as sock:
        sock.connect((to, port))
        sock.send(b"hello")
        with pytest.raises(ConnectionRefusedError):
            sock.recv(10)


def test_a_quic_client_hears_at_once_that_there_is_none(jail: Enclosure) -> None:
    """Even for a host that a rule names: its first flight is refused by ICMP, and it goes on over TCP."""
    connection = pytest.importorskip("aioquic.quic.connection")
    configuration = pytest.importorskip("aioquic.quic.configuration")
    address = jail.run("getent", "ahosts", "quic.example.com").stdout.split()[0]
    client = connection.QuicConnection(configuration=configuration.QuicConfiguration(is_client=True, alpn_protocols=["h3"]))
    client.connect((address, 443), now=0.0)
    with jail.socket(kind=socket.SOCK_DGRAM) as sock:
        sock.connect((address, 443))
        for flight, _ in client.datagrams_to_send(now=0.0)[:1]:
            sock.send(flight)
        with pytest.raises(ConnectionRefusedError):
            sock.recv(2000)
