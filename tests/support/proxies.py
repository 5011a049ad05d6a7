"""A proxy as companies have them, on loopback: HTTP, HTTP over TLS, SOCKS5, with or without a login; and what it was asked.

Lives here: the proxy's side of CONNECT and SOCKS5, a table of names that only the proxy knows. May not live here: assertions.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ssl
import threading
from dataclasses import dataclass, field

USER, PASSWORD = "ada", "p@ss:wörd"


@dataclass
class Proxy:
    """`with Proxy("socks5", {("api.test", 443): port}) as proxy:`; `asked` holds every (host, port) after a good login."""

    scheme: str
    names: dict[tuple[str, int], int]
    """Where each destination lies on 127.0.0.1; of others it says that they cannot be reached."""
    login: bool = False
    password: str = PASSWORD
    """That it wants, of USER."""
    tls: ssl.SSLContext | None = None
    refuses: bool = False
    """Whatever it is asked for."""
    silent: bool = False
    """It accepts and says nothing."""
    asked: list[tuple[str, int]] = field(default_factory=list)
    logins: list[bytes] = field(default_factory=list)
    port: int = 0

    def __enter__(self) -> Proxy:
        self._loop = asyncio.new_event_loop()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), daemon=True)
        self._thread.start()
        assert ready.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)

    def message(self, *exempt: str) -> dict[str, object]:
        """As a gate is told of it, with the login that it wants now."""
        where = {"scheme": self.scheme, "host": "127.0.0.1", "port": self.port}
        who = {"user": USER, "password": self.password} if self.login else {"user": None, "password": ""}
        return {**where, **who, "exempt": list(exempt), "source": "--upstream-proxy"}

    def _run(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self.tls))
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        self._loop.run_forever()
        server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, EOFError):
            if self.silent:
                await reader.read()
            port = await (self._socks5 if self.scheme == "socks5" else self._connect)(reader, writer)
            if port is not None:
                far = await asyncio.open_connection("127.0.0.1", port)
                await asyncio.gather(_copy(reader, far[1]), _copy(far[0], writer))
        writer.close()

    def _find(self, host: str, port: int) -> int | None:
        self.asked.append((host, port))
        return self.names.get((host, port))

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int | None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        fields = [line for line in head.split("\r\n") if line.lower().startswith("proxy-authorization: basic ")]
        self.logins += [base64.b64decode(line.split()[-1]) for line in fields]
        if self.login and self.logins[-1:] != [f"{USER}:{self.password}".encode()]:
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nproxy-authenticate: Basic\r\ncontent-length: 0\r\n\r\n")
            return None
        host, _, port = head.split()[1].rpartition(":")
        found = self._find(host.strip("[]"), int(port))
        if self.refuses or found is None:
            writer.write(b"HTTP/1.1 403 No\r\n\r\n" if self.refuses else b"HTTP/1.1 502 No such host\r\n\r\n")
            return None
        # The end of the head in a segment of its own: a reader must not mind.
        writer.write(b"HTTP/1.1 200 Established\r\nvia: 1.1 corp\r\n\r")
        await writer.drain()
        await asyncio.sleep(0)
        writer.write(b"\n")
        return found

    async def _socks5(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int | None:
        _, count = await reader.readexactly(2)
        offered = await reader.readexactly(count)
        wanted = 2 if self.login else 0
        writer.write(bytes([5, wanted if wanted in offered else 255]))
        if wanted not in offered:
            return None
        if self.login:
            user = await reader.readexactly((await reader.readexactly(2))[1])
            password = await reader.readexactly((await reader.readexactly(1))[0])
            self.logins.append(user + b":" + password)
            good = self.logins[-1] == f"{USER}:{self.password}".encode()
            writer.write(bytes([1, 0 if good else 1]))
            if not good:
                return None
        kind = (await reader.readexactly(4))[3]
        if kind == 3:
            host = (await reader.readexactly((await reader.readexactly(1))[0])).decode()
        else:
            host = ".".join(str(b) for b in await reader.readexactly(4))
        found = self._find(host, int.from_bytes(await reader.readexactly(2)))
        reply = 2 if self.refuses else 4 if found is None else 0
        writer.write(bytes([5, reply, 0, 1, 0, 0, 0, 0, 0, 0]))
        return found if reply == 0 else None


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
        else:
            writer.close()
