"""A real network namespace with the jail's listeners, under a real daemon: programs run in it, and sockets taken out of it.

Lives here: the namespace's own process, the jail that the daemon holds of it, what the audit log says. May not live here:
assertions. Unlike `outpass run` it has no walls, so that a test can hold a socket of the inside in its own hands.
Run as `python -m tests.support.enclosed FD FORWARD…` it is the process inside.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from outpass.jail import listeners, netlink, plan, recipe, steps
from tests.support.apps import ROOT
from tests.support.daemon import Control, RunningDaemon
from tests.support.waiting import until

INJECT = ROOT / "client_shim" / "python" / "outpass_shim" / "inject"


def possible() -> bool:
    """Whether a namespace of our own can be made here."""
    script = "import os; os.unshare(os.CLONE_NEWNET | (0 if os.getuid() == 0 else os.CLONE_NEWUSER))"
    return subprocess.run([sys.executable, "-c", script], check=False, capture_output=True).returncode == 0


class Enclosure:
    """One jail. `run` starts programs in it; `socket` makes a socket in it."""

    def __init__(self, daemon: RunningDaemon, control: Control, helper: socket.socket, process: subprocess.Popen[bytes]) -> None:
        self.daemon = daemon
        self.control = control
        self._helper = helper
        self._process = process
        self.reply: dict[str, Any] = {}

    @property
    def pid(self) -> int:
        """Of the process that stands for CMD."""
        return self._process.pid

    def _ask(self, message: dict[str, Any]) -> tuple[dict[str, Any], list[int]]:
        self._helper.sendall(json.dumps(message).encode())
        data, fds, _, _ = socket.recv_fds(self._helper, 1 << 20, 8)
        return json.loads(data), list(fds)

    def run(self, *command: str, shim: bool = False, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """A program in the jail, to its end; with `shim` it has the environment that `outpass run` gives to CMD."""
        given = {k: v for k, v in os.environ.items() if not k.startswith(("OUTPASS_", "PYTHON")) and "proxy" not in k.lower()}
        if shim:
            door = plan.Door("127.0.0.1:3128", self.reply["mint"], self.reply["ca"], self.reply["bundle"])
            given = plan.environment(given, door, str(INJECT))
        told, _ = self._ask({"run": list(command), "env": {**given, **(env or {})}})
        return subprocess.CompletedProcess(command, told["code"], told["out"], told["err"])

    def python(self, script: str, *args: str, shim: bool = False, **env: str) -> subprocess.CompletedProcess[str]:
        """A Python script in the jail, with this interpreter."""
        return self.run(sys.executable, "-c", script, *args, shim=shim, env=env)

    def socket(self, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM) -> socket.socket:
        """A socket of the jail's, with a timeout, that nobody inside holds: else whoever does would be asked for."""
        _, fds = self._ask({"socket": [int(family), int(kind)]})
        assert self._helper.recv(1) == b"-", "the process inside has let go of it"
        made = socket.socket(fileno=fds[0])
        made.settimeout(20)
        return made

    def connect(self, address: str, port: int) -> socket.socket:
        """A TCP connection from inside."""
        made = self.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        made.connect((address, port))
        return made

    def records(self, count: int = 1, **fields: Any) -> list[dict[str, Any]]:
        """The jail's audit records that have `fields`, once there are `count` of them."""
        jail = self.reply["jail"]

        def found() -> list[dict[str, Any]]:
            path = self.daemon.errors.parent / "audit.db"
            with contextlib.closing(sqlite3.connect(path, timeout=10)) as db:
                rows = db.execute("SELECT body FROM records WHERE jail = ? ORDER BY row", [jail]).fetchall()
            made = [json.loads(row[0]) for row in rows]
            return [r for r in made if all(r[k] == v for k, v in fields.items())]

        try:
            return until(f"{count} records with {fields}", lambda: (r := found()) if len(found()) >= count else None, 10)
        except AssertionError:
            raise AssertionError(f"not {count} records with {fields} in {self.said()}") from None

    def said(self) -> list[str]:
        """Every record, short, for messages."""
        path = self.daemon.errors.parent / "audit.db"
        with contextlib.closing(sqlite3.connect(path)) as db:
            made = [json.loads(row[0]) for row in db.execute("SELECT body FROM records")]
        keys = ("kind", "verdict", "reason", "chain", "scheme", "host", "port", "detail")
        return [" ".join(str(r[k]) for k in keys) for r in made]

    def close(self) -> None:
        """End the jail and everything in it."""
        self.control.close()
        self._helper.close()
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def enclosure(
    daemon: RunningDaemon,
    policy: Path | str,
    where: Path,
    *,
    forward: Sequence[int] = (),
    without: Sequence[str] = (),
    search: Sequence[str] = (),
) -> Iterator[Enclosure]:
    """A jail under `daemon` with this policy (a file, or its text); `without`: doors that its launcher says it could not make."""
    if isinstance(policy, str):
        file = where / f"policy-{time.monotonic_ns()}.yaml"
        file.write_text(policy)
        policy = file
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-m", "tests.support.enclosed", str(theirs.fileno()), *map(str, forward)]
    process = subprocess.Popen(command, pass_fds=[theirs.fileno()], cwd=ROOT)
    theirs.close()
    control = daemon.control()
    made = Enclosure(daemon, control, ours, process)
    try:
        data, fds, _, _ = socket.recv_fds(ours, 1 << 16, 32)
        source = {"file": str(policy), "allow": [], "deny_all": False, "mode": None}
        body = {"op": "jail.open", "kind": "jail", "label": "a test", "cwd": "/", "roots": [str(where)], "policy": source}
        made.reply = control.ask({**body, "listeners": json.loads(data), "without": list(without), "search": list(search)}, fds)
        for fd in fds:
            os.close(fd)
        assert made.reply["ok"], made.reply
        assert control.ask({"op": "jail.proc", "pid": process.pid})["ok"]
        yield made
    finally:
        made.close()


def _inside(channel: socket.socket, forward: Sequence[int]) -> None:
    """Enter a namespace, hand out its listeners, then do what is asked."""
    if os.getuid() == 0:
        os.unshare(os.CLONE_NEWNET)
    else:
        uid, gid = os.getuid(), os.getgid()
        os.unshare(os.CLONE_NEWNET | os.CLONE_NEWUSER)
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            Path(f"/proc/self/{name}").write_text(text)
    netlink.loopback_up()
    kinds, socks = [], []
    for family in ("ip4", "ip6"):
        netlink.add_route(family)
    for step in recipe.listeners(forward, ipv6=True):
        if isinstance(step, steps.Listen):
            kinds.append(step.kind)
            socks.append(listeners.make(step))
        elif isinstance(step, steps.Intercept):
            netlink.intercept(step.port, step.families)
        elif isinstance(step, steps.Inspect):
            kinds.append(recipe.SOCKETS)
            socks.append(netlink.socket_table())
    socket.send_fds(channel, [json.dumps(kinds).encode()], [s.fileno() for s in socks])
    for sock in socks:
        sock.close()
    while data := channel.recv(1 << 20):
        asked = json.loads(data)
        if "socket" in asked:
            with socket.socket(*asked["socket"]) as made:
                socket.send_fds(channel, [b"{}"], [made.fileno()])
            channel.sendall(b"-")
            continue
        done = subprocess.run(asked["run"], env=asked["env"], capture_output=True, timeout=90, check=False)
        told = {
            "code": done.returncode,
            "out": done.stdout.decode("utf-8", "replace"),
            "err": done.stderr.decode("utf-8", "replace"),
        }
        channel.sendall(json.dumps(told).encode())


if __name__ == "__main__":
    _inside(socket.socket(fileno=int(sys.argv[1])), [int(p) for p in sys.argv[2:]])
