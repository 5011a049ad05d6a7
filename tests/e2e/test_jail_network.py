"""`outpass run` with its jail, as a user types it: names, raw TCP and programs, judged by servers outside."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.support import runs
from tests.support.enclosed import possible
from tests.support.origin import Origin
from tests.support.streams import Streams

pytestmark = [
    pytest.mark.skipif(not possible(), reason="no network namespace can be made here"),
    pytest.mark.skipif(shutil.which("curl") is None, reason="no curl"),
]

POLICY = """
version: 1
packages:
  app: {allow: [network:socket], socket: ["echo.example.com:7", "host.outpass.internal:PORT"]}
  "exe:curl": {allow: [network:http], http: ["https://web.example.com/ok/**"]}
"""
SCRIPT = """
import socket, sys
def talk(host, port):
    try:
        with socket.create_connection((host, port), 10) as s:
            s.sendall(b"hello " + host.encode()); print(host, s.recv(100))
    except OSError as e:
        print(host, type(e).__name__, str(e).splitlines()[0])
talk("echo.example.com", 7)
talk("host.outpass.internal", PORT)
talk("127.0.0.1", PORT)
talk("evil.example", 7)
talk("203.0.113.9", 7)
"""


def outpass_run(home: Path, policy: str, *options: str, command: list[str], **env: str) -> runs.Run:
    home.mkdir(exist_ok=True)
    (home / "outpass.yaml").write_text(policy)
    done = runs.outpass(home, "run", "--policy", "outpass.yaml", *options, "--", *command, cwd=home, **env)
    return runs.Run(done.returncode, done.stdout, done.stderr, runs.records(home))


def test_python_sockets_reach_what_the_policy_grants_and_nothing_else(tmp_path: Path) -> None:
    with Streams() as streams:
        port = str(streams.ports["echo"])
        home = tmp_path / "home"
        home.mkdir()
        (home / "main.py").write_text(SCRIPT.replace("PORT", port))
        options = [*streams.connect_to(), "--forward", port]
        found = outpass_run(home, POLICY.replace("PORT", port), *options, command=[os.path.realpath(sys.executable), "main.py"])
        assert found.out.splitlines()[:3] == [
            "echo.example.com b'hello echo.example.com'",
            "host.outpass.internal b'hello host.outpass.internal'",
            "127.0.0.1 b'hello 127.0.0.1'",
        ], found.said()
        assert [line.split()[:2] for line in found.out.splitlines()[3:]] == [
            ["evil.example", "EgressDenied"],
            ["203.0.113.9", "EgressDenied"],
        ]
        assert streams.got("echo").count(b"hello") == 3
    closed = [r for r in found.records if r["kind"] == "close"]
    assert len(closed) == 3 and {r["principal"] for r in closed} == {"app"} and {r["tier"] for r in closed} == {"enforced"}


def test_curl_needs_no_proxy_variables(tmp_path: Path) -> None:
    with Origin(("web.example.com",)) as origin:
        options = [*origin.connect_to(), "--upstream-ca", str(origin.ca_file)]
        line = "for p in ok/a no; do curl -sS --noproxy '*' -o /dev/null -w '%{http_code}\\n' https://web.example.com/$p; done; curl -sS --noproxy '*' https://evil.example/"
        found = outpass_run(tmp_path / "home", POLICY.replace("PORT", "1"), *options, command=["sh", "-c", line])
        assert found.out.split() == ["200", "403"], found.said()
        assert [s.path for s in origin.seen] == ["/ok/a"]
    assert {r["principal"] for r in found.records if r["capability"] == "network:http"} == {"exe:curl"}


def test_the_search_list_of_the_machine_leads_to_the_name_that_a_rule_names(tmp_path: Path) -> None:
    policy = 'version: 1\npackages:\n  "exe:psql": {allow: [network:socket], socket: ["db.svc.cluster.local:5432"]}\n'
    script = "getent ahosts db; getent ahosts evil"
    env = {"LOCALDOMAIN": "default.svc.cluster.local svc.cluster.local", "RES_OPTIONS": "ndots:5"}
    found = outpass_run(tmp_path / "home", policy, command=["sh", "-c", script], **env)
    assert found.out.startswith("198.18.") and found.code == 2, found.said()
    assert {(r["host"], r["verdict"], r["reason"]) for r in found.records if r["host"].startswith("db")} == {
        ("db.default.svc.cluster.local", "deny", "dns_search"),
        ("db.svc.cluster.local", "allow", "allowed"),
    }, found.said()
    assert "default.svc" not in found.err, found.said()


BY_ITSELF = """
import _socket, socket, sys
found = {
    "by itself": _socket.getaddrinfo("echo.example.com", 7, 0, _socket.SOCK_STREAM)[0][4],   # as psycopg2 and c-ares do
    "handed on": (socket.gethostbyname("echo.example.com"), 7),                              # as hostaddr= does
}
for name, address in found.items():
    s = _socket.socket(); s.connect(address)
    try: s.send(name.encode()); print(name, s.recv(100))
    except OSError as e: print(name, e.strerror)
"""


def test_a_library_that_resolves_by_itself_is_nobody_and_the_refusal_says_what_to_do(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "main.py").write_text(BY_ITSELF)
    with Streams() as streams:
        command = [os.path.realpath(sys.executable), "main.py"]
        found = outpass_run(home, POLICY.replace("PORT", "1"), *streams.connect_to(), command=command)
        assert found.out.splitlines() == ["by itself Connection reset by peer", "handed on b'handed on'"], found.said()
        assert streams.got("echo") == b"handed on"
    (denied,) = [r for r in found.records if r["verdict"] == "deny"]
    assert (denied["principal"], denied["reason"]) == ("unattributed", "unattributed")
    assert "unattributed may not connect to echo.example.com:7" in found.err and '- "echo.example.com:7"' in found.err, found.err
    assert "native code connected past the shim" in found.err
    assert {r["principal"] for r in found.records if r["kind"] == "close"} == {"app"}


def test_a_name_that_nothing_allows_has_a_hint_that_names_it(tmp_path: Path) -> None:
    found = outpass_run(tmp_path / "home", POLICY.replace("PORT", "1"), command=["getent", "ahosts", "evil.example"])
    assert "unattributed may not look up evil.example (" in found.err, found.said()
    assert "hint: add evil.example to the http or socket list of whoever is to reach it" in found.err
    assert "no package is transparent" in found.err and "add the line shown" not in found.err
