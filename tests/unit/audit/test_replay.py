"""Replay: a record says enough to be judged again, by the same function, and only the policy makes a difference."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from outpass.audit import record, replay
from outpass.model import EgressRequest
from outpass.policy import decide
from outpass.policy.reach import Anybody
from outpass.reasons import Reason
from tests.support.policies import NOW, ask, compiled

STRIPE = """
packages:
  stripe: {versions: ">=11", allow: [network:http], http: ["https://api.stripe.com/v1/**"]}
  "pkg:npm/@scope/x": {allow: [network:http], http: [{url: "https://x.example/**", private: [10.0.0.0/8]}]}
"""
WIDER = STRIPE + '  left-pad: {allow: [network:http], http: ["https://evil.example/**"]}\n'


def recorded(request: EgressRequest, text: str = STRIPE, **changes: Any) -> dict[str, Any]:
    decision = decide.decide(compiled(text), request, now=NOW)
    made = record.decision(
        decision, id="r-1", time_ms=int(NOW * 1000), jail="j-1", source="gate", status=None, sid=None, dialled=None,
        override=request.connect_to, query=None,
    )  # fmt: skip
    return {**made, **changes}


REQUESTS = [
    ask("stripe@12.0", "GET https://api.stripe.com/v1/charges"),
    ask("stripe@10.0", "GET https://api.stripe.com/v1/charges"),
    ask("stripe@12.0", "GET https://api.stripe.com/v2", to="10.0.0.1"),
    ask("pkg:npm/@scope/x", "POST https://x.example/a%2Fb//c", to="10.1.2.3"),
    ask("pkg:npm/@scope/x", "POST https://x.example/", to="169.254.169.254"),
    ask("left-pad@1.0 > stripe@12.0", "GET https://evil.example/"),
    ask("?", "GET https://api.stripe.com/v1/"),
    ask("stripe@12.0", "GET https://api.stripe.com/v1/../v2"),
]


@pytest.mark.parametrize("request_", REQUESTS, ids=str)
def test_a_record_under_the_policy_that_made_it_comes_out_the_same(request_: EgressRequest) -> None:
    made = recorded(request_)
    assert replay.request_of(made) == request_
    again = replay.Replay(compiled(STRIPE)).judge(made)
    assert again is not None and not again.differs


def test_another_policy_makes_the_difference_that_it_makes() -> None:
    made = recorded(ask("left-pad", "GET https://evil.example/"))
    again = replay.Replay(compiled(WIDER)).judge(made)
    assert again is not None and again.differs
    assert (made["reason"], again.decision.verdict, again.decision.reason) == ("no_capability", "allow", "allowed")


def test_a_record_is_judged_at_its_own_time() -> None:
    text = 'packages: {a: {allow: [network:http], http: [{url: "https://a.example/**", expires: 2027-01-20}]}}\n'
    judge = replay.Replay(compiled(text)).judge
    made = recorded(ask("a", "GET https://a.example/"), text)
    later = judge({**made, "time_ms": made["time_ms"] + 10 * 86_400_000})
    same = judge(made)
    assert same is not None and later is not None
    assert not same.differs and later.decision.reason is Reason.EXPIRED


def test_a_look_up_in_a_jail_is_judged_by_who_may_go_there() -> None:
    text = 'packages: {a: {allow: [network:http], http: ["https://a.example/**"]}}\n'
    found = Anybody(compiled(text)).reachable("a.example", now=NOW)
    assert found is not None
    question = EgressRequest("network:dns", ("unattributed",), (None,), "dns", "a.example", 53)
    made = {**recorded(question, text), "verdict": "allow", "reason": "allowed"}
    again = replay.Replay(compiled(text)).judge(made)
    assert again is not None and not again.differs
    other = replay.Replay(compiled(STRIPE)).judge(made)
    assert other is not None and other.decision.verdict == "deny"


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "fault"},
        {"kind": "refusal"},
        {"kind": "close"},
        {"reason": "upstream_tls"},
        {"reason": "dns_limit"},
        {"path": "/v1/" + "a" * 2_043 + "…"},
        {"path": "/v1/\\xe9"},
        {"chain": ["a…"]},
        {"chain": ["a"] * 65},
        {"chain": []},
    ],
)
def test_what_cannot_be_judged_again_is_not(changes: dict[str, Any]) -> None:
    made = recorded(ask("stripe@12.0", "GET https://api.stripe.com/v1/charges"), **changes)
    assert replay.Replay(compiled(STRIPE)).judge(made) is None


def test_every_reason_that_policy_gives_is_judged() -> None:
    where = Path(decide.__file__).parent
    named = {n for file in ("decide.py", "judge.py") for n in re.findall(r"Reason\.([A-Z_]+)", (where / file).read_text())}
    assert {reason.name for reason in replay.JUDGED} == named
