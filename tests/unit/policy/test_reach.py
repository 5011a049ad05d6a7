"""What a name look-up may know: whether a chain, or anybody, may reach a host in some way."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outpass.model import EgressRequest
from outpass.policy import decide, reach
from tests.support.gate import policy_of

POLICY = """
version: 1
packages:
  stripe: {versions: ">=11,<13", allow: [network:http], http: ["https://api.example.com:8443/v1/", "GET http://plain.example.com/x"]}
  psycopg: {allow: [network:socket], socket: ["db.example.com:5000-6000", "10.0.0.0/8:5432", "udp://time.example.com:123"]}
  odd: {versions: "!=1.5,~=2.1", allow: [network:dns], dns: ["**.svc.example.com"]}
  anywhere: {allow: [network:http], deny: {http: ["https://not.example.com/", "http://not.example.com/"]}}
  holed: {allow: [network:socket], socket: ["holed.example.com:1-100"], deny: {socket: ["holed.example.com:1-50"]}}
  shut: {allow: [network:socket], socket: ["shut.example.com:1-100"], deny: {socket: ["shut.example.com:1-65535"]}}
  expired: {allow: [network:socket], socket: [{to: "old.example.com:1", expires: "2020-01-01"}]}
"""
NARROW = POLICY.replace(
    '  anywhere: {allow: [network:http], deny: {http: ["https://not.example.com/", "http://not.example.com/"]}}\n', ""
)
WIDE, CLOSED = decide.compile(policy_of(POLICY)), decide.compile(policy_of(NARROW))
NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("sentence", "host", "found"),
    [
        ("an HTTP rule on an odd port and path", "api.example.com", True),
        ("a rule with a method", "plain.example.com", True),
        ("a range of ports", "db.example.com", True),
        ("a network", "10.1.2.3", True),
        ("outside of it", "11.1.2.3", False),
        ("udp is not carried", "time.example.com", False),
        ("a dns rule, whatever version of its package is installed", "a.svc.example.com", True),
        ("a range with a hole at its start", "holed.example.com", True),
        ("a range that is denied whole", "shut.example.com", False),
        ("a rule that has expired", "old.example.com", False),
        ("nobody", "evil.example", False),
    ],
)
def test_anybody(sentence: str, host: str, found: bool) -> None:
    assert (reach.Anybody(CLOSED).reachable(host, now=NOW) is not None) is found, sentence


def test_a_grant_without_a_list_reaches_every_public_name() -> None:
    anybody = reach.Anybody(WIDE)
    assert anybody.reachable("whatever.example.net", now=NOW) is not None
    found = anybody.reachable("not.example.com", now=NOW)
    assert found is not None and found.request.port not in (80, 443), "two ports are denied, the others are not"
    assert anybody.reachable("169.254.169.254", now=NOW) is None


@pytest.mark.parametrize(
    ("chain", "versions", "host", "found"),
    [
        (("psycopg", "app"), ("3.2", None), "db.example.com", True),
        (("psycopg", "sqlalchemy"), ("3.2", "2.0"), "db.example.com", False),
        (("stripe",), ("11.4",), "api.example.com", True),
        (("stripe",), ("14.0",), "api.example.com", False),
        (("?",), (None,), "db.example.com", False),
        (("stripe",), ("11.4",), "db.example.com", False),
    ],
)
def test_a_chain(chain: tuple[str, ...], versions: tuple[str | None, ...], host: str, found: bool) -> None:
    assert (reach.reachable(CLOSED, chain, versions, host, now=NOW) is not None) is found


def test_a_ceiling_narrows_what_anybody_reaches() -> None:
    c = decide.compile(policy_of(POLICY + 'ceiling: {socket: ["db.example.com:5999-6001"]}\n'))
    anybody = reach.Anybody(c)
    assert anybody.reachable("db.example.com", now=NOW) is not None
    assert anybody.reachable("api.example.com", now=NOW) is None


def test_audit_mode_reaches_every_name_for_the_record() -> None:
    found = reach.Anybody(decide.compile(policy_of("version: 1\nmode: audit\npackages: {}\n"))).reachable(
        "x.example.net", now=NOW
    )
    assert found is not None and found.verdict == "would_deny"


_PORTS = st.tuples(st.integers(1, 40), st.integers(0, 10)).map(lambda t: f"{t[0]}-{t[0] + t[1]}")


@given(st.lists(_PORTS, max_size=3), st.lists(_PORTS, max_size=3), st.lists(_PORTS, max_size=3), st.booleans())
@settings(max_examples=150, deadline=None)
def test_a_host_is_reachable_exactly_when_some_port_is(
    first: list[str], second: list[str], denied: list[str], ceiling: bool
) -> None:
    """Invariant: the look-up says yes if and only if decide() says yes for some port."""
    text = "version: 1\npackages:\n"
    for name, ports in (("one", first), ("two", second)):
        rules = ", ".join(f'"h.example.com:{p}"' for p in ports)
        deny = ", ".join(f'"h.example.com:{p}"' for p in denied) if name == "two" else ""
        text += f"  {name}: {{allow: [network:socket], socket: [{rules}], deny: {{socket: [{deny}]}}}}\n"
    if ceiling:
        text += 'ceiling: {socket: ["h.example.com:20-60"]}\n'
    c = decide.compile(policy_of(text))
    chain, versions = ("one", "two"), (None, None)
    some = any(
        decide.decide(c, EgressRequest("network:socket", chain, versions, "tcp", "h.example.com", p), now=NOW).allowed
        for p in range(1, 70)
    )
    assert (reach.reachable(c, chain, versions, "h.example.com", now=NOW) is not None) is some
