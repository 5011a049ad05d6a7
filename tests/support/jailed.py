"""CMD in a jail made by outpass.jail, as root and as an ordinary user, and an attacker outside who writes down what arrives.

Lives here: who runs, where, the victim and the attacker's servers. May not live here: assertions, attacks.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
USER = 4242
"""An ordinary user without a name or a home."""


@dataclass(frozen=True)
class Identity:
    """Who runs the jail."""

    name: str
    uid: int

    def popen(self, command: list[str], **options: Any) -> subprocess.Popen[str]:
        """A process of this user's, outside any jail."""
        who = {} if self.uid == os.getuid() else {"user": self.uid, "group": self.uid, "extra_groups": []}
        return subprocess.Popen(command, text=True, **who, **options)


def identities() -> list[Any]:
    """Root and a user where we are root; else only ourselves, and the other is skipped by name."""
    if os.getuid() == 0:
        return [pytest.param(Identity("root", 0), id="root"), pytest.param(Identity("user", USER), id="user")]
    why = "needs uid 0; run the suite as root too"
    return [
        pytest.param(Identity("root", 0), id="root", marks=pytest.mark.skip(reason=why)),
        pytest.param(Identity("user", os.getuid()), id="user"),
    ]


@functools.cache
def impossible(uid: int) -> str:
    """What the doctor says is missing for this user; empty where a jail can be made."""
    script = (
        "import sys, json, os, ctypes, random, tempfile, encodings.idna\n"
        "from outpass.jail import host, probe, recipe\n"
        f"u = {uid}\n"
        "if u != os.getuid():\n os.setgroups([]); os.setgid(u); os.setuid(u); ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)\n"
        "m = host.look(os.environ)\n"
        "print(json.dumps([f'{f.name}: {f.said}' for f in probe.examine(m) if f.fatal]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=ROOT)
    return done.stderr if done.returncode else "; ".join(json.loads(done.stdout))


@functools.cache
def python_for(uid: int) -> str:
    """An interpreter that this user can run: the one below our virtualenv, which may lie in the /tmp that a jail hides."""
    for candidate in (
        getattr(sys, "_base_executable", sys.executable),
        "/usr/bin/python3",
        shutil.which("python3", path="/usr/local/bin:/bin") or "",
    ):
        with contextlib.suppress(OSError):
            if candidate and Identity("", uid).popen([candidate, "-c", ""], stderr=subprocess.DEVNULL).wait() == 0:
                return candidate
    pytest.skip(f"no python that uid {uid} can run")


@dataclass
class Outcome:
    """What one jail left."""

    code: int
    out: str
    err: str
    error: str
    """What outpass itself said when there was no jail or no CMD."""
    gate: list[dict[str, Any]] = field(default_factory=list)
    daemon: list[str] = field(default_factory=list)
    """Names of the daemon's sockets that were connected to."""
    kinds: list[str] = field(default_factory=list)
    without: list[str] = field(default_factory=list)
    opened: bool = False
    registered: list[int] = field(default_factory=list)


class Place:
    """A directory of the identity's, reachable by its user, with the daemon's runtime directory in it."""

    def __init__(self, who: Identity) -> None:
        self.who = who
        # NOTE: not pytest's tmp_path, which only root may enter when root runs the suite
        self.path = Path(os.path.realpath(tempfile.mkdtemp(prefix="opj-", dir="/tmp")))
        self.runtime = self.path / "run"
        self.project = self.path / "project"
        self.project.mkdir()
        self.give(self.path, self.project)

    def give(self, *paths: Path) -> None:
        """Hand paths to the identity."""
        for path in paths:
            os.chown(path, self.who.uid, self.who.uid if self.who.uid != os.getuid() else os.getgid())

    def spec(self, command: list[str], env: dict[str, str] | None = None, **more: Any) -> list[str]:
        """The driver's command line for CMD."""
        shutil.rmtree(self.runtime, ignore_errors=True)
        result = self.path / "result.json"
        result.write_text("{}")
        self.give(result)
        spec = {
            "uid": self.who.uid,
            "command": command,
            "env": {"PATH": "/usr/local/bin:/usr/bin:/bin", **(env or {})},
            "runtime": str(self.runtime),
            "result": str(result),
            "cwd": str(self.project),
            **more,
        }
        (self.path / "spec.json").write_text(json.dumps(spec))
        return [sys.executable, "-m", "tests.support.jail_driver", str(self.path / "spec.json")]

    def result(self, code: int, out: str, err: str) -> Outcome:
        """What the driver wrote down."""
        told = json.loads((self.path / "result.json").read_text())
        assert told, f"the driver failed with {code}\n{out}\n{err}"
        fields = {k: told[k] for k in ("error", "daemon", "kinds", "without", "opened", "registered")}
        return Outcome(told["code"], out, err, gate=told["got"], **fields)

    def run(self, command: list[str], **more: Any) -> Outcome:
        """CMD in a jail, to its end."""
        options = {k: more.pop(k) for k in ("stdin", "stdout", "pass_fds", "preexec_fn") if k in more}
        options = {"stdout": subprocess.PIPE, **options}
        done = subprocess.run(
            self.spec(command, **more), stderr=subprocess.PIPE, text=True, timeout=120, cwd=ROOT, check=False, **options
        )
        return self.result(done.returncode, done.stdout or "", done.stderr)

    def python(self, script: str, *args: str, **more: Any) -> Outcome:
        """A Python script in a jail."""
        return self.run([python_for(self.who.uid), "-I", "-c", script, *args], **more)

    def bare(self, script: str, *args: str) -> subprocess.CompletedProcess[str]:
        """The same script as the same user without a jail: shows that an attack is one."""
        process = self.who.popen(
            [python_for(self.who.uid), "-I", "-c", script, *args],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self.project,
        )
        out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@contextlib.contextmanager
def place(who: Identity) -> Iterator[Place]:
    """A Place that is removed afterwards; skips, by name, where this kernel can make no jail for the identity."""
    if why := impossible(who.uid):
        pytest.skip(f"no jail is possible here for {who.name}: {why}")
    made = Place(who)
    try:
        yield made
    finally:
        shutil.rmtree(made.path, ignore_errors=True)


class Attacker:
    """Outside of every jail: servers on each way that a jail could leak by. `log` holds all that arrived, with its way."""

    def __init__(self, where: Path) -> None:
        self.log: list[str] = []
        self.servers: list[socket.socket] = []
        self.where = where
        self.name = f"opj-{uuid.uuid4().hex[:12]}"
        self.tcp = self._stream(socket.AF_INET, ("127.0.0.1", 0), "tcp").getsockname()[1]
        self.tcp6 = self._stream(socket.AF_INET6, ("::1", 0), "tcp6").getsockname()[1] if socket.has_ipv6 else 0
        self.address = _own_address()
        self.tcp_everywhere = self._stream(socket.AF_INET, ("0.0.0.0", 0), "tcp-everywhere").getsockname()[1]
        self.udp = self._datagram(socket.AF_INET, ("0.0.0.0", 0), "udp").getsockname()[1]
        self.abstract = f"\0{self.name}"
        self._stream(socket.AF_UNIX, self.abstract, "abstract")
        self.stream = str(where / "stream.sock")
        self._open(self._stream(socket.AF_UNIX, self.stream, "unix-stream"))
        self.dgram = str(where / "dgram.sock")
        self._open(self._datagram(socket.AF_UNIX, self.dgram, "unix-dgram"))

    def close(self) -> None:
        """Ends the servers: shut down first, which wakes the threads that wait in them."""
        for server in self.servers:
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
            server.close()

    def _open(self, sock: socket.socket) -> None:
        os.chmod(sock.getsockname(), 0o777)

    def _stream(self, family: int, address: Any, way: str) -> socket.socket:
        server = socket.socket(family, socket.SOCK_STREAM)
        self.servers.append(server)
        server.bind(address)
        server.listen(64)
        threading.Thread(target=self._accept, args=(server, way), daemon=True).start()
        return server

    def _accept(self, server: socket.socket, way: str) -> None:
        while True:
            try:
                peer, _ = server.accept()
            except OSError:
                return
            self.log.append(f"{way}: connected")
            peer.settimeout(5)
            with contextlib.suppress(OSError):
                self.log.append(f"{way}: {peer.recv(4096)!r}")
                peer.sendall(b"ok")
            peer.close()

    def _datagram(self, family: int, address: Any, way: str) -> socket.socket:
        server = socket.socket(family, socket.SOCK_DGRAM)
        self.servers.append(server)
        server.bind(address)

        def serve() -> None:
            while True:
                try:
                    data = server.recv(4096)
                except OSError:
                    return
                self.log.append(f"{way}: {data!r}")

        threading.Thread(target=serve, daemon=True).start()
        return server

    def late(self, path: str) -> None:
        """A socket that is bound only now."""
        self._open(self._stream(socket.AF_UNIX, path, "late"))


def _own_address() -> str:
    """An address of this machine that is not loopback; loopback where there is none. Sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        probe.connect(("192.0.2.1", 9))
        return str(probe.getsockname()[0])
    return "127.0.0.1"
