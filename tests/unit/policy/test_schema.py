"""Alleged policies and everything that is said about what is wrong in them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from tests.support.policies import faults, policy

FAULTS = [
    ("an empty file", "", "1:1", "the policy is empty", "version: 1"),
    ("nothing but comments", "# nothing\n", "1:1", "the policy is empty", "version: 1"),
    ("a list", "- a\n", "1:1", "a policy is a mapping, not a list", "version: 1"),
    ("a text", "hello\n", "1:1", "a policy is a mapping, not the text 'hello'", "version: 1"),
    ("no version", "packages: {}\n", "1:1", "version: is missing", "add version: 1"),
    ("an unknown version", "version: 2\n", "1:10", "version 2 is not one that this outpass knows", "version: 1"),
    ("a version in quotes", 'version: "1"\n', "1:10", "version '1' is not one", "version: 1"),
    ("an unknown key", "version: 1\npackges: {}\n", "2:1", "unknown key 'packges'", "did you mean 'packages'?"),
    ("an unknown key far from all", "version: 1\nzzz: 1\n", "2:1", "unknown key 'zzz'", "known here: version"),
    ("an unknown key of a package", "version: 1\npackages:\n  a:\n    htpp: []\n", "4:5", "unknown key 'htpp'", "did you mean 'http'?"),
    ("an unknown key of a rule", 'version: 1\npackages: {a: {http: [{url: "https://x/", method: [GET]}]}}\n', "2:43",
     "unknown key 'method'", "did you mean 'methods'?"),
    ("an unknown key under deny", "version: 1\npackages: {a: {deny: {htp: []}}}\n", "2:23", "unknown key 'htp'", "did you mean 'http'?"),
    ("an unknown key of the ceiling", "version: 1\nceiling: {sockets: []}\n", "2:11", "unknown key 'sockets'", "did you mean 'socket'?"),
    ("a deny rule that would end", 'version: 1\npackages: {a: {deny: {http: [{url: "https://x/", expires: 2027-01-01}]}}}\n', "2:50",
     "unknown key 'expires'", "known here: owner, why, url, methods"),
    ("an unknown capability", "version: 1\npackages: {a: {allow: [http]}}\n", "2:24", "'http' is not one of", "did you mean 'network:http'?"),
    ("an unknown mode", "version: 1\nmode: observe\n", "2:7", "'observe' is not one of enforce, audit", ""),
    ("a list that is a text", "version: 1\npackages: {a: {allow: network:http}}\n", "2:23", "allow: must be a list, not the text", "write [network:http]"),
    ("an empty list", "version: 1\npackages:\n  a:\n    http:\n", "4:5", "http: is empty", "[] for an empty list"),
    ("an empty package", "version: 1\npackages:\n  a:\n", "3:3", "a: is empty", "remove the key"),
    ("a number for a URL", "version: 1\npackages: {a: {http: [8080]}}\n", "2:23", "http: item 1 must be text, not the number 8080", "quotes: '8080'"),
    ("a rule without URL", "version: 1\npackages: {a: {http: [{methods: [GET]}]}}\n", "2:23", "url: is missing", "add url: …"),
    ("secrets", "version: 1\nsecrets: {k: {from: {env: K}}}\n", "2:1", "secrets: is not built yet", "remove it"),
    ("a rule with a secret", 'version: 1\npackages: {a: {http: [{url: "https://x/", inject: k}]}}\n', "2:43", "inject: is not built yet", "remove it"),
    ("an unknown key of limits", 'version: 1\npackages: {a: {http: [{url: "https://x/", limits: {rpm: 1}}]}}\n', "2:52",
     "unknown key 'rpm'", "did you mean 'rps'?"),
    ("an unknown key of a package's limits", "version: 1\npackages: {a: {limits: {byte_out: 1B/s}}}\n", "2:25", "unknown key 'byte_out'", "'bytes_out'?"),
    ("a rate of nothing", 'version: 1\npackages: {a: {http: [{url: "https://x/", limits: {rps: 0}}]}}\n', "2:57", "rps: 0 is not between", "rps: 20"),
    ("a broken rate", "version: 1\npackages: {a: {limits: {rps: 2.5}}}\n", "2:30", "neither a whole number nor below 1", "0.1"),
    ("a rate that is a text", "version: 1\npackages: {a: {limits: {rps: fast}}}\n", "2:30", "rps: must be a whole number", ""),
    ("bytes without a time", "version: 1\npackages: {a: {limits: {bytes_out: 2MiB}}}\n", "2:36", "'2MiB' is not a number of bytes in a time", "2MiB/min"),
    ("bytes of no unit", "version: 1\npackages: {a: {limits: {bytes_in: 2mb/min}}}\n", "2:35", "units are B, kB", "2MiB/min"),
    ("no bytes at all", "version: 1\npackages: {a: {limits: {bytes_in: 0B/min}}}\n", "2:35", "is not between 1B and", "2MiB/min"),
    ("limits on a port", "version: 1\npackages: {a: {listen: [{at: 80, limits: {rps: 1}}]}}\n", "2:34", "unknown key 'limits'", "known here"),
    ("limits on a deny rule", 'version: 1\npackages: {a: {deny: {http: [{url: "https://x/", limits: {rps: 1}}]}}}\n', "2:50", "unknown key 'limits'", "known here"),
    ("a URL without scheme", "version: 1\npackages: {a: {http: [api.stripe.com/v1]}}\n", "2:23", "no scheme", "write https://api.stripe.com/v1"),
    ("a URL in a mapping", 'version: 1\npackages: {a: {http: [{owner: x, url: "https://x/?y"}]}}\n', "2:39", "queries are not matched", "write https://x/"),
    ("a wildcard over a public suffix", 'version: 1\npackages: {a: {http: ["https://*.co.uk/"]}}\n', "2:23", "covers a public suffix", "name the domain"),
    ("a wildcard over many owners", 'version: 1\npackages: {a: {http: ["https://*.github.io/"]}}\n', "2:23", "hosts of different owners", "multi_tenant: true"),
    ("methods in two places", 'version: 1\npackages: {a: {http: [{url: "GET https://x/", methods: [GET]}]}}\n', "2:29", "methods stand in the url", "methods: only"),
    ("a closed tunnel with a path", 'version: 1\npackages: {a: {http: [{url: "https://x/v1/", intercept: false}]}}\n', "2:57",
     "no path and no method", "write https://x/"),
    ("a closed tunnel with a method", 'version: 1\npackages: {a: {http: [{url: "https://x/", methods: [GET], intercept: false}]}}\n', "2:70",
     "no path and no method", "write https://x/"),
    ("leave for loopback", 'version: 1\npackages: {a: {http: [{url: "https://x/", private: [127.0.0.0/8]}]}}\n', "2:53",
     "not inside a private range", "names the address itself"),
    ("an end that is no date", 'version: 1\npackages: {a: {http: [{url: "https://x/", expires: never}]}}\n', "2:52", "'never' is not a date", "2027-06-30"),
    ("a day that does not exist", 'version: 1\npackages: {a: {http: [{url: "https://x/", expires: 2027-02-30}]}}\n', "2:52", "is not a date", "2027-06-30"),
    ("a version range that is none", 'version: 1\npackages: {a: {versions: "11"}}\n', "2:26", "'11' is not a version range", "write ==11"),
    ("a version range that is a number", "version: 1\npackages: {a: {versions: 11}}\n", "2:26", "must be text, not the number 11", "quotes: '11'"),
    ("a version of the application", 'version: 1\npackages: {app: {versions: ">1"}}\n', "2:18", "'app' has no version", "remove versions:"),
    ("rights for unknown code", 'version: 1\npackages: {"?": {}}\n', "2:12", "'?' is not a package name", "shown to ask"),
    ("rights for a mere claim", 'version: 1\npackages: {"!stripe": {}}\n', "2:12", "'!stripe' is not a package name", "shown to ask"),
    ("a package of another world", 'version: 1\npackages: {"pkg:gem/x": {}}\n', "2:12", "of a kind that outpass does not know", ""),
    ("a mode for everybody", 'version: 1\npackages: {"*": {mode: audit}}\n', "2:24", "every package at once", "at the top"),
    ("one package twice", "version: 1\npackages:\n  Foo_Bar: {}\n  foo-bar: {}\n", "4:3", "the same package as 'Foo_Bar'", "one entry"),
    ("a transparent application", "version: 1\ntransparent: [requests, app]\n", "2:25", "'app' is not a package", ""),
    ("an instrument that is everything", 'version: 1\ninstruments: ["*"]\n', "2:15", "is not a package or a glob", ""),
    ("via everybody", 'version: 1\npackages: {a: {socket: [{to: "x:1", via: ["*"]}]}}\n', "2:43", "any caller", "name the frameworks"),
]  # fmt: skip


@pytest.mark.parametrize("sentence, text, at, message, hint", FAULTS, ids=[f[0] for f in FAULTS])
def test_each_fault_is_said_where_it_stands_with_what_would_be_right(
    sentence: str, text: str, at: str, message: str, hint: str
) -> None:
    found = faults(text)
    assert len(found) >= 1, sentence
    assert str(found[0].place) == f"p.yaml:{at}"
    assert message in found[0].message
    assert hint in found[0].hint


@pytest.mark.parametrize("text", [f[1] for f in FAULTS], ids=[f[0] for f in FAULTS])
def test_faults_speak_in_one_voice(text: str) -> None:
    for fault in faults(text):
        assert not fault.message.endswith((".", "!")) and "\n" not in fault.message
        assert "Input should" not in fault.message and "Extra inputs" not in fault.message


def test_every_fault_is_reported_in_file_order() -> None:
    found = faults('version: 1\npackages:\n  a: {http: [nope, "https://*/", "get https://x/"]}\n  b: {versions: x}\n  "?": {}\n')
    assert [f.place.line for f in found] == [3, 3, 3, 4, 5]


def test_the_whole_contract_parses() -> None:
    found = policy(
        """
        mode: enforce
        transparent: [requests, urllib3, httpx]
        instruments: [sentry-sdk, opentelemetry-*]
        ceiling:
          http: ["https://api.stripe.com/", "https://status.example.com/"]
          socket: ["db.internal:5432"]
        packages:
          app: {allow: [network:http], http: ["GET https://status.example.com/**"]}
          stripe:
            versions: ">=11,<13"
            allow: [network:http]
            http:
              - {url: "https://api.stripe.com/v1/**", methods: [GET, POST], owner: team-billing, expires: 2027-06-30, why: card payments}
            deny: {http: ["https://api.stripe.com/v1/test_helpers/**"]}
          psycopg:
            allow: [network:socket]
            socket: [{to: "db.internal:5432", via: [sqlalchemy, django]}, "10.0.0.0/8:5432"]
          dnspython: {allow: [network:dns], dns: ["**.cluster.local"]}
          uvicorn: {allow: [network:listen], listen: ["8000", 9000]}
          "exe:git": {allow: [network:http], http: ["https://git.example.com/**"]}
          "*": {allow: [network:http], http: ["https://telemetry.example.com/"]}
          unattributed: {allow: []}
        """
    )
    stripe = found.packages["stripe"]
    (rule,) = stripe.lists["network:http"]
    assert (rule.line, rule.text, rule.owner, rule.why) == (
        14,
        "GET,POST https://api.stripe.com/v1/**",
        "team-billing",
        "card payments",
    )
    assert rule.expires == datetime(2027, 7, 1, tzinfo=UTC).timestamp()
    assert found.packages["psycopg"].lists["network:socket"][0].via == ("sqlalchemy", "django")
    assert found.instruments == ("sentry-sdk", "opentelemetry-*")
    assert [c.lists.keys() for c in found.ceilings] == [{"network:http", "network:socket"}]


def test_shorthands_stand_for_capabilities() -> None:
    found = policy("packages: {a: {allow: [network:web]}, b: {allow: [network:all]}}")
    assert found.packages["a"].allow == {"network:http", "network:fetch"}
    assert len(found.packages["b"].allow) == 5


@pytest.mark.parametrize(
    "text, moment",
    [
        ("2027-06-30", datetime(2027, 7, 1, tzinfo=UTC)),
        ("2027-06-30T12:00:00+02:00", datetime(2027, 6, 30, 10, tzinfo=UTC)),
        ("2027-06-30T12:00:00", datetime(2027, 6, 30, 12, tzinfo=UTC)),
    ],
)
def test_expiry(text: str, moment: datetime) -> None:
    found = policy(f'packages: {{a: {{http: [{{url: "https://x.example/", expires: "{text}"}}]}}}}')
    assert found.packages["a"].lists["network:http"][0].expires == moment.timestamp()
