"""What `--publish` means, and what makes no sense; a relay between real sockets."""

from __future__ import annotations

import contextlib
import socket
import threading

import pytest

from outpass.errors import StartError, UsageError
from outpass.jail import carry, publish
from outpass.jail.publish import Port


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("8000", Port("127.0.0.1", 8000, 8000)),
        ("8080:8000", Port("127.0.0.1", 8080, 8000)),
        ("0:8000", Port("127.0.0.1", 0, 8000)),
        ("0.0.0.0:8000", Port("0.0.0.0", 8000, 8000)),
        ("0.0.0.0:80:8000", Port("0.0.0.0", 80, 8000)),
        ("localhost:80:8000", Port("127.0.0.1", 80, 8000)),
        ("[::1]:80:8000", Port("::1", 80, 8000)),
        ("[::]:8000", Port("::", 8000, 8000)),
    ],
)
def test_what_is_meant(text: str, want: Port) -> None:
    assert publish.parse(text) == want


@pytest.mark.parametrize(
    "text",
    ["", ":", "0", "8000:0", "65536", "80:65536", "a", "a:80", "::1:80", "[::1]", "[::1", "1:2:3", "127.0.0.1", "127.0.0.1:", "80/tcp",
     "127.1:80", "example.com:80:80", "-1:80", "8000:", "٣:80", "[fe80::1%lo]x:80", "127.0.0.1:1:2:3", "80 :80", "+80"],
)  # fmt: skip
def test_what_makes_no_sense(text: str) -> None:
    with pytest.raises(UsageError, match="makes no sense"):
        publish.parse(text)


def test_a_port_is_shown_as_it_is_typed() -> None:
    assert (Port("::1", 80, 8000).shown, Port("127.0.0.1", 80, 8000).shown) == ("[::1]:80", "127.0.0.1:80")


def test_a_port_in_use_is_refused_after_leave_and_nothing_is_left_open() -> None:
    asked: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as taken:
        publisher = publish.Publisher([Port("127.0.0.1", taken.getsockname()[1], 8000)])
        with contextlib.closing(publisher), pytest.raises(StartError, match="already in use"):
            publisher.start(1, lambda ports, leash: asked.append(list(ports)))
    assert len(asked) == 1


def test_without_ports_nothing_is_asked_and_nothing_started() -> None:
    with contextlib.closing(publish.Publisher([])) as publisher:
        publisher.start(1, lambda *_: pytest.fail("asked"))


class Maker:
    """Answers as the maker does, in a thread, with sockets of this namespace."""

    def __init__(self, broken: bool = False) -> None:
        self.relays, self.ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.broken = broken
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with self.ours:
            while self.ours.recv(1):
                if self.broken:
                    self.ours.send(b"n")
                    continue
                with socket.socket() as made:
                    socket.send_fds(self.ours, [b"s"], [made.fileno()])


@contextlib.contextmanager
def relay(port: int, broken: bool = False):
    """A relay to `port`; yields its own port, and ends when its leash is let go of."""
    listener = socket.create_server(("127.0.0.1", 0))
    leash, held = socket.socketpair()
    maker = Maker(broken)
    thread = threading.Thread(target=carry.run, args=([(listener, port)], leash, maker.relays), daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        held.close()
        thread.join(20)
        assert not thread.is_alive(), "it outlives its leash"
        for sock in (listener, leash, maker.relays):
            sock.close()


def everything(sock: socket.socket) -> bytes:
    found = b""
    while block := sock.recv(1 << 16):
        found += block
    return found


def test_bytes_go_both_ways_and_each_way_ends_alone() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, relay(server.getsockname()[1]) as port:
        with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
            inner, _ = server.accept()
            inner.settimeout(20)
            client.sendall(b"question")
            client.shutdown(socket.SHUT_WR)
            assert everything(inner) == b"question"
            inner.sendall(b"answer" * 100_000)
            inner.close()
            assert everything(client) == b"answer" * 100_000


@pytest.mark.parametrize("broken", [False, True], ids=["nobody listens", "no socket is made"])
def test_what_cannot_be_carried_is_reset(broken: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        number = gone.getsockname()[1]
    with relay(number, broken) as port, pytest.raises(ConnectionResetError):  # at once, or when it reads
        with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
            client.recv(1)


def test_a_reset_inside_is_a_reset_outside() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, relay(server.getsockname()[1]) as port:
        with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
            inner, _ = server.accept()
            inner.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            inner.close()
            with pytest.raises(ConnectionResetError):
                client.recv(1)
