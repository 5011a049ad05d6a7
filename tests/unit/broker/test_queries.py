"""Real queries: types, limits that make a wildcard no tunnel, and answers of a real nameserver."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import dns.flags
import dns.message
import dns.rcode
import dns.resolver
import dns.rrset
import pytest

from outpass.broker import queries
from outpass.broker.queries import Limits


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("text", "found"),
    [("TXT", "TXT"), ("txt", "TXT"), ("SRV", "SRV"), ("TYPE65", "HTTPS"), ("ANY", None), ("AXFR", None), ("IXFR", None), ("OPT", None),
     ("", None), ("nonsense", None), (16, None), (None, None), ("TYPE99999", None), ("T" * 99, None)],
)  # fmt: skip
def test_types(text: object, found: str | None) -> None:
    assert queries.kind(text) == found


@pytest.mark.parametrize(
    ("sentence", "name", "pattern", "allowed"),
    [
        ("a name that the rule names may have any label", "a" * 63 + ".example.com", "a" * 63 + ".example.com", True),
        ("under a wildcard a label may be 40 long", "a" * 40 + ".example.com", "**.example.com", True),
        ("but not 41", "a" * 41 + ".example.com", "*.example.com", False),
        ("and all of them 80", ".".join(["a" * 40] * 2) + ".example.com", "**.example.com", True),
        ("but not more", ".".join(["a" * 27] * 3) + ".example.com", "**.example.com", False),
        ("labels of the rule itself are not counted", "x." + "b" * 60 + ".example.com", "*." + "b" * 60 + ".example.com", True),
        ("a grant without a list is the widest wildcard", "a" * 41 + ".example.com", "dnspython: any public destination", False),
    ],
)
def test_lengths(sentence: str, name: str, pattern: str, allowed: bool) -> None:
    assert (Limits(Clock()).over("j", "p", name, pattern) is None) is allowed, sentence


def test_a_package_has_a_rate_of_its_own() -> None:
    clock = Clock()
    limits = Limits(clock)
    assert [limits.over("j", "p", "a.b", "a.b") for _ in range(30)] == [None] * 30
    assert "queries a second" in str(limits.over("j", "p", "a.b", "a.b"))
    assert limits.over("j", "other", "a.b", "a.b") is None and limits.over("k", "p", "a.b", "a.b") is None
    clock.now = 0.1
    assert limits.over("j", "p", "a.b", "a.b") is None
    assert limits.over("j", "p", "a.b", "a.b") is not None


def test_a_package_sends_so_many_characters_a_minute() -> None:
    clock, name = Clock(), "x" * 30 + "." + "y" * 30 + ".example.com"
    limits, sent = Limits(clock), 0
    for _ in range(6_000):
        clock.now += 0.1
        if limits.over("j", "p", name, "**.example.com") is None:
            sent += len(name)
    assert sent <= queries.BYTES_PER_MINUTE * 11, "ten minutes and what it began with"


@pytest.fixture
def resolver() -> Iterator[dns.resolver.Resolver]:
    """A real nameserver on loopback that knows a few names."""
    known = {
        ("txt.example.com.", "TXT"): ['"v=spf1 -all"', '"two \\" quotes"'],
        ("_ldap._tcp.example.com.", "SRV"): ["0 5 389 ldap.example.com."],
    }
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                data, peer = sock.recvfrom(4096)
            except OSError:
                return
            q = dns.message.from_wire(data)
            answer = dns.message.make_response(q)
            answer.flags |= dns.flags.RA
            name, rtype = q.question[0].name.to_text(), dns.rdatatype.to_text(q.question[0].rdtype)
            if name.startswith("alias."):
                answer.answer = [
                    dns.rrset.from_text(name, 60, "IN", "CNAME", "txt.example.com."),
                    dns.rrset.from_text("txt.example.com.", 60, "IN", "TXT", '"v"'),
                ]
            elif (name, rtype) in known:
                answer.answer = [dns.rrset.from_text_list(name, 60, "IN", rtype, known[name, rtype])]
            elif name.startswith("servfail."):
                answer.set_rcode(dns.rcode.SERVFAIL)
            elif not any(n == name for n, _ in known):
                answer.set_rcode(dns.rcode.NXDOMAIN)
            sock.sendto(answer.to_wire(), peer)

    threading.Thread(target=serve, daemon=True).start()
    made = dns.resolver.Resolver(configure=False)
    made.nameservers, made.port = ["127.0.0.1"], sock.getsockname()[1]
    yield made
    sock.close()


@pytest.mark.parametrize(
    ("name", "rtype", "expected"),
    [
        (
            "txt.example.com",
            "TXT",
            {"answers": ['"v=spf1 -all"', '"two \\" quotes"'], "ttl": 60, "absent": False, "name": "txt.example.com"},
        ),
        ("_ldap._tcp.example.com", "SRV", {"answers": ["0 5 389 ldap.example.com."], "absent": False}),
        ("alias.example.com", "TXT", {"answers": ['"v"'], "name": "txt.example.com"}),
        ("txt.example.com", "MX", {"answers": [], "absent": False, "ttl": 0}),
        ("nobody.example.com", "TXT", {"answers": [], "absent": True}),
        ("servfail.example.com", "TXT", {"error": "resolve_failed"}),
    ],
)
def test_answers_of_a_real_nameserver(
    resolver: dns.resolver.Resolver, name: str, rtype: str, expected: dict[str, object]
) -> None:
    found = queries.ask(name, rtype, resolver)
    found["answers"] = sorted(found.get("answers", []))  # records of one name have no order
    expected = {**expected, "answers": sorted(expected.get("answers", []))}  # type: ignore[call-overload]
    assert {k: found.get(k) for k in expected} == expected
