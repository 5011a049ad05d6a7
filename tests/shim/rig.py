"""What the shim is tested against: a broker that speaks PROTOCOL.md, a proxy that writes down what it is sent, real programs.

Lives here: real sockets, real files, real interpreters; standard library only, Python 3.9 and later. May not live here:
assertions, and any code of outpass's own two sides of the wire.
"""

from __future__ import annotations

import json
import os
import socket
import socketserver
import ssl
import struct
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any, Callable

ROOT = Path(__file__).resolve().parent.parent.parent
SHIM = ROOT / "client_shim" / "python" / "outpass_shim"
VECTORS = ROOT / "client_shim" / "vectors"
DEADLINE_S = 30.0
SILENCE = {"silence": True}
"""What a test's `answers` returns for a message that is not answered."""


class Broker:
    """Answers hello, mint and check over SOCK_SEQPACKET, and keeps every message with the pid that the kernel saw."""

    def __init__(self, where: Path) -> None:
        self.path = str(where / "mint.sock")
        self.got: list[dict[str, Any]] = []
        self.reply: dict[str, Any] = {"v": 1, "sid": "s-1", "jail": "j-1", "origin": [], "transparent": [], "instruments": []}
        self.answers: Callable[[dict[str, Any]], dict[str, Any] | None] = lambda message: None
        self._lock = threading.RLock()
        self._sessions: dict[int, str] = {}
        self._serial = 0
        self._connections: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._listener.bind(self.path)
        self._listener.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        opener = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
        while True:
            try:
                data, control, _, _ = connection.recvmsg(65536, 128)
            except OSError:
                return
            if not data:
                return
            pid = struct.unpack("3i", control[0][2][:12])[0]
            message = json.loads(data)
            with self._lock:
                self.got.append({**message, "_pid": pid, "_bytes": data})
                reply = self.answers(message) or self._answer(message, pid, opener)
            if reply == SILENCE:
                continue
            try:
                connection.send(json.dumps(reply).encode())
            except OSError:
                return  # closed by the test

    def _answer(self, message: dict[str, Any], pid: int, opener: int) -> dict[str, Any]:
        if pid != opener:
            return {"error": "session_refused", "say": "the message is of another process than the connection"}
        if message["op"] == "hello":
            sid = self._sessions.setdefault(pid, f"s-{len(self._sessions) + 1}")
            return {**self.reply, "sid": sid}
        if pid not in self._sessions:
            return {"error": "session_refused", "say": "no hello yet"}
        if message["op"] == "mint":
            self._serial += 1
            return {"pass": f"pass-{self._serial}", "tunnel": "http"}
        return {"allow": False, "reason": "no_rule", "say": f"{message['chain'][0]} may not reach {message['dst']}"}

    def chains(self, op: str = "mint", use: str = "request") -> list[list[str]]:
        """Chains of the messages of one kind, in order."""
        with self._lock:
            return [m["chain"] for m in self.got if m["op"] == op and m.get("use", use) == use]

    def of(self, op: str) -> list[dict[str, Any]]:
        """The messages of one operation, in order."""
        with self._lock:
            return [m for m in self.got if m["op"] == op]

    def close(self) -> None:
        """Gone: the socket's file, the listener, every connection."""
        os.unlink(self.path)
        for s in (self._listener, *self._connections):
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            s.close()


class Head(dict):  # type: ignore[type-arg]
    """One request head: header names in lower case to the list of their values; `.line` is the request line."""

    line: str
    inside: str | None

    @property
    def method(self) -> str:
        return self.line.split(" ")[0]


class Proxy:
    """Accepts CONNECT and absolute form, answers everything itself, and keeps the heads. TLS inside where it has a context."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.heads: list[Head] = []
        self.tls = tls
        outer = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                outer._serve(self.request, None)

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def _serve(self, sock: socket.socket, inside: str | None) -> None:
        file = sock.makefile("rb")
        while True:
            try:
                head = self._head(file, inside)
            except OSError:
                return None
            if head is None:
                return None
            self.heads.append(head)
            file.read(int(head.get("content-length", ["0"])[0]))
            if head.method == "CONNECT":
                return self._tunnel(sock, head.line.split(" ")[1])
            sock.sendall(b"HTTP/1.1 200 ok\r\nContent-Length: 2\r\n\r\nok")

    @staticmethod
    def _head(file: Any, inside: str | None) -> Head | None:
        line = file.readline().decode("latin-1").strip()
        if not line:
            return None
        head = Head()
        head.line, head.inside = line, inside
        while True:
            field = file.readline().decode("latin-1").strip()
            if not field:
                return head
            name, _, value = field.partition(":")
            head.setdefault(name.lower(), []).append(value.strip())

    def _tunnel(self, sock: socket.socket, place: str) -> None:
        sock.sendall(b"HTTP/1.1 200 ok\r\n\r\n")
        if self.tls is not None and not place.endswith(":80"):
            try:
                sock = self.tls.wrap_socket(sock, server_side=True)
            except OSError:
                return None
        if isinstance(sock, ssl.SSLSocket) and sock.selected_alpn_protocol() == "h2":
            return self.http2(sock, place)
        self._serve(sock, place)
        return None

    http2: Callable[[socket.socket, str], None]

    def inner(self) -> list[Head]:
        """The requests that came inside tunnels."""
        return [h for h in self.heads if h.inside is not None]

    def close(self) -> None:
        """No more connections."""
        self._server.shutdown()
        self._server.server_close()


class World:
    """A directory with an application, installed packages and their map, a broker, a proxy, and a way to run programs."""

    def __init__(self, where: Path, tls: ssl.SSLContext | None = None) -> None:
        self.where = where
        self.app, self.site = where / "app", where / "site"
        self.app.mkdir()
        self.site.mkdir()
        self.broker, self.proxy = Broker(where), Proxy(tls)
        self.owners: dict[str, str] = {}
        self.more: dict[str, Any] = {}
        self.env: dict[str, str] = {}

    def package(self, name: str, source: str, distribution: str | None = None) -> None:
        """Installs a package (`name` may be dotted) that belongs to a distribution."""
        directory = self.site.joinpath(*name.split("."))
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "__init__.py").write_text(textwrap.dedent(source))
        self.owners[str(directory)] = distribution or name.partition(".")[0].replace("_", "-")

    def write_map(self) -> None:
        """The map that the broker's hello names."""
        path = self.where / "map.json"
        content = {"v": 1, "built": time.time(), "dirs": self.owners, "files": {}, "editable": {}, "sites": [str(self.site)]}
        path.write_text(json.dumps({**content, "versions": {}, "native": [], **self.more}))
        self.broker.reply.setdefault("roots", [str(self.app)])
        self.broker.reply["map"] = str(path)

    def environment(self) -> dict[str, str]:
        """What the launcher gives CMD, as far as the shim is concerned."""
        clean = {
            k: v for k, v in os.environ.items() if not k.startswith(("OUTPASS_", "PYTHON", "COV")) and "proxy" not in k.lower()
        }
        proxy = f"http://{self.proxy.address}"
        return {
            **clean,
            "OUTPASS_MINT": self.broker.path,
            "OUTPASS_PROTOCOL": "1",
            "OUTPASS_PROXY": self.proxy.address,
            "PYTHONPATH": os.pathsep.join([str(SHIM / "inject"), str(self.site)]),
            "http_proxy": proxy,
            "https_proxy": proxy,
            "no_proxy": "localhost,127.0.0.1,::1",
            **self.env,
        }

    def run(self, source: str, *args: str, name: str = "main.py", check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs `source` as the application's script, or `args` instead of it when given."""
        self.write_map()
        script = self.app / name
        script.write_text(textwrap.dedent(source))
        command = [sys.executable, *(args or [str(script)])]
        done = subprocess.run(
            command, env=self.environment(), cwd=self.app, capture_output=True, text=True, timeout=DEADLINE_S * 2, check=False
        )
        if check:
            assert done.returncode == 0, done.stderr
        return done

    def close(self) -> None:
        """Both ends of the wire."""
        self.proxy.close()
        if os.path.exists(self.broker.path):
            self.broker.close()
