"""What a policy can say beyond allow and deny: audit mode, private addresses, denials that take rights away."""

from __future__ import annotations

from pathlib import Path

from outpass.reasons import Reason
from tests.support.gate import Gate
from tests.support.raw_origin import RawOrigin

API = "api.test:443"


def _gate(policy: str, origin: RawOrigin, bundle: Path) -> Gate:
    return Gate(policy, connect_to=[("api.test", 443, "127.0.0.1", origin.port)], bundle=bundle)


def test_audit_mode_lets_through_and_records_what_it_would_have_denied(origin: RawOrigin, bundle: Path) -> None:
    policy = "version: 1\nmode: audit\npackages:\n  stripe: {allow: [network:http], http: ['https://other.test/**']}\n"
    with _gate(policy, origin, bundle) as gate, gate.tunnel(API, "stripe") as wire:
        assert wire.get("/v1/a", "api.test", "stripe").status == 200
        assert wire.get("/v1/a", "api.test", "stripe", deny=Reason.NO_RULE).code == Reason.NO_RULE, "a denial pass stays one"
        bad = wire.ask("GET /v1/a HTTP/1.1\r\nHost: api.test\r\nOutpass-Token: a.b.c\r\n\r\n")
        assert bad.code == Reason.PASS_MALFORMED, "and a bad pass is no pass"
        assert gate.wait_records(1, verdict="would_deny")[0]["reason"] == "no_rule"
    assert len(origin.seen) == 1


def test_a_deny_rule_beats_the_allow_rule(gate: Gate, origin: RawOrigin) -> None:
    with gate.tunnel(API, "stripe") as wire:
        assert wire.get("/v1/secret/x", "api.test", "stripe").code == Reason.DENIED_BY_RULE
        assert wire.get("/v1/%73ecret/x", "api.test", "stripe").code == Reason.DENIED_BY_RULE, "in any spelling"
    assert not origin.seen


def test_the_whole_chain_must_hold_the_right(gate: Gate, origin: RawOrigin) -> None:
    with gate.tunnel(API, "stripe") as wire:
        answer = wire.get("/v1/a", "api.test", "stripe", "other", "app")
    assert answer.status == 403 and answer.problem["package"] == "other"
    assert not origin.seen
