"""Protocols that are not HTTP, in a jail, by libraries that know nothing of a proxy: carried under a socket rule, charged to the driver.

Lives here: one connection of each, to a server that greets as the real one does and then ends. May not live here: databases themselves
(test_databases.py).
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.jailed import impossible
from tests.support.runs import Run, run_script, stacks

HOST = "service.example.com"
GREETINGS = {
    25: b"220 mail ready\r\n",
    21: b"220 files ready\r\n",
    22: b"SSH-2.0-greeting_1\r\n",
    3306: b"\x17\x00\x00\x00\xff\x10\x04Too many connections",
    5432: b"E\x00\x00\x00\x1dSFATAL\x00C53300\x00Mtoo many\x00\x00",
}
"""Port → what the server says first (MySQL: error 1040) or, on 5432, in answer to whatever comes."""
SCRIPT = """
import asyncio, ftplib, smtplib
HOST = "service.example.com"
def said(name, ask):
    try: print(name, ask())
    except Exception as e: print(name, type(e).__name__, str(e).splitlines()[0])
def smtp():
    s = smtplib.SMTP(); code, text = s.connect(HOST, 25); return code, text
def ftp(): return ftplib.FTP().connect(HOST, 21)
def ssh():
    import paramiko, logging
    logging.getLogger("paramiko").setLevel(logging.CRITICAL)
    t = paramiko.Transport((HOST, 22))
    try: t.start_client(timeout=20)
    except Exception: pass
    return t.remote_version
def mysql():
    import pymysql
    pymysql.connect(host=HOST, port=3306, user="u", password="p", connect_timeout=20)
def postgres():
    import asyncpg
    asyncio.run(asyncpg.connect(host=HOST, port=5432, user="u", password="p", database="d", ssl=False, timeout=20))
for name, ask in (("smtplib", smtp), ("ftplib", ftp), ("paramiko", ssh), ("pymysql", mysql), ("asyncpg", postgres)): said(name, ask)
"""
RIGHT = f"""
version: 1
packages:
  app: {{allow: [network:socket], socket: ["{HOST}:25", "{HOST}:21"]}}
  paramiko: {{allow: [network:socket], socket: ["{HOST}:22"]}}
  pymysql: {{allow: [network:socket], socket: ["{HOST}:3306"]}}
  asyncpg: {{allow: [network:socket], socket: ["{HOST}:5432"]}}
"""
ANOTHERS = f"version: 1\npackages:\n  left-pad: {{allow: [network:socket], socket: ['{HOST}:1-65535']}}\n"
CARRIED = {
    "smtplib": "(220, b'mail ready')",
    "ftplib": "220 files ready",
    "paramiko": "SSH-2.0-greeting_1",
    "pymysql": "1040",
    "asyncpg": "too many",
}


@contextmanager
def greeters() -> Iterator[tuple[list[str], list[int]]]:
    """(`--connect-to` options, ports of the connections that came)."""
    options: list[str] = []
    came: list[int] = []
    listeners = []
    for port, greeting in GREETINGS.items():
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)
        options += ["--connect-to", f"{HOST}:{port}:127.0.0.1:{listener.getsockname()[1]}"]
        threading.Thread(target=_greet, args=(listener, port, greeting, came), daemon=True).start()
    try:
        yield options, came
    finally:
        for listener in listeners:
            listener.close()


def _greet(listener: socket.socket, port: int, greeting: bytes, came: list[int]) -> None:
    while True:
        try:
            sock, _ = listener.accept()
        except OSError:
            return
        came.append(port)
        with sock:
            if port == 5432:
                sock.recv(65536)
            sock.sendall(greeting)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(65536):
                pass


def run(home: Path, policy: str) -> tuple[Run, dict[str, str], list[int]]:
    if why := impossible(os.getuid()):
        pytest.skip(f"no jail is possible here: {why}")
    with greeters() as (options, came):
        done = run_script(home, SCRIPT, *options, policy=policy, python=stacks(), jail=True)
    said = {name: rest for name, _, rest in (line.partition(" ") for line in done.out.splitlines())}
    return done, said, came


def test_each_driver_is_carried_and_charged_under_its_own_socket_rule(tmp_path: Path) -> None:
    done, said, came = run(tmp_path, RIGHT)
    assert {name for name, text in CARRIED.items() if text in said.get(name, "")} == set(CARRIED), done.said()
    assert set(came) == set(GREETINGS), done.said()
    charged = {(r["principal"], r["port"]) for r in done.records if r["kind"] == "decision" and r["scheme"] == "tcp"}
    assert charged == {("app", 25), ("app", 21), ("paramiko", 22), ("pymysql", 3306), ("asyncpg", 5432)}, done.said()
    assert {r["verdict"] for r in done.records} == {"allow"}, done.said()


def test_under_another_packages_rule_nothing_arrives_and_each_is_told_its_name(tmp_path: Path) -> None:
    done, said, came = run(tmp_path, ANOTHERS)
    assert came == [], done.said()
    denied = {(r["principal"], r["reason"]) for r in done.records}
    assert denied == {(p, "no_capability") for p in ("app", "paramiko", "pymysql", "asyncpg")}, done.said()
    for name in ("smtplib", "ftplib", "paramiko", "pymysql", "asyncpg"):
        assert "may not connect to" in said[name], done.said()
