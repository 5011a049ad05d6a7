"""A launcher for tests: becomes a user, makes the daemon's side with real sockets, runs CMD in a jail, says what the gate got.

Lives here: the smallest stand-in for broker and gate, in one process. May not live here: assertions, attacks.
Run as `python -m tests.support.jail_driver SPEC.json`; CMD's output is our output; the result goes to SPEC's `result` file.
Everything is imported before the user changes, because the interpreter may lie where only root can read.
"""

from __future__ import annotations

import ctypes
import encodings.idna  # noqa: F401
import json
import os
import socket
import sys
import threading
from pathlib import Path
from typing import Any

from outpass.errors import OutpassError
from outpass.jail import host, launch, recipe
from outpass.jail.plan import Door

PR_SET_DUMPABLE = 4


class Gate:
    """Holds the jail's listeners from outside of it: answers on each, and remembers what came."""

    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []
        self.kinds: list[str] = []
        self.without: list[str] = []
        self.registered: list[int] = []

    def take(self, kinds: list[str], without: list[str], fds: list[int]) -> None:
        """Serve the listeners, each in a thread of its own."""
        self.kinds, self.without = kinds, without
        for kind, fd in zip(kinds, fds, strict=True):
            if kind == recipe.SOCKETS:
                continue
            sock = socket.socket(fileno=os.dup(fd))
            serve = self._tcp if sock.type == socket.SOCK_STREAM else self._udp
            threading.Thread(target=serve, args=(kind, sock), daemon=True).start()

    def _tcp(self, kind: str, server: socket.socket) -> None:
        while True:
            peer, _ = server.accept()
            entry: dict[str, Any] = {"kind": kind, "to": list(peer.getsockname()[:2]), "data": ""}
            self.got.append(entry)
            threading.Thread(target=self._answer, args=(peer, entry), daemon=True).start()

    @staticmethod
    def _answer(peer: socket.socket, entry: dict[str, Any]) -> None:
        peer.settimeout(10)
        try:
            entry["data"] = peer.recv(4096).decode("latin-1")
            peer.sendall(f"gate {entry['kind']} {entry['to'][0]} {entry['to'][1]}".encode())
        except OSError:
            pass
        peer.close()

    def _udp(self, kind: str, server: socket.socket) -> None:
        while True:
            data, ancillary, _, peer = server.recvmsg(4096, 256)
            self.got.append({"kind": kind, "data": data.decode("latin-1")})
            server.sendmsg([b"gate " + kind.encode()], ancillary, 0, peer)


def unix(path: Path, kind: socket.SocketKind, log: list[str]) -> None:
    """A listening socket of the daemon's that writes down every connection."""
    server = socket.socket(socket.AF_UNIX, kind)
    server.bind(str(path))
    server.listen()

    def serve() -> None:
        while True:
            peer, _ = server.accept()
            log.append(path.name)
            peer.send(path.name.encode())
            peer.close()

    threading.Thread(target=serve, daemon=True).start()


def runtime(path: Path, log: list[str]) -> Door:
    """The daemon's runtime directory, as the broker makes it."""
    path.mkdir(mode=0o700, exist_ok=True)
    (path / "maps").mkdir(exist_ok=True)
    (path / "lock").touch()
    for name, text in (("ca.pem", "the ca"), ("bundle.pem", "the bundle"), ("signing.key", "loot: the key")):
        (path / name).write_text(text)
    return Door("127.0.0.1:3128", str(path / "mint.sock"), str(path / "ca.pem"), str(path / "bundle.pem"))


def main() -> None:
    """Runs the spec; exits with CMD's code."""
    spec: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    uid = spec["uid"]
    if uid != os.getuid():
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)  # as after an exec as that user
    os.chdir(spec["cwd"])
    gate, log = Gate(), []
    door = runtime(Path(spec["runtime"]), log)
    daemon_made = False

    def open_jail(kinds: list[str], without: list[str], fds: list[int]) -> Door:
        nonlocal daemon_made
        for name, kind in (
            ("mint.sock", socket.SOCK_SEQPACKET),
            ("control.sock", socket.SOCK_SEQPACKET),
            ("admin.sock", socket.SOCK_STREAM),
        ):
            unix(Path(spec["runtime"]) / name, kind, log)
        gate.take(kinds, without, fds)
        daemon_made = True
        return door._replace(**spec.get("door", {}))

    asked = {"cwd": os.getcwd(), "private": [spec["runtime"]], **spec.get("request", {})}
    request = recipe.JailRequest(**{k: tuple(v) if isinstance(v, list) else v for k, v in asked.items()})
    machine = host.look(os.environ)
    error = ""
    try:
        code = launch.run_jailed(
            spec["command"], request, machine, lambda _: {**os.environ, **spec["env"]}, open_jail, gate.registered.append
        )
    except OutpassError as bad:
        code, error = 125, f"{bad.message}\n{bad.hint}"
    except launch.NotStarted as bad:
        code, error = bad.code, str(bad)
    result = {"code": code, "error": error, "kinds": gate.kinds, "without": gate.without, "got": gate.got, "daemon": log}
    Path(spec["result"]).write_text(json.dumps({**result, "registered": gate.registered, "opened": daemon_made}))
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
