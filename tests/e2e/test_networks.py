"""`outpass run` in the networks that people sit in: IPv6 alone, both families of which one is dead, a resolver of a company.

Lives here: what curl gets there, whom the gate asked and dialled. May not live here: every form of an address (integration/gate/test_resolving.py).
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.jailed import impossible
from tests.support.networks import Network, Seen, within
from tests.support.runs import OUTPASS, apps, environment, records

pytestmark = [
    pytest.mark.skipif(bool(impossible(os.getuid())), reason="no jail is possible here"),
    pytest.mark.skipif(shutil.which("curl") is None, reason="no curl"),
]

FOUR, SIX, DEAD = "93.184.216.34", "2606:2800:220:1::1", "2606:2800:220:dead::1"
TRANSLATED = "64:ff9b::5db8:d822"
"""As DNS64 gives it for 93.184.216.34 (RFC 6052)."""
INNER = "10.20.0.7"


class Got(NamedTuple):
    """One answer, as curl had it."""

    status: int
    body: str
    seconds: float

    @property
    def problem(self) -> Any:
        return json.loads(self.body)


def curl(where: Path, network: Network, policy: str, *hosts: str) -> tuple[list[Got], Seen, list[dict[str, Any]]]:
    """`outpass run -- curl http://HOST/` for each host, in one jail: the answers, what was seen outside, the log."""
    home = where / "home"
    home.mkdir()
    (home / "outpass.yaml").write_text(policy)
    line = "; ".join(f"curl -s -w '\\n%{{http_code}} %{{time_total}}\\n' http://{host}/" for host in hosts)
    command = [OUTPASS, "run", "--policy", "outpass.yaml", "--", "sh", "-c", line]
    seen = within(where, network, command, environment(home), home)
    lines = [line for line in seen.out.splitlines() if line]
    assert len(lines) == 2 * len(hosts), seen
    got = [Got(int(told.split()[0]), body, float(told.split()[1])) for body, told in zip(lines[::2], lines[1::2], strict=True)]
    return got, seen, records(home)


def allowed(*hosts: str) -> str:
    return f'version: 1\npackages:\n  "exe:curl": {{allow: [network:http], http: [{", ".join(hosts)}]}}\n'


def test_where_there_is_ipv6_only_names_with_ipv6_are_reached_also_through_nat64(tmp_path: Path) -> None:
    zone = {
        "six.example.org": [SIX],
        "both.example.org": [SIX, FOUR],
        "four.example.org": [FOUR],
        "far.example.org": [TRANSLATED],
    }
    zone["sly.example.org"] = ["64:ff9b::a00:1"]
    network = Network(resolver="2606:2800:220:1::53", zone=zone, servers=[SIX, TRANSLATED])
    hosts = list(zone)
    got, seen, log = curl(tmp_path, network, allowed('"http://*.example.org/**"'), *hosts)
    assert [(g.status, g.body) for g in got[:2]] == [(200, SIX), (200, SIX)], seen
    assert (got[2].status, got[2].problem["code"]) == (502, "resolve_failed"), "there is no way to IPv4, and nothing hangs"
    assert (got[3].status, got[3].body) == (200, TRANSLATED)
    assert (got[4].status, got[4].problem["code"]) == (403, "address_private"), "it is what it embeds"
    assert seen.reached == [SIX, SIX, TRANSLATED]
    assert [r["dialled"] for r in log if r["capability"] == "network:http" and r["verdict"] == "allow"] == [
        f"[{SIX}]:80", f"[{SIX}]:80", f"[{TRANSLATED}]:80"
    ]  # fmt: skip


def test_an_address_that_swallows_packets_costs_a_moment_and_a_forbidden_one_the_whole_name(tmp_path: Path) -> None:
    zone = {
        "half-dead.example.org": [DEAD, FOUR],
        "well.example.org": [SIX, FOUR],
        "mixed.example.org": [FOUR, "10.0.0.7"],
        "rebound.example.org": ["::1", FOUR],
    }
    network = Network(resolver="93.184.216.53", zone=zone, servers=[SIX, FOUR], silent=[DEAD])
    got, seen, log = curl(tmp_path, network, allowed('"http://*.example.org/**"'), *zone)
    assert [(g.status, g.body) for g in got[:2]] == [(200, FOUR), (200, SIX)], seen
    assert [(g.status, g.problem["code"]) for g in got[2:]] == [(403, "address_private"), (403, "address_loopback")]
    assert seen.reached == [FOUR, SIX], "nobody was dialled for a name with a forbidden address"
    (half_dead,) = [r for r in log if r["host"] == "half-dead.example.org" and r["capability"] == "network:http"]
    assert sorted(half_dead["addresses"]) == sorted([DEAD, FOUR]), "both were judged"


def test_names_of_an_internal_zone_are_refused_with_the_line_that_allows_them_and_then_reached(tmp_path: Path) -> None:
    zone = {"git.corp.example.org": [INNER], "wiki.corp.example.org": [INNER], "www.example.org": [FOUR]}
    network = Network(resolver="10.20.0.53", zone=zone, servers=[INNER, FOUR])
    policy = allowed('"http://git.corp.example.org/**"', '{url: "http://wiki.corp.example.org/**", private: ["10.20.0.0/16"]}', '"http://www.example.org/"')  # fmt: skip
    got, seen, log = curl(tmp_path, network, policy, *zone)
    assert [g.status for g in got] == [403, 200, 200], seen
    assert got[0].problem["code"] == "address_private" and INNER not in got[0].body, (
        "what it resolves to is a fact about the host"
    )
    assert seen.reached == [INNER, FOUR]
    assert f'{{url: "http://git.corp.example.org/", methods: ["GET"], private: ["{INNER}/32"]}}' in seen.err, seen.err
    assert [r["reason"] for r in log if r["host"] == "git.corp.example.org" and r["verdict"] == "deny"] == ["address_private"]


BY_NAME = """
import socket
def ask(host):
    try:
        with socket.create_connection((host, 80), 10) as sock:
            sock.sendall(b"GET / HTTP/1.0\\r\\nHost: x\\r\\n\\r\\n")
            return sock.recv(20).split()[1].decode()
    except PermissionError as e:
        return e.reason
print(ask("db.corp.example.org"), ask("bare.corp.example.org"), ask("other.corp.example.org"))
"""


def test_without_a_jail_a_socket_rule_that_names_a_host_is_enough_for_a_driver_that_looks_it_up(tmp_path: Path) -> None:
    network = Network(
        resolver="10.20.0.53", zone={f"{name}.corp.example.org": [INNER] for name in ("db", "bare", "other")}, servers=[INNER]
    )
    home = tmp_path / "home"
    home.mkdir()
    (home / "main.py").write_text(BY_NAME)
    rules = '{to: "db.corp.example.org:80", private: ["10.20.0.0/16"]}, "bare.corp.example.org:80"'
    (home / "outpass.yaml").write_text(f"version: 1\npackages:\n  app: {{allow: [network:socket], socket: [{rules}]}}\n")
    command = [OUTPASS, "run", "--policy", "outpass.yaml", "--no-jail", "-q", "--", str(apps()), "main.py"]
    seen = within(tmp_path, network, command, environment(home), home)
    assert seen.out.split() == ["200", "address_private", "no_capability"], seen
    assert seen.reached == [INNER]
    decided = {(r["verdict"], r["reason"], r["host"], tuple(r["addresses"] or ())) for r in records(home)}
    assert ("allow", "allowed", "db.corp.example.org", (INNER,)) in decided, decided
