"""Finding the daemon, or starting a private one, and speaking the control protocol to it.

Lives here: the client's half of proxy/README.md, "Control: run → broker". May not live here: anything about policy; replies
are passed on as they come. What only a private daemon needs is imported only for one: a warm start must not pay for it.
"""

from __future__ import annotations

import array
import json
import os
import socket
import stat
import struct
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from outpass.errors import Fault, OutpassError, Place, PolicyError, StartError

if TYPE_CHECKING:
    import subprocess

PACKET: Final = 1 << 17
"""Bytes; a reply that lists every fault of a bad policy fits with room to spare."""
START_SECONDS: Final = 30.0
"""How long a private daemon may take to say that it is ready (measured: well under 2; a cold disk takes longer)."""


def runtime_base(env: Mapping[str, str]) -> str:
    """Where sockets live: $OUTPASS_RUNTIME, else $XDG_RUNTIME_DIR/outpass, else /tmp/outpass-UID, 0700 and ours.

    Raises StartError when the directory is somebody else's or others may enter it (a squatted socket would get our traffic).
    """
    base, xdg = env.get("OUTPASS_RUNTIME", ""), env.get("XDG_RUNTIME_DIR", "")
    if not base:
        import tempfile

        base = os.path.join(xdg, "outpass") if xdg else os.path.join(tempfile.gettempdir(), f"outpass-{os.getuid()}")
    try:
        os.makedirs(base, 0o700, exist_ok=True)
        info = os.lstat(base)
    except OSError as bad:
        raise StartError(f"cannot make the runtime directory {base}: {bad.strerror}", "set OUTPASS_RUNTIME") from None
    # passing through is harmless, each run's own directory in it is 0700; within a jail that much is needed
    if info.st_uid != os.getuid() or info.st_mode & 0o066 or stat.S_ISLNK(info.st_mode):
        raise StartError(f"{base} is not a directory of ours that nobody else can enter", "remove it, or set OUTPASS_RUNTIME")
    return base


def refused(reply: Mapping[str, Any]) -> OutpassError:
    """The error that a `{"ok": false, …}` reply stands for."""
    faults = tuple(
        Fault(Place(f["file"], f["line"], f["column"]), f["message"], f.get("hint", "")) for f in reply.get("faults", ())
    )
    if faults:
        return PolicyError(faults)
    return StartError(str(reply.get("error", "the daemon refused without saying why")), str(reply.get("hint", "")))


class Control:
    """One control connection; requests and replies alternate. Its end is the end of the jail."""

    def __init__(self, sock: socket.socket, process: subprocess.Popen[bytes] | None = None) -> None:
        self.sock = sock
        self.process = process

    def ask(self, message: Mapping[str, Any], fds: Sequence[int] = ()) -> dict[str, Any]:
        """Sends one request and returns the reply. Raises OutpassError for a refusal, StartError when the daemon is gone."""
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            self.sock.sendmsg([json.dumps(message).encode()], ancillary)
            packet = self.sock.recv(PACKET)
        except OSError as bad:
            raise StartError(f"the daemon does not answer: {bad.strerror or bad}", "start the command again") from None
        if not packet:
            raise StartError("the daemon ended", "its last words are above; start the command again")
        reply: dict[str, Any] = json.loads(packet)
        if not reply.get("ok"):
            raise refused(reply)
        return reply

    def close(self) -> None:
        """Ends the jail; a private daemon then drains and ends, and is waited for."""
        self.sock.close()
        if self.process is not None:
            import subprocess

            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()


def connect(path: str) -> Control:
    """The daemon at $OUTPASS_SOCKET. Raises StartError when nothing answers there."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        sock.connect(path)
    except OSError as bad:
        sock.close()
        raise StartError(
            f"no daemon at {path} ($OUTPASS_SOCKET): {bad.strerror}",
            "start one with outpass daemon, or unset OUTPASS_SOCKET",
        ) from None
    _check_peer(sock, path)
    return Control(sock)


def _check_peer(sock: socket.socket, path: str) -> None:
    """Whoever bound the path decides what CMD may reach, so it must be ourselves or root. Raises StartError."""
    _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    if uid not in (0, os.getuid()):
        sock.close()
        raise StartError(
            f"the daemon at {path} ($OUTPASS_SOCKET) is run by uid {uid}, which is neither you nor root",
            "start your own with outpass daemon, or unset OUTPASS_SOCKET",
        )


def start_private(env: Mapping[str, str], options: Sequence[str]) -> Control:
    """A daemon of this run's own, out of reach of the terminal's ^C, that ends with it. Raises StartError with its reason."""
    import shutil
    import subprocess
    import tempfile

    runtime = tempfile.mkdtemp(prefix="run-", dir=runtime_base(env))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ready_read, ready_write = os.pipe()
    command = [sys.executable, "-P", "-m", "outpass.broker", "--runtime", runtime, "--private", str(theirs.fileno())]
    command += ["--ready-fd", str(ready_write), *options]
    clean = {k: v for k, v in env.items() if k not in ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONINSPECT")}
    process = subprocess.Popen(
        command, pass_fds=(theirs.fileno(), ready_write), env=clean, stdin=subprocess.DEVNULL, start_new_session=True
    )
    theirs.close()
    os.close(ready_write)
    with os.fdopen(ready_read, "rb") as ready:
        said = ready.readline()
    reply = json.loads(said) if said else {"error": "the daemon did not start", "hint": "its last words are above"}
    if not reply.get("ok"):
        ours.close()
        process.wait(START_SECONDS)
        shutil.rmtree(runtime, ignore_errors=True)  # where it failed before it knew that the directory is its own
        raise refused(reply)
    return Control(ours, process)
