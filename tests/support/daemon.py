"""A real daemon with its real gate, as a process, and both ends that talk to it: control, mint, admin.

Lives here: starting, asking, ending. May not live here: assertions about what it answers.
"""

from __future__ import annotations

import array
import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from tests.support.proc import children

PUPPET = Path(__file__).with_name("puppet.py")
HELLO: dict[str, Any] = {
    "op": "hello", "v": 1, "lang": "python", "runtime": "3", "shim": "0", "prefix": "/x", "paths": [], "argv": ["app.py"],
    "cwd": "/", "spawn": None, "fork_of": None,
}  # fmt: skip


def is_gate(pid: int) -> bool:
    """Whether a process is a gate, and not one that waits until it is needed."""
    return b"outpass.gate" in _of(pid, "cmdline") and not _is_spare(pid)


def _is_spare(pid: int) -> bool:
    return b"--spare" in _of(pid, "cmdline") and _of(pid, "comm") != b"outpass-gate\n"


def _of(pid: int, name: str) -> bytes:
    """A file of a process's in /proc; empty where it has gone."""
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


class Control:
    """A control connection, as `outpass run` has one."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.settimeout(60)

    def ask(self, message: Mapping[str, Any], fds: Sequence[int] = ()) -> dict[str, Any]:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.sock.sendmsg([json.dumps(message).encode()], rights)
        return json.loads(self.sock.recv(1 << 17) or b"null")

    def open(
        self, policy: Path, *, roots: Sequence[str] = ("/srv/app",), listener: socket.socket | None = None
    ) -> dict[str, Any]:
        """Open a jail with a listener of its own."""
        with listener or socket.create_server(("127.0.0.1", 0)) as door:
            source = {"file": str(policy), "allow": [], "deny_all": False, "mode": None}
            body = {"op": "jail.open", "kind": "no-jail", "label": "a test", "cwd": "/", "roots": list(roots), "policy": source}
            return self.ask(body, [door.fileno()])

    def close(self) -> None:
        self.sock.close()


class _OverUnix(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("admin", timeout=30)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        self.sock.connect(self.path)


class RunningDaemon:
    """What a started daemon said of itself, and its process."""

    def __init__(self, process: subprocess.Popen[bytes], ready: dict[str, Any], control: Control | None, errors: Path) -> None:
        self.process = process
        self.ready = ready
        self.private = control
        self.errors = errors

    def control(self) -> Control:
        """A new connection to a daemon that listens."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.connect(self.ready["control"])
        return Control(sock)

    def admin(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> tuple[int, Any]:
        """One call: status, and the JSON or text of the answer."""
        connection = _OverUnix(self.ready["admin"])
        with contextlib.closing(connection):
            sent = None if body is None else json.dumps(body)
            connection.request(method, path, sent, {"Outpass-Client": "1"} if headers is None else dict(headers))
            answer = connection.getresponse()
            text = answer.read().decode()
            return answer.status, json.loads(text) if "json" in answer.headers.get("Content-Type", "") else text

    def events(self) -> Iterator[str]:
        """Lines of the event stream, the first when it is open."""
        connection = _OverUnix(self.ready["admin"])
        with contextlib.closing(connection):
            connection.request("GET", "/v1/events", headers={"Outpass-Client": "1"})
            for line in connection.getresponse():
                yield line.decode().rstrip("\n")

    def gate_pids(self) -> list[int]:
        """Of the gates that run now."""
        return [pid for pid in children(self.process.pid) if is_gate(pid)]

    def spare_pid(self) -> int | None:
        """Of the one in reserve, where there is one."""
        return next((pid for pid in children(self.process.pid) if _is_spare(pid)), None)

    def gate_pid(self) -> int | None:
        """Of the gate that runs now, where there is one."""
        return next(iter(self.gate_pids()), None)

    def said(self) -> str:
        """Everything on its standard error so far."""
        return self.errors.read_text()

    def end(self, how: int = signal.SIGTERM) -> int:
        """Signal it, unless it ended, and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        return self.process.wait(30)


@contextlib.contextmanager
def daemon(where: Path, *args: str, private: bool = False, env: Mapping[str, str] | None = None) -> Iterator[RunningDaemon]:
    """Start a daemon with its files under `where`; it is ended with the block."""
    ready_read, ready_write = os.pipe()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) if private else (None, None)
    fds = [ready_write, *([theirs.fileno()] if theirs else [])]
    command = [sys.executable, "-P", "-m", "outpass.broker", "--runtime", str(where / "run"), "--state", str(where / "audit.db")]
    command += ["--ready-fd", str(ready_write), *(["--private", str(theirs.fileno())] if theirs else []), *args]
    errors = where / "errors.txt"
    with errors.open("wb") as said:
        process = subprocess.Popen(command, pass_fds=fds, stderr=said, env={**os.environ, **(env or {})})
    for fd in fds[:1]:
        os.close(fd)
    if theirs is not None:
        theirs.close()
    with os.fdopen(ready_read) as word:
        ready = json.loads(word.readline() or "{}")
    started = RunningDaemon(process, ready, Control(ours) if ours else None, errors)
    try:
        yield started
    finally:
        if ours is not None:
            ours.close()
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Puppet:
    """A process that speaks on the mint socket as it is told."""

    def __init__(self, mint: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(PUPPET), mint], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    def do(self, *steps: dict[str, Any]) -> list[Any]:
        """Perform steps; their results."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(steps) + "\n")
        return json.loads(self.process.stdout.readline())

    def say(self, **message: Any) -> Any:
        """One message; the reply."""
        return self.do({"say": message})[0]

    def hello(self, **changes: Any) -> Any:
        """A hello; the reply."""
        return self.say(**{**HELLO, **changes})

    def mint(self, *chain: str, dst: str = "api.example.com:443", **changes: Any) -> Any:
        """A mint; the reply."""
        return self.say(**request(*chain, dst=dst, **changes))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


def request(*chain: str, dst: str = "api.example.com:443", **changes: Any) -> dict[str, Any]:
    """A mint message."""
    body = {"op": "mint", "use": "request", "cap": "network:http", "dst": dst, "tls": True, "chain": list(chain)}
    return {**body, **changes}


def claims(token: str) -> dict[str, Any]:
    """What a pass says, unverified."""
    import base64

    payload = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
