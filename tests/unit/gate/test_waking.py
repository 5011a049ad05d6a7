"""For how much the kernel wakes us: large pieces under a stream of bytes, anything else at once."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from outpass.gate import pump
from outpass.gate.waking import LARGE, SMALL, Waking


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        near = socket.create_connection(listening.getsockname(), 30)
        far = listening.accept()[0]
    yield near, far
    near.close()
    far.close()


def mark(sock: socket.socket) -> int:
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT)


def test_a_stream_wakes_for_pieces_until_nothing_comes_for_a_moment(pair: tuple[socket.socket, socket.socket]) -> None:
    found = Waking(pair[0], 1 << 17)
    assert not found.brought(LARGE - 1) and mark(pair[0]) == 1
    assert found.brought(SMALL) and mark(pair[0]) == 1 << 17
    assert not found.brought(1 << 17), "it is said once"
    assert found.look() and mark(pair[0]) == 1 << 17
    assert not found.look() and mark(pair[0]) == 1, "nothing came between two looks"
    assert not found.brought(SMALL), "and it takes another stream"


def test_small_reads_never_add_up_to_a_stream(pair: tuple[socket.socket, socket.socket]) -> None:
    found = Waking(pair[0], 1 << 17)
    for _ in range(3):
        assert not found.brought(LARGE - SMALL)
        assert not found.brought(SMALL - 1)
    assert mark(pair[0]) == 1 and not found.patient


def test_a_socket_without_such_a_mark_is_left_as_it_is() -> None:
    near, far = socket.socketpair()
    with near, far:
        assert not Waking(near, 1 << 17).brought(LARGE)


def test_a_socket_that_was_closed_meanwhile_is_no_fault(pair: tuple[socket.socket, socket.socket]) -> None:
    found = Waking(pair[0], 1 << 17)
    assert found.brought(LARGE)
    pair[0].close()
    assert not found.look() or not found.look()
    assert not found.patient


async def _read(near: socket.socket, far: socket.socket, sizes: tuple[int, ...]) -> tuple[list[int], list[int]]:
    """How much of each message a pump reads before the next is sent, and the mark after each and once it is held."""
    loop = asyncio.get_running_loop()
    got, marks, enough = 0, [], asyncio.Event()
    received = []

    def take(data: bytes) -> None:
        nonlocal got
        got += len(data)
        enough.set()

    far.setblocking(False)
    reader, writer = await asyncio.open_connection(sock=near)
    reading = pump.Pump(reader, writer, take, lambda: None)
    reading.start()
    for size in sizes:
        got = 0
        sending = asyncio.ensure_future(loop.sock_sendall(far, b"x" * size))
        while got < size:
            enough.clear()
            await asyncio.wait_for(enough.wait(), 30)
        await sending
        received.append(got)
        marks.append(mark(near))
    reading.hold()
    marks.append(mark(near))
    writer.close()
    await asyncio.wait_for(reading.ended, 30)
    return received, marks


def test_a_large_body_arrives_with_its_last_byte_and_whoever_takes_over_is_woken_for_anything(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    sizes = (4 << 20, 1, 4 << 20, 100_001, 5)
    received, marks = asyncio.run(_read(*pair, sizes))
    assert tuple(received) == sizes and marks[-1] == 1
