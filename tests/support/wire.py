"""A client that speaks raw HTTP through a gate: bytes out, one response in, with passes of its own.

Lives here: one connection, what an answer says. May not live here: the gate's process (gate.py), assertions about one feature.
"""

from __future__ import annotations

import base64
import http.client
import json
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.support.gate import Gate


class _Reading(http.client.HTTPResponse):
    """The standard library's reader, which takes 103 for the answer and throws trailers away."""

    def _read_status(self) -> tuple[str, int, str]:
        while True:
            version, status, reason = super()._read_status()  # type: ignore[misc]
            if status // 100 != 1 or status == 101:
                return version, status, reason
            self.interim = [*getattr(self, "interim", []), (status, self._lines())]

    def _read_and_discard_trailer(self) -> None:
        self.trailers = self._lines()

    def _lines(self) -> list[bytes]:
        lines: list[bytes] = []
        while (line := self.fp.readline()) not in (b"\r\n", b""):
            lines.append(line.rstrip(b"\r\n"))
        return lines


@dataclass
class Answer:
    """A response as it came."""

    status: int
    headers: dict[str, str]
    body: bytes
    interim: list[tuple[int, list[bytes]]] = field(default_factory=list)
    """1xx that came before: status and header lines."""
    trailers: list[bytes] = field(default_factory=list)
    """Trailer lines, as they came."""

    @property
    def problem(self) -> dict[str, Any]:
        """The problem+json body, checked to be one."""
        assert self.headers["content-type"] == "application/problem+json", self
        made: dict[str, Any] = json.loads(self.body)
        assert made["status"] == self.status
        assert made["code"] in self.headers["proxy-status"]
        return made

    @property
    def code(self) -> str:
        """The reason in it."""
        return str(self.problem["code"])


@dataclass
class Wire:
    """One connection to the gate, in the clear or inside TLS."""

    sock: socket.socket
    gate: Gate

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def ask(self, data: str | bytes, method: str = "GET") -> Answer:
        """Send bytes, read one response."""
        self.sock.sendall(data.encode("latin-1") if isinstance(data, str) else data)
        first = data[:8] if isinstance(data, str) else data[:8].decode("latin-1")
        return self.answer(next((m for m in ("HEAD", "CONNECT") if first.startswith(m)), method))

    def answer(self, method: str = "GET") -> Answer:
        """The next response."""
        response = _Reading(self.sock, method=method)
        response.begin()
        headers = {k.lower(): v for k, v in response.getheaders()}
        opened = (method == "CONNECT" and response.status == 200) or response.status == 101
        body = b"" if opened else response.read()
        interim, trailers = getattr(response, "interim", []), getattr(response, "trailers", [])
        return Answer(response.status, headers, body, interim, trailers)

    def get(
        self, url_path: str, host: str, *chain: str, extra: str = "", dst: str = "", method: str = "GET", **claims: Any
    ) -> Answer:
        """A request inside a tunnel, with a pass of its own for `dst` (default host:443); no chain: no pass."""
        token_line = f"Outpass-Token: {self.gate.mint(dst or f'{host}:443', *chain, **claims)}\r\n" if chain else ""
        return self.ask(f"{method} {url_path} HTTP/1.1\r\nHost: {host}\r\n{token_line}{extra}\r\n", method)

    def plain(self, url: str, host: str, *chain: str, extra: str = "", dst: str = "", method: str = "GET") -> Answer:
        """A plain request in absolute form, with a pass; no chain: no pass."""
        line = f"Proxy-Authorization: Bearer {self.gate.mint(dst or f'{host}:80', *chain)}\r\n" if chain else ""
        return self.ask(f"{method} {url} HTTP/1.1\r\nHost: {host}\r\n{line}{extra}\r\n", method)

    def secure(self, sni: str | None, *, verify: str | None = None, alpn: Sequence[str] = ("http/1.1",)) -> Wire:
        """TLS on this connection; `verify`: the name that the certificate must carry."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=self.gate.keys.ca_cert)
        context.check_hostname = verify is not None
        context.set_alpn_protocols(list(alpn))
        return replace(self, sock=context.wrap_socket(self.sock, server_hostname=sni))

    def closed(self) -> bool:
        """Whether the gate closed the connection (waits for it, up to the socket's timeout)."""
        try:
            return self.sock.recv(1) == b""
        except (ConnectionError, ssl.SSLError):
            return True

    def basic(self, dst: str, user: str) -> Answer:
        """CONNECT with Basic credentials whose user name is `user`."""
        value = base64.b64encode(f"{user}:".encode()).decode()
        return self.ask(f"CONNECT {dst} HTTP/1.1\r\nHost: {dst}\r\nProxy-Authorization: Basic {value}\r\n\r\n")
