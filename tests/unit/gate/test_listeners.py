"""Adopted sockets: which are served, and what an accepted connection is like."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from outpass.errors import StartError
from outpass.gate import listeners
from outpass.gate.jails import Jail
from outpass.model import Decision, EgressRequest


def _nothing(_: EgressRequest) -> Decision:
    raise AssertionError


def _jail() -> Jail:
    return Jail("j-1", "attributed", "no-jail", _nothing)


def test_connections_of_an_adopted_tcp_socket_do_not_wait_for_nagle() -> None:
    async def stock() -> int:
        got = asyncio.get_running_loop().create_future()

        async def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            got.set_result(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        made = socket.socket()  # as a socket from another process: its protocol number is 0
        made.bind(("127.0.0.1", 0))
        made.listen()
        server = await asyncio.start_server(accept, sock=made)
        _, writer = await asyncio.open_connection(*made.getsockname())
        found: int = await got
        writer.close()
        server.close()
        return found

    assert not asyncio.run(stock()), "asyncio alone leaves it off (L1)"

    async def run() -> tuple[int, bytes, str, str]:
        jail, got = _jail(), asyncio.get_running_loop().create_future()

        async def accept(which: Jail, source: str, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            sock = writer.get_extra_info("socket")
            control = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0")
            got.set_result((sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY), control, which.id, source))
            writer.close()

        adopted = socket.socket()
        adopted.bind(("127.0.0.1", 0))
        adopted.listen()
        await listeners.adopt(jail, adopted, accept)
        _, writer = await asyncio.open_connection(*adopted.getsockname())
        found: tuple[int, bytes, str, str] = await got
        writer.close()
        jail.stop_accepting()
        return found

    nodelay, control, jail, source = asyncio.run(run())
    assert control == b"reno", "a timer for each packet, where BBR is the default, is for networks"
    assert nodelay and jail == "j-1" and source.startswith("127.0.0.1:")


def test_a_unix_socket_says_who_is_there_and_its_path_stays(tmp_path: Path) -> None:
    async def run() -> str:
        jail, got = _jail(), asyncio.get_running_loop().create_future()

        async def accept(_: Jail, source: str, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            got.set_result(source)
            writer.close()

        path = str(tmp_path / "s")
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(path)
        sock.listen(1)
        await listeners.adopt(jail, sock, accept)
        _, writer = await asyncio.open_unix_connection(path)
        source: str = await got
        writer.close()
        jail.stop_accepting()
        assert (tmp_path / "s").exists()
        return source

    assert asyncio.run(run()).startswith("unix:pid=")


@pytest.mark.parametrize("case", ["not listening", "datagram"])
def test_what_is_not_served_is_refused(case: str) -> None:
    made = {
        "not listening": lambda: socket.socket(),
        "datagram": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
    }[case]()

    async def accept(*_: object) -> None:
        raise AssertionError

    with made, pytest.raises((StartError, OSError)):
        asyncio.run(listeners.adopt(_jail(), made, accept))
