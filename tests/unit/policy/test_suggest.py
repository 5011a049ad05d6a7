"""The line to add: pasted, it allows exactly what was denied."""

from __future__ import annotations

import pytest

from outpass.model import EgressRequest
from outpass.policy.compiled import compile_policy as compile_
from outpass.policy.decide import decide
from tests.support.policies import NOW, ask, policy

BASE = """
packages:
  stripe: {versions: ">=11", allow: [network:http], http: ["https://api.stripe.com/v1/", {url: "https://old.stripe.com/", expires: 2020-01-01}]}
  listless: {allow: [network:http]}
  "yes": {}
"""


@pytest.mark.parametrize(
    "sentence, request_",
    [
        ("a path", ask("stripe@11 > app", "GET https://api.stripe.com/v2/x")),
        ("the whole host, while only that is known", ask("stripe@11", "https://b.example.com/", host_only=True)),
        ("a port", ask("stripe@11", "PUT https://b.example.com:8443/x%2Fy")),
        ("an IPv6 literal", ask("stripe@11", "GET http://[2606:2800::1]:8080/")),
        ("a package that the policy does not know", ask("left-pad@1", "POST https://evil.example.com/")),
        ("every caller that lacks the right", ask("stripe@11 > left-pad > requests > app", "GET https://b.example.com/")),
        ("an expired rule", ask("stripe@11", "GET https://old.stripe.com/x")),
        ("a path with a star", ask("stripe@11", "GET https://b.example.com/")._replace(path="/a/**/b*c")),
        ("a path with quotes", ask("stripe@11", "GET https://b.example.com/")._replace(path="/\"{x}'é")),
        ("a private address", ask("stripe@11", "GET https://api.stripe.com/v1/x", to="10.1.2.3")),
        ("a private IPv6 address", ask("stripe@11", "GET https://api.stripe.com/v1/x", to="fd00::1")),
        ("a private literal", ask("stripe@11", "GET http://10.0.0.1/")),
        ("any public destination, and a private one", ask("listless", "GET https://b.example.com/", to="10.1.2.3")),
        ("a socket", ask("stripe@11", "tcp://db.internal:5432")),
        ("a udp socket", ask("stripe@11", "udp://stats.internal:8125")),
        ("a query", ask("stripe@11", "dns://_sip.example.com")),
        ("a port to listen on", ask("stripe@11", "listen://127.0.0.1:8000")),
        ("fetch", ask("stripe@11", "GET https://b.example.com/", capability="network:fetch")),
        ("a program", ask("exe:git", "GET https://git.example.com/")),
        ("nobody", ask("unattributed", "GET https://b.example.com/")),
        ("a package whose name YAML reads otherwise", ask("yes", "GET https://b.example.com/")),
        ("a package whose name is a number", ask("2to3", "GET https://b.example.com/")),
        ("a package that shadows the application", ask("pkg:pypi/app", "GET https://b.example.com/")),
        ("an npm package", ask("pkg:npm/@scope/x", "GET https://b.example.com/")),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_pasted_it_allows_what_was_denied(sentence: str, request_: EgressRequest) -> None:
    denied = decide(compile_(policy(BASE)), request_, now=NOW)
    assert not denied.allowed
    assert denied.add is not None, sentence
    assert decide(compile_(policy(BASE, denied.add)), request_, now=NOW).allowed, denied.add


@pytest.mark.parametrize(
    "sentence, request_",
    [
        ("unknown code", ask("?", "GET https://b.example.com/")),
        ("a claim", ask("!stripe", "GET https://b.example.com/")),
        ("unknown code among others", ask("left-pad > ?", "GET https://b.example.com/")),
        ("a version", ask("stripe@1", "GET https://api.stripe.com/v1/")),
        ("metadata behind a name", ask("stripe@11", "GET https://api.stripe.com/v1/x", to="169.254.169.254")),
        ("a target that cannot be judged", ask("stripe@11", "GET https://b.example.com/")._replace(path="/../x")),
        ("a method that is none", ask("stripe@11", "GET https://b.example.com/")._replace(method='X" \n')),
        ("a name that is none", ask("stripe@11", "GET https://b.example.com/")._replace(chain=('a"\n  b:',))),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_where_no_line_would_help_none_is_given(sentence: str, request_: EgressRequest) -> None:
    denied = decide(compile_(policy(BASE)), request_, now=NOW)
    assert not denied.allowed
    assert denied.add is None, sentence


def test_a_ceiling_is_widened_by_exactly_the_request() -> None:
    ceiling = 'ceiling: {http: ["https://a.example.com/"]}\npackages: {a: {allow: [network:http]}}'
    denied = decide(compile_(policy(ceiling)), ask("a", "GET https://b.example.com/x"), now=NOW)
    assert denied.add == 'ceiling:\n  http:\n    - "GET https://b.example.com/x"'
