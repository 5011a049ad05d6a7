"""What a denial says to a person, to a tool, and to the program that was refused."""

from __future__ import annotations

import json

import pytest

from outpass.model import EgressRequest
from outpass.policy.decide import decide
from outpass.policy.explain import explain
from outpass.reasons import ENTRIES, Reason
from tests.support.policies import NOW, ask, compiled

POLICY = compiled(
    """
    packages:
      stripe:
        versions: ">=11,<13"
        allow: [network:http]
        http: ["GET,POST https://api.stripe.com/v1/**", "https://*.cdn.stripe.com/"]
        socket: ["db.internal:5432"]
        fetch: ["https://fetch.example.com/"]
        deny: {http: ["https://api.stripe.com/v1/test_helpers/**"]}
    """
)


def lines(request: EgressRequest) -> list[str]:
    return explain(decide(POLICY, request, now=NOW)).lines


def test_a_denial_names_package_version_destination_capability_chain_miss_and_line() -> None:
    assert lines(ask("stripe@11.4.0 > app", "DELETE https://api.stripe.com/v1/charges")) == [
        "deny: stripe@11.4.0 may not DELETE https://api.stripe.com/v1/charges (network:http)",
        "  chain:  stripe@11.4.0 > app",
        "  reason: no_rule: no rule of the package covers this destination",
        "  nearest: p.yaml:6: GET,POST https://api.stripe.com/v1/**",
        "           the request's method is DELETE, the rule's GET, POST",
        "  add:",
        "    packages:",
        "      stripe:",
        "        http:",
        '          - "DELETE https://api.stripe.com/v1/charges"',
    ]


@pytest.mark.parametrize(
    "sentence, request_, miss",
    [
        ("another path", ask("stripe@11", "GET https://api.stripe.com/v2/x"), "path is /v2/x, the rule's /v1/**"),
        ("another port", ask("stripe@11", "GET https://api.stripe.com:444/v1/x"), "port is 444, the rule's 443"),
        ("another scheme", ask("stripe@11", "GET http://js.cdn.stripe.com/"), "is http, the rule says https"),
        (
            "a label too many",
            ask("stripe@11", "GET https://a.b.cdn.stripe.com/"),
            "*.cdn.stripe.com does not cover more than one label",
        ),
        ("the apex", ask("stripe@11", "GET https://cdn.stripe.com/"), "*.cdn.stripe.com does not cover its own apex"),
        ("a typing error", ask("stripe@11", "GET https://api.strpie.com/"), "host is api.strpie.com, the rule's api.stripe.com"),
        (
            "a list without its capability",
            ask("stripe@11", "tcp://db.internal:5432"),
            "the package's allow: lacks network:socket",
        ),
        (
            "a private address",
            ask("stripe@11", "GET https://api.stripe.com/v1/x", to="10.0.0.1"),
            "covers the request, but not the address",
        ),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_the_nearest_miss(sentence: str, request_: EgressRequest, miss: str) -> None:
    decision = decide(POLICY, request_, now=NOW)
    assert decision.miss is not None, sentence
    assert miss in decision.miss.why


@pytest.mark.parametrize(
    "request_, title",
    [
        (
            ask("app", "tcp://db.internal:5432"),
            "app (the application itself) may not connect to db.internal:5432 (network:socket)",
        ),
        (ask("app", "dns://example.com"), "app (the application itself) may not query example.com (network:dns)"),
        (ask("app", "listen://0.0.0.0:80"), "app (the application itself) may not listen on 0.0.0.0:80 (network:listen)"),
        (
            ask("?", "https://x.example/", host_only=True),
            "? (code that outpass cannot name) may not reach https://x.example/ (network:http)",
        ),
        (ask("stripe@11", "GET https://api.stripe.com/v1/a"), "stripe@11 may GET https://api.stripe.com/v1/a (network:http)"),
    ],
)
def test_titles(request_: EgressRequest, title: str) -> None:
    assert explain(decide(POLICY, request_, now=NOW)).title == title


def test_a_problem_tells_the_refused_program_nothing_about_the_host() -> None:
    policy = compiled('packages: {a: {allow: [network:http], http: ["https://in.example.com/"]}}')
    decision = decide(policy, ask("a@1", "GET https://in.example.com/x", to="10.1.2.3"), now=NOW)
    decision = decision._replace(miss=decision.miss._replace(rule=decision.miss.rule._replace(file="/home/me/secret/p.yaml")))  # type: ignore[union-attr]
    told = explain(decision)
    assert '"10.1.2.3/32"' in (decision.add or "")
    problem = json.dumps(told.as_problem())
    assert "10.1.2.3" not in problem and "/home/me" not in problem
    assert told.as_problem()["miss"]["rule"]["file"] == "p.yaml"
    assert "10.1.2.3" in json.dumps(told.as_json()) and any("10.1.2.3" in line for line in told.lines)


def test_a_problem_is_of_rfc_9457() -> None:
    told = explain(decide(POLICY, ask("stripe@11.4.0 > app", "GET https://evil.example/"), now=NOW)).as_problem()
    assert told["type"] == "urn:outpass:reason:no_rule"
    assert (told["status"], told["code"]) == (403, "no_rule")
    assert told["detail"].startswith("stripe@11.4.0 may not GET https://evil.example/ (network:http): ")
    assert (told["package"], told["version"], told["chain"]) == ("stripe", "11.4.0", "stripe@11.4.0 > app")


def test_json_is_versioned_and_serialisable() -> None:
    told = explain(decide(POLICY, ask("stripe@14 > app", "GET https://api.stripe.com/v1/x"), now=NOW)).as_json()
    assert told["schema"] == "outpass.explain/1"
    assert json.loads(json.dumps(told))["rule"] == {"file": "p.yaml", "line": 3, "text": "versions: >=11,<13"}


def test_text_that_somebody_else_chose_cannot_move_the_cursor() -> None:
    request = ask("stripe@11", "GET https://api.stripe.com/")._replace(path="/\x1b[2J\u202eevil\r\n", method="GE\x07T")
    told = explain(decide(POLICY, request, now=NOW))
    for text in (
        *told.lines,
        told.title,
        json.dumps(told.as_problem(), ensure_ascii=False),
        json.dumps(told.as_json(), ensure_ascii=False),
    ):
        assert text.isprintable(), text


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_has_words(reason: Reason) -> None:
    decision = decide(POLICY, ask("stripe@11", "GET https://api.stripe.com/v1/x"), now=NOW)._replace(reason=reason)
    told = explain(decision)
    assert ENTRIES[reason].sentence in told.detail
    assert told.as_problem()["status"] == ENTRIES[reason].status
