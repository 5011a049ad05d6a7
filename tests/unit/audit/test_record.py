"""The record: its fields are those of the docs, its text is harmless, its size is bounded."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from outpass.audit import record
from outpass.audit.record import FIELDS, readable, redacted
from outpass.model import Capability, Decision, EgressRequest, Miss, RuleRef, Tier, Verdict
from outpass.reasons import Reason

ROOT = Path(__file__).resolve().parents[3]
RULE = RuleRef("outpass.yaml", 12, '{url: "https://api.stripe.com/v1/**"}')
REQUEST = EgressRequest(
    capability=Capability.HTTP.value,
    chain=("stripe", "app"),
    versions=("11.4.0", None),
    scheme="https",
    host="api.stripe.com",
    port=443,
    method="POST",
    path="/v2/charges",
    addresses=("192.0.2.7",),
)
DENIED = Decision(
    verdict=Verdict.DENY,
    reason=Reason.NO_RULE,
    request=REQUEST,
    principal="stripe",
    version="11.4.0",
    rule=None,
    miss=Miss(RULE, "the path is not covered"),
    add='stripe:\n  http: ["POST https://api.stripe.com/v2/charges"]',
    digest="9f2c0011aabbccdd",
)


def recorded(decision: Decision = DENIED, **changes: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "id": "r-1",
        "time_ms": 1763770000123,
        "jail": "j-7d0e4c11",
        "source": "gate",
        "status": 403,
        "sid": "s-3f9c1a2b",
        "dialled": None,
        "override": False,
        "query": "token=s3cret&debug=1",
        "label": "python app.py",
        "peer": {"pid": 4711, "uid": 1000, "exe": "/usr/bin/python3"},
    }
    return record.decision(decision, **{**given, **changes})


def test_a_decision_is_recorded_whole() -> None:
    assert recorded() == {
        "v": 1,
        "id": "r-1",
        "time_ms": 1763770000123,
        "kind": "decision",
        "source": "gate",
        "verdict": "deny",
        "reason": "no_rule",
        "status": 403,
        "tier": "attributed",
        "principal": "stripe",
        "version": "11.4.0",
        "chain": ["stripe@11.4.0", "app"],
        "capability": "network:http",
        "scheme": "https",
        "host": "api.stripe.com",
        "port": 443,
        "method": "POST",
        "path": "/v2/charges",
        "query": "?token=…&debug=…",
        "addresses": ["192.0.2.7"],
        "dialled": None,
        "override": False,
        "intercept": True,
        "rule": None,
        "miss": {
            "rule": {"file": "outpass.yaml", "line": 12, "text": '{url: "https://api.stripe.com/v1/**"}'},
            "why": "the path is not covered",
        },
        "add": 'stripe:\n  http: ["POST https://api.stripe.com/v2/charges"]',
        "digest": "9f2c0011aabbccdd",
        "jail": "j-7d0e4c11",
        "label": "python app.py",
        "sid": "s-3f9c1a2b",
        "peer": {"pid": 4711, "uid": 1000, "exe": "/usr/bin/python3"},
        "detail": None,
        "degraded": None,
        "bytes_out": None,
        "bytes_in": None,
    }


def test_a_refusal_records_its_reason_and_nothing_that_was_claimed() -> None:
    refused = record.refusal(
        Reason.PASS_FORGED,
        id="r-2",
        time_ms=5,
        jail="j-1",
        source="gate",
        status=403,
        host="api.stripe.com",
        port=443,
        method="CONNECT",
        detail="the signature of the pass does not fit",
    )
    said = {field: value for field, value in refused.items() if value is not None}
    assert said == {
        "v": 1,
        "id": "r-2",
        "time_ms": 5,
        "kind": "refusal",
        "source": "gate",
        "verdict": "deny",
        "reason": "pass_forged",
        "status": 403,
        "chain": [],
        "host": "api.stripe.com",
        "port": 443,
        "method": "CONNECT",
        "override": False,
        "jail": "j-1",
        "detail": "the signature of the pass does not fit",
    }


def test_every_record_has_the_documented_fields_in_the_documented_order() -> None:
    page = (ROOT / "proxy/outpass/audit/README.md").read_text()
    documented = tuple(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    refused = record.refusal(Reason.BAD_REQUEST, id="r", time_ms=0, jail="j", source="gate", status=400)
    assert documented == FIELDS == tuple(recorded()) == tuple(refused)


READABLE = {
    "ordinary text": ("https://api.stripe.com/v1", "https://api.stripe.com/v1"),
    "letters of other scripts": ("/home/józef/Проект/数据", "/home/józef/Проект/数据"),
    "a line end that forges a line": ("a\r\n12:00 allow", "a\\x0d\\x0a12:00 allow"),
    "an escape sequence that clears the screen": ("\x1b[2J\x1b]0;title\x07", "\\x1b[2J\\x1b]0;title\\x07"),
    "the eight-bit form of the same": ("\x9b2J", "\\x9b2J"),
    "a backspace that overwrites": ("evil\b\b\b\bgood", "evil\\x08\\x08\\x08\\x08good"),
    "an override of the direction": ("\u202etxt.exe", "\\u202etxt.exe"),
    "an isolate": ("\u2066a\u2069", "\\u2066a\\u2069"),
    "letters that are not seen": ("a\u200bb\u3164c\u2060d\ufeff", "a\\u200bb\\u3164c\\u2060d\\ufeff"),
    "a line separator": ("a\u2028b", "a\\u2028b"),
    "a space that is not a space": ("a\u00a0b", "a\\xa0b"),
    "half of a surrogate pair": ("\udc80", "\\udc80"),
    "a tag beyond the first plane": ("\U000e0041", "\\U000e0041"),
    "DEL and NUL": ("\x7f\x00", "\\x7f\\x00"),
}


@pytest.mark.parametrize("text,shown", READABLE.values(), ids=READABLE)
def test_text_is_shown_so_that_nothing_interprets_it(text: str, shown: str) -> None:
    assert readable(text) == shown
    assert readable(shown) == shown


REDACTED = {
    "values go, names stay": ("a=1&b=2", "?a=…&b=…"),
    "a part without a name is a value": ("sk_live_123", "?…"),
    "a value that holds an equals sign": ("token=YWJj==", "?token=…"),
    "an empty query": ("", "?"),
    "an empty value is not told from a full one": ("a=&b", "?a=…&…"),
    "empty parts": ("&&a=1&", "?a=…"),
    "a name that is an escape sequence": ("\x1b[31m=1", "?\\x1b[31m=…"),
    "a long name": ("n" * 100 + "=1", "?" + "n" * 63 + "…=…"),
}


@pytest.mark.parametrize("query,shown", REDACTED.values(), ids=REDACTED)
def test_a_query_is_recorded_by_its_names_only(query: str, shown: str) -> None:
    assert redacted(query) == shown


@pytest.mark.parametrize("filler", ["A", '"', "&", "=&", "\x1b", "\u202e", "\U000e0041", "語", "🙂", "\udc80", "\n"])
def test_the_longest_record_fits_one_packet_to_the_broker(filler: str) -> None:
    huge = filler * 100_000
    request = REQUEST._replace(
        chain=(huge,) * 200, versions=(huge,) * 200, host=huge, path=huge, method=huge, addresses=(huge,) * 99
    )
    rule = RuleRef(huge, 10**9, huge)
    worst = DENIED._replace(request=request, principal=huge, version=huge, rule=rule, miss=Miss(rule, huge), add=huge)
    text = recorded(worst, query=huge, label=huge, sid=huge, dialled=huge, peer={huge[:5000]: huge, "b": huge})
    assert len(json.dumps({"op": "audit", "records": [text]})) < 60_000
    assert text["path"].endswith("…") and len(text["path"]) <= 2_048


def test_a_record_is_valid_json_for_any_text() -> None:
    text = recorded(DENIED._replace(principal="\ud800\x00\u202e"), label=None, peer=None, query=None)
    assert json.loads(json.dumps(text, ensure_ascii=False).encode()) == text
    assert text["query"] is None and text["peer"] is None


@pytest.mark.parametrize("tier", list(Tier))
def test_the_tier_that_vouched_is_recorded(tier: Tier) -> None:
    assert recorded(DENIED._replace(request=REQUEST._replace(tier=tier.value)))["tier"] == tier.value


def test_only_add_keeps_line_ends_and_only_ours() -> None:
    text = recorded(DENIED._replace(add="a:\n  b\r\x1b[2J\u202e"))
    assert text["add"] == "a:\n  b\\x0d\\x1b[2J\\u202e"
