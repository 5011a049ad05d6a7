"""An operator revokes a session through the admin API: what its process has open is cut, of every kind, and it gets nothing new.

Judged by what the program finds on its sockets, beside another program that has the same open under the same daemon.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.daemon import RunningDaemon
from tests.support.jailed import impossible
from tests.support.operators import Operator
from tests.support.origin import Origin
from tests.support.runs import OUTPASS, apps, environment, records
from tests.support.streams import Streams

POLICY = """version: 1
include: [preset:http-clients]
packages:
  app:
    allow: [network:http, network:socket]
    http: ["https://up.example.com/**", {url: "https://sealed.example.com", intercept: false}]
    socket: ["echo.example.com:7"]
"""
SCRIPT = """
import json, requests, socket

def kept(url):
    session = requests.Session()
    answer = session.get(url, stream=True, timeout=20)
    sock = answer.raw.connection.sock
    assert answer.status_code == 200 and answer.content
    return session, sock

def lives(sock, timeout=0.2):
    sock.settimeout(timeout)
    try:
        return sock.recv(1) != b""
    except TimeoutError:
        return True
    except OSError:
        return False

def streams():
    try:
        while block := big.raw.read(1 << 20, decode_content=False):
            pass
        return big.raw.tell() == 30_000_000
    except Exception:
        return False

def asks():
    try:
        return requests.get("https://up.example.com/late", timeout=20).status_code
    except Exception as e:
        return str(e)

intercepted, sealed = kept("https://up.example.com/a"), kept("https://sealed.example.com/a")
big = requests.get("https://up.example.com/bytes?n=30000000", stream=True, timeout=20)
big.raw.read(1000)
echo = socket.create_connection(("echo.example.com", 7))
echo.sendall(b"x")
assert echo.recv(1) == b"x"  # it is connected all the way
print("open", flush=True)
wait = 20 if input() == "revoked" else 0.2
found = {"intercepted": lives(intercepted[1], wait), "sealed": lives(sealed[1], wait), "raw": lives(echo, wait)}
print(json.dumps({**found, "stream": streams(), "late": asks()}), flush=True)
"""


class Program:
    """A run of SCRIPT in a jail of its own."""

    def __init__(self, operator: Operator, name: str) -> None:
        project = operator.home / name
        project.mkdir()
        (project / "main.py").write_text(SCRIPT)
        (project / "outpass.yaml").write_text(POLICY)
        env = environment(operator.home, OUTPASS_SOCKET=str(operator.runtime / "control.sock"))
        command = [OUTPASS, "run", "--policy", "outpass.yaml", "-q", "--", str(apps()), "main.py"]
        self.process = subprocess.Popen(
            command, cwd=project, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def opened(self) -> None:
        """Waits until everything is open."""
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "open\n", self.process.communicate()

    def told(self, word: str) -> dict[str, object]:
        """What it finds on its connections."""
        out, err = self.process.communicate(word + "\n", timeout=100)
        assert self.process.returncode == 0, out + err
        found: dict[str, object] = json.loads(out)
        return found


def test_a_revoked_session_loses_every_connection_and_another_keeps_its_own(tmp_path: Path) -> None:
    if why := impossible(os.getuid()):
        pytest.skip(f"no jail is possible here: {why}")
    programs: list[Program] = []
    with Origin(("up.example.com", "sealed.example.com")) as origin, Streams() as streams:
        operator = Operator(tmp_path, origin, *streams.connect_to())
        operator.start()
        assert operator.process is not None
        try:
            daemon = RunningDaemon(operator.process, {"admin": str(operator.runtime / "admin.sock")}, None, operator.said)
            programs += [Program(operator, "bad"), Program(operator, "good")]
            for program in programs:
                program.opened()
            jails = {Path(j["cwd"]).name: j["jail"] for j in daemon.admin("GET", "/v1/jails")[1]["jails"]}
            (sid,) = [s["sid"] for s in daemon.admin("GET", "/v1/sessions")[1]["sessions"] if s["jail"] == jails["bad"]]
            assert daemon.admin("POST", f"/v1/sessions/{sid}/revoke") == (200, {"revoked": sid})
            lost, kept = (program.told(word) for program, word in zip(programs, ("revoked", "goes on"), strict=True))
        finally:
            for program in programs:
                program.process.kill()
                program.process.wait()
            operator.end(signal.SIGTERM)
    late = str(lost.pop("late"))
    assert lost == {"intercepted": False, "sealed": False, "raw": False, "stream": False}, lost
    assert "407" in late, f"no session, no pass: {late}"
    assert kept == {"intercepted": True, "sealed": True, "raw": True, "stream": True, "late": 200}, kept
    assert len([seen for seen in origin.seen if seen.path == "/late"]) == 1, "the other's"
    closed = {r["host"] for r in records(tmp_path) if r["kind"] == "close" and r["sid"] == sid}
    assert closed == {"sealed.example.com", "echo.example.com"}, closed
