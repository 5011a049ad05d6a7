"""The kernel's table of sockets: the client's socket is found by its two ends, and nothing else is."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from outpass.broker.view import View
from outpass.errors import StartError

SOCK_DIAG = 4


@pytest.fixture
def view() -> Iterator[View]:
    made = View(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, SOCK_DIAG))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        if not made.shows(listener):
            pytest.skip("this kernel has no inet_diag")
    yield made
    made.close()


def inode(sock: socket.socket) -> int:
    return os.fstat(sock.fileno()).st_ino


@pytest.mark.parametrize(
    ("sentence", "family", "server", "to"),
    [
        ("IPv4", socket.AF_INET, "127.0.0.1", "127.0.0.1"),
        ("IPv6", socket.AF_INET6, "::1", "::1"),
        ("IPv4 from an IPv6 socket", socket.AF_INET, "127.0.0.1", "::ffff:127.0.0.1"),
    ],
)
def test_the_clients_socket_is_found_and_not_the_servers(
    view: View, sentence: str, family: socket.AddressFamily, server: str, to: str
) -> None:
    with socket.create_server((server, 0), family=family) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection((to, port)) as client:
            accepted, (host, number, *_) = listener.accept()
            with accepted:
                ends = (host, number), (server, port)
                assert view.connection(*ends) == inode(client), sentence
                assert view.connection(*reversed(ends)) == inode(accepted)
                assert view.connection((host, number), (server, port ^ 1)) is None


def test_a_socket_that_is_bound_to_loopbacks_interface_is_found_too(view: View) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
        try:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo")
        except PermissionError:
            pytest.skip("this kernel lets only root bind to an interface")
        client.connect(listener.getsockname())
        assert view.connection(client.getsockname(), listener.getsockname()) == inode(client)


def test_a_listener_is_no_connection(view: View) -> None:
    """The kernel falls back to one where there is no connection: else whoever listens would be charged."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert view.shows(listener)
        assert view.connection(listener.getsockname(), ("127.0.0.1", 9)) is None


def test_an_answer_that_was_left_over_is_not_taken_for_the_next(view: View) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as client:
        ends = client.getsockname(), listener.getsockname()
        view._answer = lambda: None  # type: ignore[method-assign]  # this one is left in the queue
        assert view.connection(*ends) is None
        del view._answer
        assert view.connection(("127.0.0.1", 1), ("127.0.0.1", 2)) is None
        assert view.connection(*ends) == inode(client)


def test_a_closed_view_knows_nobody(view: View) -> None:
    view.close()
    assert view.connection(("127.0.0.1", 1), ("127.0.0.1", 2)) is None


@pytest.mark.parametrize(
    ("sentence", "family", "kind", "protocol"),
    [
        ("a TCP socket", socket.AF_INET, socket.SOCK_STREAM, 0),
        ("a Unix socket", socket.AF_UNIX, socket.SOCK_STREAM, 0),
        ("rtnetlink, by which a namespace is changed", socket.AF_NETLINK, socket.SOCK_RAW, 0),
    ],
)
def test_another_socket_is_refused(sentence: str, family: int, kind: int, protocol: int) -> None:
    with socket.socket(family, kind, protocol) as sock, pytest.raises(StartError, match="no view"):
        View(sock)


def test_the_view_of_another_namespace_is_refused(view: View) -> None:
    """The other has a listener at the same address: here it is played by a second socket on one port."""
    with socket.socket() as first, socket.socket() as second:
        for sock in (first, second):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        first.bind(("127.0.0.1", 0))
        second.bind(first.getsockname())
        first.listen()
        with pytest.raises(StartError, match="not of the jail's own"):
            view.shows(second)
