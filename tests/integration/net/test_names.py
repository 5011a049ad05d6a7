"""The nameserver of a jail, asked over real packets from inside: what it answers, what it refuses, and that nothing goes out."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import dns.edns
import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype
import dns.reversename
import pytest

from tests.support.daemon import RunningDaemon
from tests.support.enclosed import Enclosure, enclosure
from tests.support.proc import open_files

POLICY = """
version: 1
packages:
  stripe: {versions: ">=11,<13", allow: [network:http], http: ["https://api.example.com:8443/v1/**"]}
  psycopg: {allow: [network:socket], socket: ["db.example.com:5432", "**.wild.example.com:9"]}
  dnspython: {allow: [network:dns], dns: ["records.example.com"]}
  "exe:curl":
    allow: [network:http]
    http: ["https://web.example.com/"]
    deny: {http: ["https://web.example.com/"]}
  unattributed: {allow: []}
"""


@pytest.fixture(scope="module")
def jail(outpassd: RunningDaemon, where: Path) -> Iterator[Enclosure]:
    with enclosure(outpassd, POLICY, where) as made:
        yield made


def ask(
    jail: Enclosure, name: str, kind: str = "A", *, server: str = "9.9.9.9", tcp: bool = False, edns: bool = True
) -> dns.message.Message:
    query = dns.message.make_query(name, kind, use_edns=0 if edns else None)
    return exchange(jail, query, server=server, tcp=tcp)


def exchange(jail: Enclosure, query: dns.message.Message, *, server: str = "9.9.9.9", tcp: bool = False) -> dns.message.Message:
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    with jail.socket(family, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM) as sock:
        if tcp:
            sock.connect((server, 53))
            return dns.query.tcp(query, server, 10, sock=sock)
        # dnspython refuses an answer that comes from another address than the one that was asked
        sock.setblocking(False)
        return dns.query.udp(query, server, 10, sock=sock)


def errors(answer: dns.message.Message) -> list[tuple[int, str]]:
    return [(o.code, o.text or "") for o in answer.options if isinstance(o, dns.edns.EDEOption)]


@pytest.mark.parametrize(
    ("sentence", "name", "allowed"),
    [
        ("a host of an HTTP rule, whatever its port and path", "api.example.com", True),
        ("a host of a socket rule", "db.example.com", True),
        ("a name of a dns rule", "records.example.com", True),
        ("a name under a wildcard", "a.b.wild.example.com", True),
        ("but not the wildcard's apex", "wild.example.com", False),
        ("case does not matter", "DB.Example.COM", True),
        ("a host that a deny rule covers", "web.example.com", False),
        ("a host that no rule names", "evil.example", False),
        ("a host below an allowed one", "x.db.example.com", False),
        ("one label", "localhost", False),
        ("an address as a name", "10.0.0.1", False),
        ("the root", ".", False),
    ],
)
def test_an_address_is_given_where_somebody_may_go(jail: Enclosure, sentence: str, name: str, allowed: bool) -> None:
    answer = ask(jail, name)
    if allowed:
        (rrset,) = answer.answer
        assert rrset[0].address.startswith(("198.18.", "198.19.")) and rrset.ttl <= 60, sentence
        assert answer.rcode() == dns.rcode.NOERROR and answer.flags & dns.flags.RA
    else:
        assert answer.rcode() == dns.rcode.REFUSED and not answer.answer, sentence
        ((code, text),) = errors(answer)
        assert code in (15, 18) and text.startswith("outpass: "), sentence


def test_a_refusal_says_why_and_is_recorded(jail: Enclosure) -> None:
    assert errors(ask(jail, "why.evil.example")) == [(15, "outpass: no_rule")]
    (record,) = jail.records(host="why.evil.example")
    assert (record["verdict"], record["reason"], record["capability"], record["chain"], record["tier"], record["add"]) == (
        "deny", "no_rule", "network:dns", ["unattributed"], "enforced", None,
    )  # fmt: skip


def test_every_answer_is_recorded_with_the_rule_that_somebody_has(jail: Enclosure) -> None:
    ask(jail, "every.wild.example.com")
    (record,) = jail.records(host="every.wild.example.com")
    assert (record["verdict"], record["principal"]) == ("allow", "unattributed")
    assert record["rule"]["text"] == "**.wild.example.com:9"


def test_a_name_keeps_its_address_and_no_two_names_share_one(jail: Enclosure) -> None:
    names = [f"n{i}.wild.example.com" for i in range(40)]
    first = [ask(jail, name).answer[0][0].address for name in names]
    again = [ask(jail, name, tcp=True).answer[0][0].address for name in names]
    assert first == again and len(set(first)) == len(names)


@pytest.mark.parametrize("kind", ["AAAA", "HTTPS", "SVCB"])
def test_types_that_could_lead_elsewhere_have_no_data(jail: Enclosure, kind: str) -> None:
    allowed, refused = ask(jail, "db.example.com", kind), ask(jail, "evil.example", kind)
    assert (allowed.rcode(), allowed.answer) == (dns.rcode.NOERROR, [])
    assert refused.rcode() == dns.rcode.REFUSED


@pytest.mark.parametrize("kind", ["TXT", "MX", "SRV", "NS", "SOA", "CNAME", "ANY", "NULL", "CAA"])
def test_other_types_are_refused_also_for_names_that_are_allowed(jail: Enclosure, kind: str) -> None:
    answer = ask(jail, "records.example.com", kind)
    assert answer.rcode() == dns.rcode.REFUSED and errors(answer) == [(18, "outpass: dns_type")]
    assert jail.records(reason="dns_type", detail=f"{kind} query")


def test_an_address_leads_back_to_its_name(jail: Enclosure) -> None:
    address = ask(jail, "db.example.com").answer[0][0].address
    reverse = dns.reversename.from_address(address)
    assert str(ask(jail, reverse.to_text(), "PTR").answer[0][0].target) == "db.example.com."
    unknown = ask(jail, "254.255.19.198.in-addr.arpa", "PTR")
    assert unknown.rcode() == dns.rcode.NXDOMAIN
    for elsewhere in ("1.0.0.10.in-addr.arpa", "8.8.8.8.in-addr.arpa", "1.in-addr.arpa", "1.0.0.0.ip6.arpa"):
        assert ask(jail, elsewhere, "PTR").rcode() == dns.rcode.REFUSED


@pytest.mark.parametrize("server", ["9.9.9.9", "127.0.0.53", "10.255.255.53", "2001:4860::8844", "::1"])
@pytest.mark.parametrize("tcp", [False, True])
def test_every_nameserver_address_is_this_one_and_answers_from_it(jail: Enclosure, server: str, tcp: bool) -> None:
    assert ask(jail, "db.example.com", server=server, tcp=tcp).answer


def test_many_queries_on_one_tcp_connection(jail: Enclosure) -> None:
    with jail.connect("9.9.9.9", 53) as sock:
        for i in range(20):
            assert dns.query.tcp(dns.message.make_query(f"t{i}.wild.example.com", "A"), "9.9.9.9", 10, sock=sock).answer


def raw(jail: Enclosure, data: bytes) -> bytes | None:
    """The answer to any bytes; None when there is none before a good query on the same socket is answered."""
    with jail.socket(kind=socket.SOCK_DGRAM) as sock:
        sock.connect(("9.9.9.9", 53))
        sock.send(data)
        probe = dns.message.make_query("db.example.com", "A", id=0xBEEF).to_wire()
        sock.send(probe)
        got = [sock.recv(4096)]
        if got[0][:2] != b"\xbe\xef":
            return got[0]
        sock.settimeout(0.2)  # the two may be answered in either order
        try:
            return sock.recv(4096)
        except TimeoutError:
            return None


@pytest.mark.parametrize(
    ("sentence", "data", "code"),
    [
        ("less than a header is dropped", b"\x12\x34\x01", None),
        ("nothing at all is dropped", b"\0", None),
        ("an answer is dropped: two servers could go on for ever", b"\x12\x34\x81\x80" + bytes(8), None),
        ("no question", b"\x12\x34\x01\0" + bytes(8), dns.rcode.FORMERR),
        ("a question that is cut short", b"\x12\x34\x01\0\0\1\0\0\0\0\0\0\3www", dns.rcode.FORMERR),
        ("a name that points at itself", b"\x12\x34\x01\0\0\1\0\0\0\0\0\0\xc0\x0c\0\1\0\1", dns.rcode.FORMERR),
        ("a label of 64", b"\x12\x34\x01\0\0\1\0\0\0\0\0\0\x40" + b"a" * 64 + b"\0\0\1\0\1", dns.rcode.FORMERR),
        ("a name of more than 255", b"\x12\x34\x01\0\0\1\0\0\0\0\0\0" + (b"\x3f" + b"a" * 63) * 4 + b"\0\0\1\0\1", dns.rcode.FORMERR),
        ("bytes after the end", b"\x12\x34\x01\0\0\1\0\0\0\0\0\0\1a\0\0\1\0\1junk", dns.rcode.FORMERR),
        ("a status query", b"\x12\x34\x10\0\0\1\0\0\0\0\0\0\1a\0\0\1\0\1", dns.rcode.NOTIMP),
        ("an update", b"\x12\x34\x28\0\0\1\0\0\0\0\0\0\1a\0\0\6\0\1", dns.rcode.NOTIMP),
    ],
)  # fmt: skip
def test_packets_that_are_none(jail: Enclosure, sentence: str, data: bytes, code: int | None) -> None:
    answer = raw(jail, data)
    if code is None:
        assert answer is None, sentence
    else:
        assert answer is not None and answer[:2] == b"\x12\x34" and answer[3] & 0x0F == code, sentence


def test_the_class_chaos_and_names_with_odd_characters_are_refused(jail: Enclosure) -> None:
    chaos = dns.message.make_query("version.bind", "TXT", rdclass="CH", use_edns=0)
    assert exchange(jail, chaos).rcode() == dns.rcode.REFUSED
    for name in ("a b.example.com", "a\\000.example.com", "a\\@.example.com", "*.example.com", "a\\..example.com"):
        assert ask(jail, name).rcode() == dns.rcode.REFUSED


def test_a_later_edns_version_is_told_so(jail: Enclosure) -> None:
    query = dns.message.make_query("db.example.com", "A", use_edns=1)
    assert exchange(jail, query).rcode() == dns.rcode.BADVERS


def test_an_answer_that_does_not_fit_is_truncated_and_whole_over_tcp(jail: Enclosure) -> None:
    # 249 characters that come back as a PTR, with the question, in 512 bytes: not with an EDNS-less query
    long = ".".join(["a" * 39] * 5) + ".wild.example.com"
    address = ask(jail, long, tcp=True).answer[0][0].address
    name = dns.reversename.from_address(address).to_text()
    assert str(ask(jail, name, "PTR", edns=False).answer[0][0].target) == f"{long}."
    query = dns.message.make_query(name, "PTR", use_edns=0, payload=512)
    short = exchange(jail, query)
    assert short.answer or short.flags & dns.flags.TC


def test_more_queries_than_the_limit_are_refused_counted_and_over_soon(
    jail: Enclosure, outpassd: RunningDaemon, where: Path
) -> None:
    with enclosure(outpassd, POLICY, where) as other, other.socket(kind=socket.SOCK_DGRAM) as sock:
        sock.connect(("9.9.9.9", 53))
        refused = answered = 0
        for start in range(0, 600, 20):
            for i in range(start, start + 20):
                sock.send(dns.message.make_query("db.example.com", "A", id=i).to_wire())
            for _ in range(20):
                got = sock.recv(4096)
                refused += got[3] & 0x0F == dns.rcode.REFUSED
                answered += got[3] & 0x0F == dns.rcode.NOERROR
        assert refused + answered == 600 and answered >= 300 and refused > 0
        (record,) = other.records(reason="dns_limit")[:1]
        assert record["detail"].endswith("look-ups over the limit")
        assert ask(jail, "db.example.com").answer, "another jail has a limit of its own"


def test_no_resolver_hears_of_anything(jail: Enclosure) -> None:
    """The gate's process has no socket to a nameserver after all of the above."""
    gate = jail.daemon.gate_pid()
    with open(f"/proc/{gate}/net/udp") as file:
        table = file.read()
    inodes = {line.split()[9] for line in table.splitlines()[1:] if line.split()[2].endswith(":0035")}
    assert not {f"socket:[{inode}]" for inode in inodes} & set(open_files(gate))


def test_the_c_library_and_programs_understand_the_answers(jail: Enclosure) -> None:
    done = jail.run("getent", "ahosts", "db.example.com")
    assert done.returncode == 0 and done.stdout.startswith("198.1")
    assert jail.run("getent", "hosts", "evil.example").returncode == 2
    assert jail.run("getent", "ahostsv4", "db.example.com").stdout.startswith("198.1"), "AI_ADDRCONFIG finds IPv4 configured"
    script = "import socket; print(socket.getaddrinfo('db.example.com', 5432)[0][4]); print(socket.gethostbyaddr(socket.gethostbyname('db.example.com'))[0])"
    assert jail.python(script).stdout.splitlines()[1] == "db.example.com"
