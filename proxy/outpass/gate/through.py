"""Through an upstream proxy: what is said to it until it has opened the way to one host and port, and TLS to the proxy itself.

Lives here: CONNECT (RFC 9110, 9.3.6) and SOCKS5 (RFC 1928, 1929), what each refusal means. May not live here: which proxy and
for which hosts (outpass.upstream), whether the host may be reached (policy/), anything that logs: it would log credentials.

The name goes to the proxy as it is. It resolves it, so the addresses behind it are not checked by anybody here.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

from outpass.gate.descriptors import of_reserve
from outpass.gate.pins import Via, resolve
from outpass.policy import addresses, names
from outpass.reasons import Reason
from outpass.upstream import Upstream

Race = Callable[[Sequence[str], int], Awaitable[tuple[socket.socket, str]]]
"""dialling.race."""
MAX_HEAD: Final = 16_384
"""Bytes of a proxy's answer to CONNECT."""
LINGER_S: Final = 30.0
"""Seconds that an origin behind a TLS proxy may be silent after the client's end: TLS to the proxy has no half-close."""
_CHUNK: Final = 65_536


class NotThrough(OSError):
    """The proxy did not open the way; carries the reason."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.value)
        self.reason: Final = reason


class _Wire(Protocol):
    """The connection to the proxy while it is spoken to."""

    async def send(self, data: bytes) -> None: ...
    async def exactly(self, count: int) -> bytes: ...
    async def head(self) -> bytes: ...


async def open_way(via: Via, host: str, port: int, race: Race) -> socket.socket:
    """A connected non-blocking socket on which the next byte is the origin's. Raises OSError, mostly NotThrough."""
    proxy = via.proxy
    try:
        sock, _ = await race(await resolve(proxy.host, proxy.port), proxy.port)
    except TimeoutError:
        raise
    except OSError:
        raise NotThrough(Reason.PROXY_UNREACHABLE) from None
    try:
        if proxy.scheme != "https":
            await _ask(proxy, _Plain(sock), host, port)
            return sock
        return await _sealed(via, sock, host, port)
    except NotThrough:
        sock.close()
        raise
    except (OSError, EOFError, asyncio.LimitOverrunError) as error:
        sock.close()
        if isinstance(error, TimeoutError):
            raise
        raise NotThrough(Reason.PROXY_UNREACHABLE) from None
    except BaseException:
        sock.close()
        raise


async def _ask(proxy: Upstream, wire: _Wire, host: str, port: int) -> None:
    await (_socks5 if proxy.scheme == "socks5" else _connect)(proxy, wire, host, port)


async def _connect(proxy: Upstream, wire: _Wire, host: str, port: int) -> None:
    where = names.format_authority(host, port)
    lines = [f"CONNECT {where} HTTP/1.1", f"Host: {where}"]
    if proxy.user is not None:
        pair = base64.b64encode(f"{proxy.user}:{proxy.password}".encode()).decode()
        lines.append(f"Proxy-Authorization: Basic {pair}")
    await wire.send("\r\n".join([*lines, "", ""]).encode())
    while True:
        version, _, rest = (await wire.head()).partition(b" ")
        code = rest[:3]
        if not version.startswith(b"HTTP/1.") or not code.isdigit():
            raise NotThrough(Reason.PROXY_REFUSED)
        if code[:1] == b"2":
            return
        if code[:1] != b"1":
            raise NotThrough(_CODES.get(code, Reason.PROXY_REFUSED))


_CODES: Final = {
    b"407": Reason.PROXY_CREDENTIALS,
    b"502": Reason.UPSTREAM_UNREACHABLE,
    b"503": Reason.UPSTREAM_UNREACHABLE,
    b"504": Reason.UPSTREAM_TIMEOUT,
}
_REPLIES: Final = {
    3: Reason.UPSTREAM_UNREACHABLE,
    4: Reason.UPSTREAM_UNREACHABLE,
    5: Reason.UPSTREAM_UNREACHABLE,
    6: Reason.UPSTREAM_TIMEOUT,
}
"""Of SOCKS5 (RFC 1928, section 6)."""
_NO_LOGIN, _LOGIN = 0, 2


async def _socks5(proxy: Upstream, wire: _Wire, host: str, port: int) -> None:
    offered = bytes([_NO_LOGIN] if proxy.user is None else [_NO_LOGIN, _LOGIN])
    await wire.send(bytes([5, len(offered)]) + offered)
    version, method = await wire.exactly(2)
    if version != 5:
        raise NotThrough(Reason.PROXY_REFUSED)
    if method not in offered:
        raise NotThrough(Reason.PROXY_CREDENTIALS)
    if method == _LOGIN:
        user, password = (proxy.user or "").encode(), proxy.password.encode()
        await wire.send(bytes([1, len(user)]) + user + bytes([len(password)]) + password)
        if (await wire.exactly(2))[1] != 0:
            raise NotThrough(Reason.PROXY_CREDENTIALS)
    await wire.send(b"\x05\x01\x00" + _address(host) + port.to_bytes(2))
    _, reply, _, kind = await wire.exactly(4)
    if reply != 0:
        raise NotThrough(_REPLIES.get(reply, Reason.PROXY_REFUSED))
    length = {1: 4, 4: 16}.get(kind) or (await wire.exactly(1))[0]
    await wire.exactly(length + 2)


def _address(host: str) -> bytes:
    if not addresses.is_literal(host):
        return bytes([3, len(host)]) + host.encode("ascii")
    packed = ipaddress.ip_address(host).packed
    return bytes([4 if len(packed) == 16 else 1]) + packed


class _Plain:
    """A socket, of which not one byte of the origin's may be read: who carries it on has only the socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._loop = asyncio.get_running_loop()

    async def send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self._sock, data)

    async def exactly(self, count: int) -> bytes:
        got = b""
        while len(got) < count:
            more = await self._loop.sock_recv(self._sock, count - len(got))
            if not more:
                raise EOFError
            got += more
        return got

    async def head(self) -> bytes:
        got = b""
        while not got.endswith(b"\r\n\r\n"):
            await self._readable()
            try:
                seen = self._sock.recv(_CHUNK, socket.MSG_PEEK)
            except (BlockingIOError, InterruptedError):
                continue
            end = (got + seen).find(b"\r\n\r\n", max(len(got) - 3, 0))
            if not seen or (len(got) + len(seen) > MAX_HEAD and end < 0):
                raise EOFError
            got += self._sock.recv(len(seen) if end < 0 else end + 4 - len(got))
        return got

    async def _readable(self) -> None:
        ready = asyncio.Event()
        self._loop.add_reader(self._sock, ready.set)
        try:
            await ready.wait()
        finally:
            self._loop.remove_reader(self._sock)


class _Sealed:
    """TLS to the proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def exactly(self, count: int) -> bytes:
        return await self._reader.readexactly(count)

    async def head(self) -> bytes:
        return await self._reader.readuntil(b"\r\n\r\n")


async def _sealed(via: Via, sock: socket.socket, host: str, port: int) -> socket.socket:
    """TLS to the proxy is spoken by a task of ours; who carries the connection has a socket like any other."""
    reader, writer = await asyncio.open_connection(sock=sock, ssl=via.tls, server_hostname=via.proxy.host, limit=MAX_HEAD)
    try:
        await _ask(via.proxy, _Sealed(reader, writer), host, port)
        ours, theirs = socket.socketpair()
        if of_reserve(max(ours.fileno(), theirs.fileno())):
            ours.close()
            theirs.close()
            raise OSError("no descriptor is left")
        theirs.setblocking(False)
        inner = await asyncio.open_connection(sock=ours)
    except BaseException:
        writer.transport.abort()
        raise
    task = asyncio.get_running_loop().create_task(_bridge(inner, (reader, writer)))
    _ALIVE.add(task)
    task.add_done_callback(_ALIVE.discard)
    return theirs


_Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
_ALIVE: Final[set[asyncio.Task[None]]] = set()
"""asyncio keeps weak references to tasks only."""


async def _bridge(inner: _Streams, outer: _Streams) -> None:
    """Carry bytes between our side and the proxy until the origin has ended, or the client has and nothing more comes."""
    heard = asyncio.Event()
    out = asyncio.ensure_future(_copy(inner[0], outer[1], None))
    back = asyncio.ensure_future(_copy(outer[0], inner[1], heard))
    try:
        await asyncio.wait((out, back), return_when=asyncio.FIRST_COMPLETED)
        while out.done() and not back.done():
            heard.clear()
            try:
                await asyncio.wait_for(heard.wait(), LINGER_S)
            except TimeoutError:
                break
    finally:
        for task in (out, back):
            task.cancel()
        for _, writer in (inner, outer):
            writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, heard: asyncio.Event | None) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(_CHUNK):
            if heard is not None:
                heard.set()
            writer.write(data)
            await writer.drain()
    if heard is not None:
        heard.set()
