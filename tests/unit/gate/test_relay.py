"""The relay alone, between sockets of this process: what was read before it, who may speak first, and for how long it waits."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Iterator

import pytest

from outpass.gate import relay, screen
from outpass.gate.relay import End, Relay
from outpass.reasons import Reason


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket, socket.socket, socket.socket]]:
    """(client, the relay's end of it, the relay's end of the origin, origin), over TCP."""
    made = []
    for _ in range(2):
        with socket.create_server(("127.0.0.1", 0)) as listening:
            near = socket.create_connection(listening.getsockname(), 30)
            made += [near, listening.accept()[0]]
    client, ours, origin, far = made
    for sock in (client, origin):
        sock.settimeout(30)
    yield client, ours, far, origin
    for sock in made:
        sock.close()


def all_of(sock: socket.socket) -> bytes:
    with sock.makefile("rb") as file:
        return file.read()


def test_what_was_read_before_goes_first_however_much_it_is(ends: tuple[socket.socket, ...]) -> None:
    client, ours, far, origin = ends
    ended: queue.Queue[End] = queue.Queue()
    first = bytes(range(256)) * 20_000  # 5 MB, more than a pipe and a socket hold
    Relay().add(ours, far, ended.put, None, first)
    client.sendall(b"and then")
    client.shutdown(socket.SHUT_WR)
    assert all_of(origin) == first + b"and then"
    origin.close()
    end = ended.get(timeout=30)
    assert (end.bytes_out, end.bytes_in, end.reason) == (len(first) + 8, 0, None)


def test_what_was_read_before_is_screened_too(ends: tuple[socket.socket, ...]) -> None:
    _client, ours, far, origin = ends
    ended: queue.Queue[End] = queue.Queue()
    Relay().add(ours, far, ended.put, screen.of_tls("a.test"), b"GET / HTTP/1.1\r\n\r\n")
    end = ended.get(timeout=30)
    assert (end.bytes_out, end.bytes_in, end.reason) == (0, 0, Reason.SNI_MISSING)
    with pytest.raises(ConnectionResetError):
        origin.recv(1)


def test_a_client_that_begins_no_hello_is_cut(ends: tuple[socket.socket, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "HELLO_S", 0.1)
    client, ours, far, origin = ends
    ended: queue.Queue[End] = queue.Queue()
    origin.sendall(b"I speak first")
    Relay().add(ours, far, ended.put, screen.of_tls("a.test"))
    end = ended.get(timeout=30)
    assert (end.bytes_in, end.reason) == (0, Reason.SNI_MISSING)
    with pytest.raises(ConnectionResetError):
        client.recv(1)


def test_without_a_screen_nothing_has_a_deadline(ends: tuple[socket.socket, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "HELLO_S", 0.0)
    client, ours, far, origin = ends
    carrying = Relay()
    carrying.add(ours, far, lambda _: None, screen.of_raw("a.test"))
    origin.sendall(b"I speak first")
    assert client.recv(100) == b"I speak first"
    client.sendall(b"me too")
    assert origin.recv(100) == b"me too"
    assert not carrying._timed, "an idle tunnel costs no wake-ups"


def test_the_end_of_a_stream_that_goes_on_arrives_however_little_it_is(ends: tuple[socket.socket, ...]) -> None:
    """Large pieces wake the relay while there are any; what comes after them is not left where it is."""
    client, ours, far, origin = ends
    carrying = Relay()
    carrying.add(ours, far, lambda _: None)
    for size in (4 << 20, 1, 4 << 20, 300_000):
        sending = threading.Thread(target=origin.sendall, args=(b"x" * size,))
        sending.start()
        while size:
            size -= len(client.recv(size))
        sending.join()
    client.sendall(b"?")
    assert origin.recv(1) == b"?"
