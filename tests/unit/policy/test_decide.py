"""What decide() answers, as sentences: verdict and reason of each."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from outpass.model import EgressRequest
from outpass.policy.decide import decide
from tests.support.policies import NOW, PUBLIC, ask, compiled

SHOP = compiled(
    """
    transparent: [requests, urllib3]
    packages:
      app: {allow: [network:http], http: ["GET https://status.example.com/**"]}
      stripe:
        versions: ">=11,<13"
        allow: [network:http]
        http:
          - {url: "https://api.stripe.com/v1/**", methods: [GET, POST]}
          - {url: "https://old.stripe.com/", expires: 2026-06-30}
        deny: {http: ["https://api.stripe.com/v1/test_helpers/**"]}
      billing: {allow: [network:http], http: ["https://api.stripe.com/"]}
      anywhere: {allow: [network:http]}
      listless: {http: ["https://api.stripe.com/"]}
      files: {allow: [network:http], http: ["https://*.files.example.com/", "https://**.deep.example.com/"]}
      "exe:git": {allow: [network:http], http: ["https://git.example.com/**"]}
      "*": {allow: [network:http], http: ["https://telemetry.example.com/"], deny: {http: ["https://evil.example.com/"]}}
      unattributed: {allow: [network:dns], dns: ["one.example.com"]}
    """
)

CHAINS = [
    ("a rule of the package allows it", "stripe@11.4.0 > app", "POST https://api.stripe.com/v1/charges", "allow", "allowed"),
    ("a method outside the rule", "stripe@11.4.0 > app", "DELETE https://api.stripe.com/v1/charges", "deny", "no_rule"),
    ("methods are compared in exact case", "stripe@11.4.0 > app", "post https://api.stripe.com/v1/charges", "deny", "no_rule"),
    ("a path outside the rule", "stripe@11.4.0 > app", "GET https://api.stripe.com/v2/x", "deny", "no_rule"),
    ("the directory itself is not below itself", "stripe@11.4.0 > app", "GET https://api.stripe.com/v1", "deny", "no_rule"),
    ("another port", "stripe@11.4.0 > app", "GET https://api.stripe.com:8443/v1/x", "deny", "no_rule"),
    ("another scheme", "stripe@11.4.0 > app", "GET http://api.stripe.com/v1/x", "deny", "no_rule"),
    ("another host", "stripe@11.4.0 > app", "GET https://api.stripe.com.evil.example/v1/x", "deny", "no_rule"),
    ("a version outside the range", "stripe@13.0 > app", "GET https://api.stripe.com/v1/x", "deny", "version_out_of_range"),
    ("a version that nobody knows", "stripe > app", "GET https://api.stripe.com/v1/x", "deny", "version_out_of_range"),
    ("a version that is none", "stripe@latest > app", "GET https://api.stripe.com/v1/x", "deny", "version_out_of_range"),
    ("a pre-release of the upper bound", "stripe@13.0rc1 > app", "GET https://api.stripe.com/v1/x", "deny", "version_out_of_range"),
    ("an expired rule", "stripe@11.4.0 > app", "GET https://old.stripe.com/x", "deny", "expired"),
    ("deny beats allow", "stripe@11.4.0 > app", "POST https://api.stripe.com/v1/test_helpers/x", "deny", "denied_by_rule"),
    ("a caller that lacks the right", "stripe@11.4.0 > left-pad@1.0 > app", "GET https://api.stripe.com/v1/x", "deny", "no_rule"),
    ("a caller that holds it too", "stripe@11.4.0 > billing > app", "GET https://api.stripe.com/v1/x", "allow", "allowed"),
    ("a deny rule of a caller further up", "billing > stripe@12 > app", "GET https://api.stripe.com/v1/test_helpers/x", "deny", "denied_by_rule"),
    ("app at the end is not checked", "billing > app", "GET https://api.stripe.com/x", "allow", "allowed"),
    ("app alone is checked", "app", "GET https://api.stripe.com/x", "deny", "no_rule"),
    ("app alone within its rule", "app", "GET https://status.example.com/a/b", "allow", "allowed"),
    ("what stands beyond app, in a spawned process, is checked", "billing > app > left-pad > app", "GET https://api.stripe.com/", "deny", "no_rule"),
    ("app beyond app is not", "billing > app > stripe@11 > app", "GET https://api.stripe.com/v1/x", "allow", "allowed"),
    ("a transparent package is skipped", "requests > urllib3 > billing > app", "GET https://api.stripe.com/x", "allow", "allowed"),
    ("a transparent package lends no rights", "billing > requests > left-pad > app", "GET https://api.stripe.com/x", "deny", "no_rule"),
    ("nothing but transparent packages is unknown code", "requests > urllib3", "GET https://api.stripe.com/x", "deny", "unproven"),
    ("an empty chain is unknown code", "", "GET https://api.stripe.com/x", "deny", "unproven"),
    ("unknown code anywhere in the chain", "billing > ? > app", "GET https://api.stripe.com/x", "deny", "unproven"),
    ("a claimed package has no rights", "!billing > app", "GET https://api.stripe.com/x", "deny", "unproven"),
    ("a claimed app does not end the chain", "billing > !app > left-pad", "GET https://api.stripe.com/x", "deny", "unproven"),
    ("what any code may do, unknown code may", "?", "POST https://telemetry.example.com/e", "allow", "allowed"),
    ("what any code may do needs no right of the callers", "billing > left-pad > app", "GET https://telemetry.example.com/", "allow", "allowed"),
    ("what any code may not do, nobody may", "anywhere > app", "GET https://evil.example.com/x", "deny", "denied_by_rule"),
    ("unattributed without a rule", "unattributed", "GET https://api.stripe.com/", "deny", "unattributed"),
    ("unattributed is any code as well", "unattributed", "GET https://telemetry.example.com/", "allow", "allowed"),
    ("a list without the capability grants nothing", "listless > app", "GET https://api.stripe.com/x", "deny", "no_rule"),
    ("a capability without a list", "anywhere > app", "PUT https://wherever.example.org/x?y", "allow", "allowed"),
    ("a program by its alias", "exe:git > app", "GET https://git.example.com/r.git", "allow", "allowed"),
    ("a package is not the program of its name", "git > app", "GET https://git.example.com/r.git", "deny", "no_rule"),
    ("one label under a star", "files > app", "GET https://a.files.example.com/x", "allow", "allowed"),
    ("two labels under a star", "files > app", "GET https://a.b.files.example.com/x", "deny", "no_rule"),
    ("the apex of a star", "files > app", "GET https://files.example.com/x", "deny", "no_rule"),
    ("a name that only ends alike", "files > app", "GET https://evilfiles.example.com/x", "deny", "no_rule"),
    ("two labels under two stars", "files > app", "GET https://a.b.deep.example.com/x", "allow", "allowed"),
    ("the apex of two stars", "files > app", "GET https://deep.example.com/x", "deny", "no_rule"),
]  # fmt: skip


@pytest.mark.parametrize("sentence, chain, url, verdict, reason", CHAINS, ids=[c[0] for c in CHAINS])
def test_chains_and_rules(sentence: str, chain: str, url: str, verdict: str, reason: str) -> None:
    decision = decide(SHOP, ask(chain, url), now=NOW)
    assert (decision.verdict.value, decision.reason.value) == (verdict, reason), sentence


PATHS = [
    ("an escape of an unreserved character is that character", "/v1/%63harges", "allow", "allowed"),
    ("an escaped letter does not get past a deny rule", "/v1/test%5Fhelpers/x", "deny", "denied_by_rule"),
    ("an empty segment does not get past a deny rule", "/v1//test_helpers/x", "deny", "denied_by_rule"),
    ("an escaped slash does not get past a deny rule", "/v1%2Ftest_helpers%2Fx", "deny", "denied_by_rule"),
    ("an escaped slash stays part of its segment", "/v1%2Fcharges", "deny", "no_rule"),
    ("a dot segment", "/v1/../v2", "deny", "bad_target"),
    ("a dot segment in escapes", "/v1/%2e%2E/v2", "deny", "bad_target"),
    ("a dot segment behind escaped slashes", "/v1/x%2f..%2fy", "deny", "bad_target"),
    ("a dot segment with a path parameter", "/v1/..;x/y", "deny", "bad_target"),
    ("a path parameter does not get past a deny rule", "/v1/test_helpers;x=1/y", "deny", "denied_by_rule"),
    ("nor does an escaped one", "/v1/test_helpers%3Bx/y", "deny", "denied_by_rule"),
    ("nor a segment of nothing but a parameter", "/v1/;a/test_helpers/x", "deny", "denied_by_rule"),
    ("an escape of an escape does not get past a deny rule", "/v1/%2574est_helpers/x", "deny", "denied_by_rule"),
    ("a path parameter elsewhere", "/v1/charges;x=1", "allow", "allowed"),
    ("a backslash", "/v1/a\\b", "deny", "bad_target"),
    ("an escaped backslash", "/v1/a%5Cb", "deny", "bad_target"),
    ("a control character", "/v1/a\nb", "deny", "bad_target"),
    ("an escaped NUL", "/v1/a%00", "deny", "bad_target"),
    ("an escape cut short", "/v1/a%4", "deny", "bad_target"),
    ("a path that does not start with a slash", "v1/charges", "deny", "bad_target"),
    ("text that is no Unicode", "/v1/\udcff", "deny", "bad_target"),
    ("an asterisk in a request is no wildcard", "/v1/*", "allow", "allowed"),
]


@pytest.mark.parametrize("sentence, path, verdict, reason", PATHS, ids=[c[0] for c in PATHS])
def test_paths(sentence: str, path: str, verdict: str, reason: str) -> None:
    request = ask("stripe@11.4.0 > app", "GET https://api.stripe.com/")._replace(path=path)
    decision = decide(SHOP, request, now=NOW)
    assert (decision.verdict.value, decision.reason.value) == (verdict, reason), sentence


MALFORMED = [
    ("a host in capitals", {"host": "API.stripe.com"}, "bad_host"),
    ("a host with a trailing dot", {"host": "api.stripe.com."}, "bad_host"),
    ("an address in another spelling", {"host": "127.1"}, "bad_host"),
    ("a mapped address", {"host": "::ffff:1.2.3.4"}, "bad_host"),
    ("an empty host", {"host": ""}, "bad_host"),
    ("a scheme of another capability", {"scheme": "tcp"}, "bad_target"),
    ("an unknown scheme", {"scheme": "ftp"}, "bad_target"),
    ("an unknown capability", {"capability": "network:smoke"}, "no_capability"),
    ("a name that resolves to nothing", {"addresses": ()}, "resolve_failed"),
    ("an address that is none", {"addresses": ("nonsense",)}, "internal"),
    ("no method where a path is given", {"method": None, "path": "/v1/x"}, "no_rule"),
    ("a value of another type", {"path": 7}, "internal"),
]


@pytest.mark.parametrize("sentence, change, reason", MALFORMED, ids=[c[0] for c in MALFORMED])
def test_what_cannot_be_judged_is_denied(sentence: str, change: dict[str, object], reason: str) -> None:
    request = ask("stripe@11.4.0 > app", "GET https://api.stripe.com/v1/x")._replace(**change)  # type: ignore[arg-type]
    decision = decide(SHOP, request, now=NOW)
    assert (decision.verdict.value, decision.reason.value) == ("deny", reason), sentence


def test_versions_may_be_missing_but_then_fit_no_range() -> None:
    request = ask("stripe@11.4.0 > app", "GET https://api.stripe.com/v1/x")._replace(versions=())
    assert decide(SHOP, request, now=NOW).reason == "version_out_of_range"
    assert decide(SHOP, request._replace(chain=("billing", "app")), now=NOW).reason == "allowed"


HOST_STAGE = compiled(
    """
    packages:
      narrow:
        allow: [network:http]
        http: ["GET https://a.example.com/v1/**", "https://b.example.com/", "https://c.example.com/", "https://d.example.com/"]
        deny: {http: ["https://b.example.com/admin/**", "POST https://c.example.com/", "https://d.example.com/"]}
      old: {allow: [network:http], http: [{url: "https://a.example.com/", expires: 2020-01-01}]}
    """
)


@pytest.mark.parametrize(
    "sentence, chain, url, reason",
    [
        ("some path of the host is allowed", "narrow", "https://a.example.com/", "allowed"),
        ("a deny rule for a part of the host does not count yet", "narrow", "https://b.example.com/", "allowed"),
        ("nor one for a method", "narrow", "https://c.example.com/", "allowed"),
        ("a deny rule for the whole host does", "narrow", "https://d.example.com/", "denied_by_rule"),
        ("no rule for the port", "narrow", "https://a.example.com:444/", "no_rule"),
        ("only an expired rule", "old", "https://a.example.com/", "expired"),
    ],
)
def test_while_only_the_host_is_known(sentence: str, chain: str, url: str, reason: str) -> None:
    assert decide(HOST_STAGE, ask(chain, url, host_only=True), now=NOW).reason == reason, sentence


CEILING = compiled(
    """
    ceiling: {http: ["https://api.stripe.com/v1/", "https://**.com/"], socket: ["db.internal:5432"]}
    packages:
      stripe: {allow: [network:http], http: ["https://api.stripe.com/", "https://evil.example.org/"]}
      anywhere: {allow: [network:all]}
      psycopg: {allow: [network:socket], socket: ["db.internal:5432", "db.internal:5433"]}
    """,
    'ceiling: {http: ["GET https://api.stripe.com/"], socket: ["db.internal:*"]}',
)


@pytest.mark.parametrize(
    "sentence, chain, url, reason",
    [
        ("within both ceilings", "stripe", "GET https://api.stripe.com/v1/x", "allowed"),
        ("outside the included one", "stripe", "POST https://api.stripe.com/v1/x", "outside_ceiling"),
        ("within the wider pattern of one, outside the other", "anywhere", "GET https://files.example.com/", "outside_ceiling"),
        ("a package's own rule does not reach further", "stripe", "GET https://evil.example.org/", "outside_ceiling"),
        ("sockets within", "psycopg", "tcp://db.internal:5432", "allowed"),
        ("sockets outside", "psycopg", "tcp://db.internal:5433", "outside_ceiling"),
        ("a capability that no ceiling lists", "anywhere", "dns://example.com", "outside_ceiling"),
        ("what the package itself lacks is said first", "left-pad", "GET https://api.stripe.com/v1/x", "no_capability"),
    ],
)
def test_ceilings_intersect(sentence: str, chain: str, url: str, reason: str) -> None:
    assert decide(CEILING, ask(chain, url), now=NOW).reason == reason, sentence


RAW = compiled(
    """
    packages:
      psycopg:
        allow: [network:socket]
        socket: [{to: "db.internal:5432", via: [sqlalchemy, django]}, "10.0.0.0/8:5432", "udp://stats.internal:8125"]
      sqlalchemy: {allow: [network:http], deny: {socket: ["10.9.0.0/16:*"]}}
      dnspython: {allow: [network:dns], dns: ["**.cluster.local", "example.com"]}
      uvicorn: {allow: [network:listen], listen: ["8000", "127.0.0.1:9000-9009"]}
      node: {allow: [network:web], http: [], fetch: ["https://api.example.com/"]}
    """
)


@pytest.mark.parametrize(
    "sentence, request_, reason",
    [
        ("the driver alone", ask("psycopg > app", "tcp://db.internal:5432"), "allowed"),
        ("a framework above it", ask("psycopg > sqlalchemy > app", "tcp://db.internal:5432"), "allowed"),
        ("two frameworks above it", ask("psycopg > sqlalchemy > django > app", "tcp://db.internal:5432"), "allowed"),
        ("a stranger above the framework", ask("psycopg > sqlalchemy > left-pad > app", "tcp://db.internal:5432"), "no_capability"),
        ("the framework itself", ask("sqlalchemy > app", "tcp://db.internal:5432"), "no_capability"),
        ("the framework below the driver", ask("sqlalchemy > psycopg > app", "tcp://db.internal:5432"), "no_capability"),
        ("via holds for its own rule only", ask("psycopg > sqlalchemy > app", "tcp://10.1.2.3:5432"), "no_capability"),
        ("unknown code is never excused", ask("psycopg > ? > app", "tcp://db.internal:5432"), "unproven"),
        ("an address within a network", ask("psycopg > app", "tcp://10.1.2.3:5432"), "allowed"),
        ("an address outside it", ask("psycopg > app", "tcp://11.1.2.3:5432"), "no_rule"),
        ("udp", ask("psycopg > app", "udp://stats.internal:8125"), "allowed"),
        ("tcp where the rule says udp", ask("psycopg > app", "tcp://stats.internal:8125"), "no_rule"),
        ("a framework that may stand there still may deny", ask("psycopg > sqlalchemy > app", "tcp://10.9.1.1:5432"), "denied_by_rule"),
        ("a deny rule for an address that the name resolves to",
         ask("psycopg > sqlalchemy > app", "tcp://db.internal:5432", to="10.9.1.1"), "denied_by_rule"),
        ("a query for a name below", ask("dnspython", "dns://a.b.cluster.local"), "allowed"),
        ("a query for another name", ask("dnspython", "dns://example.org"), "no_rule"),
        ("http rights are no dns rights", ask("sqlalchemy", "dns://example.com"), "no_capability"),
        ("a port on any address", ask("uvicorn", "listen://0.0.0.0:8000"), "allowed"),
        ("a port on one address", ask("uvicorn", "listen://127.0.0.1:9005"), "allowed"),
        ("that port elsewhere", ask("uvicorn", "listen://0.0.0.0:9005"), "no_rule"),
        ("fetch has a list of its own", ask("node", "https://api.example.com/", capability="network:fetch"), "allowed"),
        ("an empty list is a list", ask("node", "https://api.example.com/"), "no_rule"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)  # fmt: skip
def test_raw_capabilities(sentence: str, request_: EgressRequest, reason: str) -> None:
    assert decide(RAW, request_, now=NOW).reason == reason, sentence


ADDRESSES = compiled(
    """
    packages:
      any: {allow: [network:http, network:socket]}
      named: {allow: [network:http], http: ["https://intra.example.com/", "http://127.0.0.1:8080/", "http://169.254.169.254/", "http://10.0.0.7/"]}
      inner: {allow: [network:http], http: [{url: "https://intra.example.com/", private: ["10.0.0.0/8", "fd00::/8"]}]}
      both: {allow: [network:http], http: ["https://intra.example.com/x", {url: "https://intra.example.com/", private: [10.1.0.0/16]}]}
      db: {allow: [network:socket], socket: ["10.0.0.0/8:5432", "127.0.0.0/8:5432"]}
    """
)
INTRA = "https://intra.example.com/x"


@pytest.mark.parametrize(
    "sentence, request_, reason",
    [
        ("a public address", ask("named", INTRA, to=PUBLIC), "allowed"),
        ("a private address without leave", ask("named", INTRA, to="10.1.2.3"), "address_private"),
        ("a private address with leave", ask("inner", INTRA, to="10.1.2.3"), "allowed"),
        ("a private IPv6 address with leave", ask("inner", INTRA, to="fd00::7"), "allowed"),
        ("a private address outside the leave", ask("inner", INTRA, to="192.168.0.1"), "address_private"),
        ("one private address among public ones", ask("named", INTRA, to=(PUBLIC, "10.1.2.3")), "address_private"),
        ("leave of one principal does not do for its caller", ask("inner > named", INTRA, to="10.1.2.3"), "address_private"),
        ("leave of both", ask("inner > both", INTRA, to="10.1.2.3"), "allowed"),
        ("leave by any rule that covers the request", ask("both", INTRA, to="10.1.2.3"), "allowed"),
        ("app at the end needs none", ask("inner > app", INTRA, to="10.1.2.3"), "allowed"),
        ("a loopback address", ask("inner", INTRA, to="127.0.0.1"), "address_loopback"),
        ("IPv6 loopback", ask("inner", INTRA, to="::1"), "address_loopback"),
        ("the unspecified address is this host", ask("inner", INTRA, to="0.0.0.0"), "address_loopback"),
        ("loopback, mapped", ask("inner", INTRA, to="::ffff:127.0.0.1"), "address_loopback"),
        ("loopback behind NAT64", ask("inner", INTRA, to="64:ff9b::7f00:1"), "address_loopback"),
        ("loopback behind 6to4", ask("inner", INTRA, to="2002:7f00:1::"), "address_loopback"),
        ("private behind NAT64, with leave for what it embeds", ask("inner", INTRA, to="64:ff9b::a01:203"), "allowed"),
        ("the metadata service", ask("inner", INTRA, to="169.254.169.254"), "address_metadata"),
        ("the metadata service over IPv6, inside a permitted range", ask("inner", INTRA, to="fd00:ec2::254"), "address_metadata"),
        ("the metadata service of another cloud", ask("any", INTRA, to="100.100.100.200"), "address_metadata"),
        ("link-local", ask("inner", INTRA, to="fe80::1"), "address_metadata"),
        ("multicast", ask("inner", INTRA, to="224.0.0.1"), "address_reserved"),
        ("broadcast", ask("inner", INTRA, to="255.255.255.255"), "address_reserved"),
        ("a documentation address", ask("inner", INTRA, to="2001:db8::1"), "address_reserved"),
        ("a literal loopback address that a rule names", ask("named", "http://127.0.0.1:8080/"), "allowed"),
        ("the same, resolved", ask("named", "http://127.0.0.1:8080/", to="127.0.0.1"), "allowed"),
        ("a literal metadata address that a rule names", ask("named", "http://169.254.169.254/"), "allowed"),
        ("a literal private address that a rule names", ask("named", "http://10.0.0.7/"), "allowed"),
        ("a literal that stands for another address", ask("named", "http://10.0.0.7/", to="127.0.0.1"), "address_loopback"),
        ("any public destination does not name loopback", ask("any", "http://127.0.0.1/"), "address_loopback"),
        ("any public destination does not name private", ask("any", "http://10.0.0.7/"), "address_private"),
        ("any public destination, metadata spelt in octal", ask("any", "http://0251.0376.0251.0376/"), "address_metadata"),
        ("any public destination is public", ask("any", INTRA, to=PUBLIC), "allowed"),
        ("a network names the private addresses in it", ask("db", "tcp://10.1.2.3:5432"), "allowed"),
        ("a network does not name loopback", ask("db", "tcp://127.0.0.1:5432"), "address_loopback"),
        ("the operator's own override lifts the floors", ask("named", INTRA, to="127.0.0.1", connect_to=True), "allowed"),
        ("but not the rules", ask("named", "https://other.example.com/", to="127.0.0.1", connect_to=True), "no_rule"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)  # fmt: skip
def test_addresses(sentence: str, request_: EgressRequest, reason: str) -> None:
    decision = decide(ADDRESSES, request_, now=NOW)
    assert decision.reason == reason, sentence
    assert decision.allowed == (reason == "allowed")


def test_a_day_of_expiry_is_part_of_the_right() -> None:
    policy = compiled('packages: {p: {allow: [network:http], http: [{url: "https://a.example.com/", expires: 2026-11-22}]}}')
    request = ask("p", "https://a.example.com/")
    last = datetime(2026, 11, 22, 23, 59, 59, tzinfo=UTC).timestamp()
    assert decide(policy, request, now=last).reason == "allowed"
    assert decide(policy, request, now=last + 1).reason == "expired"


def test_a_decision_names_who_and_by_which_rule() -> None:
    decision = decide(SHOP, ask("stripe@11.4.0 > app", "GET https://api.stripe.com/v1/x"), now=NOW)
    assert (decision.principal, decision.version) == ("stripe", "11.4.0")
    assert str(decision.rule) == "p.yaml:9"
    assert decision.rule is not None and decision.rule.text == "GET,POST https://api.stripe.com/v1/**"
    assert decision.digest == SHOP.digest and len(SHOP.digest) == 16


def test_a_denial_names_the_one_that_lacked_the_right() -> None:
    decision = decide(SHOP, ask("stripe@11.4.0 > left-pad@1.3 > app", "GET https://api.stripe.com/v1/x"), now=NOW)
    assert (decision.principal, decision.version, decision.rule) == ("left-pad", "1.3", None)


def test_an_empty_policy_denies() -> None:
    for chain in ("app", "stripe > app", "?", "unattributed", ""):
        assert not decide(compiled("packages: {}"), ask(chain, "https://example.com/"), now=NOW).allowed


def test_the_quick_way_and_the_slow_way_agree() -> None:
    """A deny rule anywhere sends every request the slow way; one that concerns nobody must change no answer."""
    bystander = 'packages: {bystander: {deny: {http: ["https://nowhere.example.com/"]}}}'
    rules = 'packages: {p: {allow: [network:http], http: ["https://a.example.com/", "http://10.0.0.7/"]}}'
    quick, slow = compiled(rules), compiled(rules, bystander)
    for url in ("https://a.example.com/x", "https://b.example.com/", "http://10.0.0.7/"):
        for to in (None, (), (PUBLIC,), ("10.0.0.7",), ("127.0.0.1",), ("169.254.169.254",), (PUBLIC, "10.0.0.7")):
            for connect_to in (False, True):
                request = ask("p > app", url, to=to, connect_to=connect_to)
                first, second = (decide(policy, request, now=NOW) for policy in (quick, slow))
                assert first._replace(digest="") == second._replace(digest="")
                if to == ():
                    assert first.reason in ({"allowed", "no_rule"} if connect_to else {"resolve_failed", "no_rule"})
