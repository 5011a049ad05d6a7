"""Published ports at the broker: who may listen, the record of it, the leash."""

from __future__ import annotations

import socket
from types import SimpleNamespace
from typing import Any

import pytest

from outpass.broker import publish
from outpass.broker.publish import Port
from outpass.errors import StartError
from outpass.policy import decide
from tests.support.gate import policy_of

NOW = 1_800_000_000.0


def jail(text: str) -> Any:
    """As much of a jail as is looked at."""
    force = SimpleNamespace(compiled=decide.compile(policy_of("version: 1\n" + text)))
    return SimpleNamespace(id="j-1", force=force, tier="enforced", published=None)


def attempt(text: str, *ports: Port) -> tuple[str, list[dict[str, Any]], bool]:
    """What was said, what was recorded, whether the leash is still held."""
    ours, leash = socket.socketpair()
    taken: list[dict[str, Any]] = []
    said = ""
    with ours:
        try:
            held = publish.grant(jail(text), ports, leash, NOW, lambda r: bool(taken.append(r)) or True)
        except StartError as refused:
            said = f"{refused.message}\n{refused.hint}"
        alive = leash.fileno() >= 0
        if alive:
            held.let_go()
            assert ours.recv(1) == b"", "letting go is seen at the other end"
    return said, taken, alive


RULES = """packages:
  uvicorn: {allow: [network:listen], listen: ["8000"]}
  gunicorn: {versions: ">=20,<24", allow: [network:listen], listen: ["127.0.0.1:9000"]}
  old: {allow: [network:listen], listen: [{at: "7000", expires: "2020-01-01"}]}
  shut: {allow: [network:listen], deny: {listen: ["1-65535"]}}
"""


@pytest.mark.parametrize(
    ("sentence", "text", "port", "principal"),
    [
        ("a port on any address", RULES, Port("0.0.0.0", 8000), "uvicorn"),
        ("whatever version is installed", RULES, Port("127.0.0.1", 9000), "gunicorn"),
        ("the same number on another address", RULES, Port("0.0.0.0", 9000), None),
        ("an expired rule", RULES, Port("127.0.0.1", 7000), None),
        ("a deny beats the capability", RULES, Port("127.0.0.1", 1234), None),
        ("anybody", 'packages: {"*": {allow: [network:listen], listen: [8000]}}', Port("::1", 8000), "app"),
        ("outside the ceiling", "ceiling: {listen: [1]}\n" + RULES, Port("127.0.0.1", 8000), None),
        ("no policy at all", "packages: {}", Port("127.0.0.1", 8000), None),
    ],
)
def test_who_may_listen(sentence: str, text: str, port: Port, principal: str | None) -> None:
    said, taken, alive = attempt(text, port)
    assert alive is (principal is not None) and (said == "") is alive, said
    assert [r["verdict"] for r in taken] == ["allow" if principal else "deny"]
    assert taken[0]["capability"] == "network:listen" and (principal is None or taken[0]["principal"] == principal)


def test_the_refusal_carries_the_line_to_add() -> None:
    said, _, _ = attempt("packages: {}", Port("127.0.0.1", 8000))
    assert said.startswith("--publish 127.0.0.1:8000: no package may listen there (network:listen)")
    added = said[said.index("packages:") :]
    assert attempt(added, Port("127.0.0.1", 8000))[2]


def test_one_refused_port_refuses_all() -> None:
    said, taken, alive = attempt(RULES, Port("127.0.0.1", 8000), Port("127.0.0.1", 8001))
    assert not alive and "8001" in said and [r["verdict"] for r in taken] == ["allow", "deny"]


def test_what_cannot_be_recorded_is_not_granted() -> None:
    ours, leash = socket.socketpair()
    with ours, pytest.raises(StartError):
        publish.grant(jail(RULES), (Port("127.0.0.1", 8000),), leash, NOW, lambda _: False)
    assert leash.fileno() < 0


def test_a_reload_that_takes_the_right_away_lets_go() -> None:
    ours, leash = socket.socketpair()
    there = jail(RULES)
    with ours:
        there.published = publish.grant(there, (Port("127.0.0.1", 8000),), leash, NOW, lambda _: True)
        assert publish.recheck(there, NOW, lambda _: True) == []
        there.force = jail("packages: {}").force
        assert publish.recheck(there, NOW, lambda _: True) == [Port("127.0.0.1", 8000)]
        assert ours.recv(1) == b""


def test_a_rule_that_expires_lets_go_and_is_recorded_once() -> None:
    ours, leash = socket.socketpair()
    there = jail('packages:\n  uvicorn: {allow: [network:listen], listen: [{at: "8000", expires: "2027-06-30"}]}\n')
    taken: list[dict[str, Any]] = []
    with ours:
        there.published = publish.grant(there, (Port("127.0.0.1", 8000),), leash, NOW, lambda _: True)
        assert publish.recheck(there, NOW, lambda _: True) == []
        late = NOW + 365 * 86_400
        assert publish.recheck(there, late, lambda r: bool(taken.append(r)) or True) == [Port("127.0.0.1", 8000)]
        assert ours.recv(1) == b"" and [r["reason"] for r in taken] == ["expired"]
        assert publish.recheck(there, late, lambda r: bool(taken.append(r)) or True) == [] and len(taken) == 1


@pytest.mark.parametrize(
    "ports",
    [None, [], "8000", [["127.0.0.1"]], [["127.0.0.1", "8000"]], [["127.0.0.1", 0]], [["127.0.0.1", 65536]], [["127.0.0.1", True]],
     [[1, 8000]], [["", 8000]], [["127.0.0.1", 8000]] * 65],
)  # fmt: skip
def test_a_list_that_makes_no_sense_is_refused(ports: Any) -> None:
    with pytest.raises(StartError, match="makes no sense"):
        publish.read({"ports": ports})
