"""Search lists, as Kubernetes writes them, with the C library's own resolver in a jail; judged by what it was answered."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import dns.message
import dns.query
import dns.rcode
import pytest

from tests.support.daemon import RunningDaemon
from tests.support.enclosed import Enclosure, enclosure

SEARCH = ("default.svc.cluster.local", "svc.cluster.local", "cluster.local")
POLICY = """
version: 1
packages:
  psycopg: {allow: [network:socket], socket: ["db.svc.cluster.local:5432", "short:5432"]}
  stripe: {allow: [network:http], http: ["https://api.example.com/v1/**"]}
  curl: {allow: [network:http], http: ["http://web.default.svc.cluster.local/"], deny: {http: ["http://shut.cluster.local/"]}}
"""
Lookup = Callable[[str, int], subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def jail(outpassd: RunningDaemon, where: Path) -> Iterator[Enclosure]:
    with enclosure(outpassd, POLICY, where, search=[*SEARCH, "10.0.0.1", "not a name"]) as made:
        yield made


@pytest.fixture(scope="module")
def look_up(jail: Enclosure, where: Path) -> Lookup:
    """glibc's getaddrinfo of a name under a resolv.conf with these domains and `ndots`."""
    unshare = [shutil.which("unshare") or "unshare", "--mount", "--map-root-user"]

    def look(name: str, ndots: int) -> subprocess.CompletedProcess[str]:
        conf = where / "resolv.conf"
        conf.write_text(f"nameserver 10.96.0.10\nsearch {' '.join(SEARCH)}\noptions ndots:{ndots}\n")
        script = 'mount --bind "$1" "$(readlink -f /etc/resolv.conf)" && exec getent ahosts "$2"'
        return jail.run(*unshare, "sh", "-c", script, "sh", str(conf), name)

    if look("db.svc.cluster.local.", 1).returncode:
        pytest.skip("no resolv.conf of its own can be shown to a program here")
    return look


@pytest.mark.parametrize("ndots", [1, 5])
@pytest.mark.parametrize(
    ("name", "stands_for"),
    [
        ("db", "db.svc.cluster.local"),
        ("web", "web.default.svc.cluster.local"),
        ("short", "short"),
        ("api.example.com", "api.example.com"),
        ("db.svc", "db.svc.cluster.local"),
        ("db.svc.cluster.local", "db.svc.cluster.local"),
    ],
)
def test_a_short_name_is_found_where_a_rule_names_what_the_list_makes_of_it(
    jail: Enclosure, look_up: Lookup, name: str, stands_for: str, ndots: int
) -> None:
    done = look_up(name, ndots)
    assert done.returncode == 0, jail.said()
    address = done.stdout.split()[0]
    assert jail.run("getent", "hosts", address).stdout.split()[1] == stands_for


@pytest.mark.parametrize("name", ["evil", "evil.example", "shut"])
def test_a_name_that_nothing_allows_is_not_found_by_any_way(look_up: Lookup, name: str) -> None:
    assert look_up(name, 5).returncode == 2


def test_the_list_is_answered_as_absent_with_the_reason_and_recorded(jail: Enclosure) -> None:
    for name, code, reason in (
        ("x.svc.cluster.local", dns.rcode.NXDOMAIN, "dns_search"),
        ("shut.cluster.local", dns.rcode.NXDOMAIN, "dns_search"),
        ("cluster.local", dns.rcode.REFUSED, "no_rule"),
        ("xcluster.local", dns.rcode.REFUSED, "no_rule"),
        ("x.example", dns.rcode.REFUSED, "no_rule"),
    ):
        for kind in ("A", "AAAA"):
            with jail.connect("10.96.0.10", 53) as sock:
                answer = dns.query.tcp(dns.message.make_query(name, kind, use_edns=0), "10.96.0.10", 10, sock=sock)
            assert answer.rcode() == code and [(o.code, o.text) for o in answer.options] == [(15, f"outpass: {reason}")], name
        assert {r["verdict"] for r in jail.records(2, host=name, reason=reason)} == {"deny"}


def test_what_a_search_tries_is_not_in_the_summary(outpassd: RunningDaemon, where: Path) -> None:
    with enclosure(outpassd, POLICY, where, search=SEARCH) as jail:
        for name in ("x.svc.cluster.local", "evil.example"):
            jail.run("getent", "ahosts", f"{name}.")
        jail.records(host="evil.example")
        summary = jail.control.ask({"op": "jail.close"})["summary"]
    assert [d["say"] for d in summary["denials"] if "evil.example" in d["say"]]
    assert not [d["say"] for d in summary["denials"] if "cluster.local" in d["say"]]


def test_a_short_name_in_python_stands_for_what_the_list_makes_of_it(outpassd: RunningDaemon, where: Path) -> None:
    policy = 'version: 1\npackages: {app: {allow: [network:socket], socket: ["echo.example.com:7"]}}\n'
    (where / "short.py").write_text(
        "import socket\n"
        "for name in ('echo', 'evil'):\n"
        "    try:\n"
        "        s = socket.create_connection((name, 7)); s.sendall(b'hi'); print(name, s.recv(2))\n"
        "    except OSError as e: print(name, type(e).__name__)\n"
    )
    with enclosure(outpassd, policy, where, search=["example.com"]) as jail:
        done = jail.run(sys.executable, str(where / "short.py"), shim=True)
        assert done.stdout.splitlines() == ["echo b'hi'", "evil EgressDenied"], done.stderr
        assert jail.records(host="echo.example.com", principal="app", verdict="allow")
        assert jail.records(host="evil", principal="app", verdict="deny")
