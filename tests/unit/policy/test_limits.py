"""What `limits:` says, and which limits hold for a request."""

from __future__ import annotations

import pytest

from outpass.policy import decide, limits
from outpass.policy.explain import explain
from outpass.policy.limits import Limits, Rate
from outpass.policy.rules import Policy
from tests.support.policies import NOW, ask, compiled, faults, policy

POLICY = """
packages:
  stripe:
    allow: [network:http, network:socket]
    limits: {bytes_out: 1MiB/min}
    http:
      - {url: "https://api.test/v1/**", limits: {rps: 20}}
      - {url: "https://api.test/v1/upload/**", limits: {rps: 1}}
      - {url: "https://api.test/v1/old", limits: {rps: 3}, expires: 2020-01-01}
      - "https://free.test/"
    socket: [{to: "db.test:5432", limits: {bytes_in: 5kB/s}}]
  wrapper: {allow: [network:http], http: [{url: "https://api.test/v1/**", limits: {rps: 7}}]}
  app: {allow: [network:http], http: ["https://api.test/"], limits: {rps: 2}}
  "*": {allow: [network:http], http: [{url: "https://star.test/", limits: {rps: 9}}]}
"""


def _held(chain: str, url: str, text: str = POLICY) -> list[str]:
    c, request = compiled(text), ask(chain, url)
    assert decide.decide(c, request, now=NOW).allowed
    return [f"{h.owner} {h.limits.text}" for h in limits.holding(c, request, NOW)]


@pytest.mark.parametrize(
    "text, rate",
    [
        ("2MiB/min", Rate(2 << 20, 60.0)),
        ("1B/s", Rate(1, 1.0)),
        ("10 kB/h", Rate(10_000, 3600.0)),
        ("1TiB/day", Rate(1 << 40, 86400.0)),
    ],
)
def test_bytes_are_read_with_their_unit_and_time(text: str, rate: Rate) -> None:
    assert limits.size(text) == rate


@pytest.mark.parametrize("text", ["", "2", "2MiB", "-1B/s", "1.5MiB/s", "2MiB/", "2XB/s", "2MiB/min ", "9999TiB/s", "٣B/s"])
def test_other_texts_are_not_sizes(text: str) -> None:
    with pytest.raises(ValueError):
        limits.size(text)


def test_a_rate_below_one_is_one_in_a_longer_time() -> None:
    assert (limits.rps(20), limits.rps(0.1)) == (Rate(20, 1.0), Rate(1, 10.0))


@pytest.mark.parametrize("value", [0, -1, 1.5, 1_000_001, float("nan"), float("inf"), 1e-9])
def test_other_numbers_are_not_rates(value: float) -> None:
    with pytest.raises(ValueError):
        limits.rps(value)


def test_limits_are_written_back_as_they_were_read() -> None:
    made = Limits(limits.rps(0.5), limits.size("3MiB/min"), limits.size("1500B/day"))
    assert made.text == "rps: 0.5, bytes_out: 3MiB/min, bytes_in: 1500B/day"


def test_every_rule_that_covers_the_request_is_counted_not_only_the_first() -> None:
    assert _held("stripe", "POST https://api.test/v1/upload/x") == [
        "stripe rps: 20",
        "stripe rps: 1",
        "stripe bytes_out: 1MiB/min",
    ]


def test_a_rule_that_expired_or_does_not_cover_it_is_not_counted() -> None:
    assert _held("stripe", "https://api.test/v1/old") == ["stripe rps: 20", "stripe bytes_out: 1MiB/min"]
    assert _held("stripe", "https://free.test/") == ["stripe bytes_out: 1MiB/min"]


def test_limits_hold_over_the_whole_chain_but_not_for_the_application_at_its_end() -> None:
    """Else a package that has used up its share would go on through another."""
    assert _held("stripe > wrapper > app", "https://api.test/v1/a") == [
        "stripe rps: 20",
        "stripe bytes_out: 1MiB/min",
        "wrapper rps: 7",
    ]
    assert _held("app", "https://api.test/v1/a") == ["app rps: 2"]


def test_a_rule_for_any_code_is_counted_where_it_is_what_grants() -> None:
    assert _held("stranger", "https://star.test/") == ["* rps: 9"]
    assert _held("stripe", "https://star.test/") == ["* rps: 9", "stripe bytes_out: 1MiB/min"]


def test_a_limit_of_any_code_holds_for_everything_in_the_jail() -> None:
    text = 'packages: {a: {allow: [network:http], http: ["https://x.test/"]}, "*": {limits: {rps: 5}}}'
    assert _held("a", "https://x.test/", text) == ["* rps: 5"]


def test_a_raw_connection_has_limits_and_a_look_up_has_none() -> None:
    assert _held("stripe", "tcp://db.test:5432") == ["stripe bytes_in: 5kB/s", "stripe bytes_out: 1MiB/min"]
    assert _held("d", "dns://x.test", "packages: {d: {allow: [network:dns], dns: [x.test], limits: {rps: 1}}}") == []


def test_one_limit_has_one_identity_wherever_it_stands_and_another_has_another() -> None:
    here, there = compiled(POLICY), compiled("# moved\n" + POLICY.replace('      - "https://free.test/"\n', ""))
    request = ask("stripe", "https://api.test/v1/upload/x")
    one = limits.holding(here, request, NOW)
    other = limits.holding(there, request, NOW)
    assert [h.identity for h in one] == [h.identity for h in other]
    assert [h.ref.line for h in one] != [h.ref.line for h in other]
    assert len({h.identity for h in one}) == 3


def test_a_limit_in_audit_mode_is_marked_so() -> None:
    c = compiled(POLICY.replace("  stripe:\n", "  stripe:\n    mode: audit\n"))
    assert {h.audit for h in limits.holding(c, ask("stripe", "https://api.test/v1/a"), NOW)} == {True}
    assert {h.audit for h in limits.holding(c, ask("wrapper", "https://api.test/v1/a"), NOW)} == {False}


def test_a_policy_without_limits_costs_nothing() -> None:
    assert not compiled('packages: {a: {http: ["https://x/"]}}').limited
    assert limits.holding(compiled('packages: {a: {http: ["https://x/"]}}'), ask("a", "https://x/"), NOW) == ()


def test_two_files_that_limit_one_package_differently_are_an_error() -> None:
    with pytest.raises(Exception, match="limits"):
        policy("packages: {a: {limits: {rps: 1}}}", "packages: {a: {limits: {rps: 2}}}")
    one: Policy = policy("packages: {a: {}}", "packages: {a: {limits: {rps: 2}}}")
    assert one.packages["a"].limits.rps == Rate(2, 1.0)


def test_explain_shows_the_limits_with_the_line_they_stand_on() -> None:
    c, request = compiled(POLICY), ask("stripe", "POST https://api.test/v1/upload/x")
    told = explain(decide.decide(c, request, now=NOW), limits.holding(c, request, NOW))
    assert "  limit:  rps: 1 (stripe, p.yaml:8)" in told.lines
    assert [entry["text"] for entry in told.as_json()["limits"]] == ["rps: 20", "rps: 1", "bytes_out: 1MiB/min"]


def test_limits_are_not_a_fault_any_more() -> None:
    assert not faults("version: 1\n" + POLICY)
