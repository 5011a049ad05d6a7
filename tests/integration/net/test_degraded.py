"""What a run does without stands in every audit record of it, of whatever kind and whoever wrote it."""

from __future__ import annotations

import contextlib
import json
import socket
import sqlite3
from pathlib import Path
from typing import Any

import dns.message
import dns.query
import pytest

from tests.support.daemon import Puppet, RunningDaemon
from tests.support.enclosed import enclosure
from tests.support.waiting import until

POLICY = """
version: 1
packages:
  unattributed: {allow: [network:socket, network:http], socket: ["echo.example.com:7", "no-such-host.invalid:7"]}
  uvicorn: {allow: [network:listen], listen: ["8000"]}
  psycopg: {allow: [network:socket], socket: ["db.example.com:5432"]}
"""


def ask(server: socket.socket, name: str, kind: str) -> None:
    query = dns.message.make_query(name, kind)
    server.connect(("9.9.9.9", 53))
    dns.query.tcp(query, "9.9.9.9", 10, sock=server)


@pytest.mark.parametrize("without", [(), ("ip6", "dns-udp6")])
def test_every_kind_of_record_of_a_jail_says_what_it_lacks(
    without: tuple[str, ...], outpassd: RunningDaemon, where: Path
) -> None:
    ours, leash = socket.socketpair()
    with ours, enclosure(outpassd, POLICY, where, without=without) as jail:
        for name, kind in (("echo.example.com", "A"), ("evil.example", "A"), ("echo.example.com", "TXT")):
            with jail.socket() as sock:
                ask(sock, name, kind)
        for name in ("echo.example.com", "no-such-host.invalid"):
            address = jail.run("getent", "ahosts", name).stdout.split()[0]
            with jail.connect(address, 7) as sock, contextlib.suppress(ConnectionError):
                sock.sendall(b"x")
                sock.recv(1)
        for address, port in (("198.19.255.7", 7), ("203.0.113.9", 7)):
            with contextlib.suppress(ConnectionError), jail.connect(address, port) as sock:
                sock.recv(1)
        with jail.connect("127.0.0.1", 3128) as sock:  # HTTP that is none
            sock.sendall(b"CONNECT / HTTP/1.1\r\n\r\n")
            sock.recv(1000)
        assert jail.control.ask({"op": "jail.publish", "ports": [["127.0.0.1", 8000]]}, [leash.fileno()])["ok"]
        leash.close()
        jail.records(kind="close")
        jail.records(source="broker", capability="network:listen")
        records = jail.records(0)
        assert {r["kind"] for r in records} == {"decision", "refusal", "fault", "close"}
        assert {r["source"] for r in records} == {"gate", "broker"}
        assert {"network:dns", "network:socket", "network:listen"} <= {r["capability"] for r in records}
        assert [r for r in records if r["degraded"] != list(without)] == []


def test_every_record_of_a_run_without_a_jail_says_so(outpassd: RunningDaemon, where: Path) -> None:
    file = where / "no-jail.yaml"
    file.write_text(POLICY)
    control = outpassd.control()
    with socket.create_server(("127.0.0.1", 0)) as door, Puppet(outpassd.ready["mint"]) as program:
        address = door.getsockname()
        opened = control.open(file, listener=door)
        assert control.ask({"op": "jail.proc", "pid": program.pid})["ok"]
        program.hello()
        assert program.say(op="check", cap="network:socket", dst="evil.example:5432", chain=["psycopg"])["allow"] is False
        for line in (b"GET http://evil.example/ HTTP/1.1", b"GET / HTTP/1.1"):
            with socket.create_connection(address, 20) as sock:
                sock.sendall(line + b"\r\nHost: evil.example\r\n\r\n")
                sock.recv(1000)
        control.ask({"op": "jail.close"})
    control.close()

    def written() -> list[dict[str, Any]]:
        with contextlib.closing(sqlite3.connect(where / "audit.db", timeout=10)) as db:
            rows = db.execute("SELECT body FROM records WHERE jail = ?", [opened["jail"]]).fetchall()
        return [json.loads(row[0]) for row in rows]

    until("three records", lambda: len(written()) >= 3)
    assert {("broker", "decision"), ("gate", "refusal")} == {(r["source"], r["kind"]) for r in written()}
    assert {tuple(r["degraded"]) for r in written()} == {("no-jail",)}
