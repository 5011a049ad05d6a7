"""What `check` warns about."""

from __future__ import annotations

import pytest

from outpass.policy import lint
from tests.support.policies import NOW, policy

HEAD = "transparent: [requests]\n"


@pytest.mark.parametrize(
    "sentence, text, warning",
    [
        ("no transparent package", "packages: {a: {}}", "p.yaml:1:1: no package is transparent"),
        ("a capability without list", HEAD + "packages: {a: {allow: [network:http]}}", "reaches any public destination"),
        ("a list without capability", HEAD + 'packages: {a: {http: ["https://x.example/"]}}', "the list grants nothing"),
        ("rules of a transparent package", HEAD + "packages: {requests: {}}", "its rules never apply"),
        ("a package in audit mode", HEAD + "packages: {a: {mode: audit}}", "what it does is only recorded"),
        ("a capability that the ceiling lacks", HEAD + "ceiling: {}\npackages: {a: {allow: [network:dns], dns: []}}", "so it is denied"),
        ("an expired rule", HEAD + 'packages: {a: {allow: [network:http], http: [{url: "https://x.example/", expires: 2020-01-01}]}}', "has expired"),
        ("a rule that expires soon", HEAD + 'packages: {a: {allow: [network:http], http: [{url: "https://x.example/", expires: 2027-01-20}]}}', "expires soon"),
        ("plain http", HEAD + 'packages: {a: {allow: [network:http], http: ["http://x.example/"]}}', "is not encrypted"),
        ("a deep wildcard", HEAD + 'packages: {a: {allow: [network:http], http: ["https://**.x.example/"]}}', "covers every name below x.example"),
        ("a wildcard below an unknown top", HEAD + 'packages: {a: {allow: [network:http], http: ["https://*.mycorp/"]}}', "no known top-level name"),
        ("a host of many owners", HEAD + 'packages: {a: {allow: [network:http], http: [{url: "https://*.github.io/", multi_tenant: true}]}}', "different owners"),
        ("a shadowed rule", HEAD + 'packages: {a: {allow: [network:http], http: ["https://x.example/", "GET https://x.example/v1/y"]}}', "adds nothing to https://x.example/** (line 3)"),
        ("a rule shadowed by a wildcard", HEAD + 'packages: {a: {allow: [network:http], http: ["https://*.x.example/", "https://y.x.example/"]}}', "adds nothing"),
    ],
)  # fmt: skip
def test_warnings(sentence: str, text: str, warning: str) -> None:
    assert any(warning in str(fault) for fault in lint.warnings(policy(text), now=NOW)), sentence


@pytest.mark.parametrize(
    "sentence, rules",
    [
        ("another method", '"GET https://x.example/", "POST https://x.example/"'),
        ("a narrower rule first", '"https://x.example/v1/y", "https://x.example/"'),
        ("leave for private addresses", '"https://x.example/", {url: "https://x.example/", private: [10.0.0.0/8]}'),
        ("an earlier end", '{url: "https://x.example/", expires: 2028-01-01}, "https://x.example/v1"'),
        ("another port", '"https://x.example/", "https://x.example:444/"'),
        ("the apex of a wildcard", '"https://*.x.example/", "https://x.example/"'),
    ],
)
def test_rules_that_say_something_of_their_own(sentence: str, rules: str) -> None:
    text = f"{HEAD}packages: {{a: {{allow: [network:http], http: [{rules}]}}}}"
    assert not lint.warnings(policy(text), now=NOW), sentence


def test_programs_alone_call_no_library_that_could_be_transparent() -> None:
    text = 'packages: {"exe:git": {allow: [network:http], http: ["https://x.example/"]}}'
    assert not lint.warnings(policy(text), now=NOW)
