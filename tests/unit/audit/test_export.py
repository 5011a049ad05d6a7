"""Records as people and programs read them."""

from __future__ import annotations

import json
from datetime import UTC, timedelta, timezone
from typing import Any

import pytest

from outpass.audit import export, record
from outpass.reasons import Reason

BASE = record.refusal(Reason.BAD_HOST, id="r-1", time_ms=1_763_770_000_000, jail="j-1", source="gate", status=400)
DENIED: dict[str, Any] = {
    **BASE,
    "kind": "decision",
    "reason": "no_rule",
    "principal": "stripe",
    "version": "11.4.0",
    "chain": ["stripe@11.4.0", "sqlalchemy@2.0", "app"],
    "capability": "network:http",
    "scheme": "https",
    "host": "api.stripe.com",
    "port": 443,
    "method": "POST",
    "path": "/v2/charges",
    "query": "?token=…",
    "miss": {"rule": {"file": "outpass.yaml", "line": 12, "text": "…"}, "why": "the path is not covered"},
    "add": 'stripe:\n  http: ["POST https://api.stripe.com/v2/charges"]',
    "label": "python app.py",
}


def told(one: dict[str, Any], width: int | None = None) -> list[str]:
    return list(export.lines(one, width=width, zone=UTC, paint=lambda kind, text: text))


def test_a_denial_names_package_destination_capability_chain_reason_and_the_line_to_add() -> None:
    assert told(DENIED) == [
        "00:06:40  deny        stripe@11.4.0           POST https://api.stripe.com/v2/charges?token=…",
        "          no_rule: no rule of the package covers this destination",
        "          network:http, chain stripe@11.4.0 > sqlalchemy@2.0 > app",
        "          nearest outpass.yaml:12, but the path is not covered",
        "          add: stripe:",
        '                 http: ["POST https://api.stripe.com/v2/charges"]',
        "          in python app.py, id r-1",
    ]


def test_what_was_allowed_takes_one_line() -> None:
    assert told({**DENIED, "verdict": "allow", "reason": "allowed"}) == [
        "00:06:40  allow       stripe@11.4.0           POST https://api.stripe.com/v2/charges?token=…"
    ]


def test_an_overridden_address_is_named_also_on_what_was_allowed() -> None:
    shown = told({**DENIED, "verdict": "allow", "override": True, "dialled": "127.0.0.1:8443"})
    assert shown[1:] == ["          dialled 127.0.0.1:8443, as --connect-to says"]


def test_the_table_line_fits_eighty_columns_and_says_that_it_was_cut() -> None:
    head = told({**DENIED, "path": "/a" * 200, "principal": "p" * 22, "version": None}, width=80)[0]
    assert len(head) == 80 and head.endswith("…")


def test_times_are_told_in_the_zone_that_was_asked_for() -> None:
    zone = timezone(timedelta(hours=-1))
    assert export.day(DENIED, UTC) == "2025-11-22"
    assert export.day(DENIED, zone) == "2025-11-21"
    assert next(iter(export.lines(DENIED, width=None, zone=zone, paint=lambda _, text: text))).startswith("23:06:40")


DESTINATIONS: dict[str, tuple[dict[str, Any], str]] = {
    "a request": ({}, "POST https://api.stripe.com/v2/charges?token=…"),
    "another port": ({"port": 8443}, "POST https://api.stripe.com:8443/v2/charges?token=…"),
    "a tunnel": ({"method": None, "path": None, "query": None}, "https://api.stripe.com"),
    "raw TCP": (
        {"scheme": "tcp", "host": "db", "port": 5432, "method": None, "path": None, "query": None},
        "tcp://db:5432",
    ),
    "IPv6": ({"host": "2001:db8::5", "path": "/", "query": None}, "POST https://[2001:db8::5]/"),
    "a refused CONNECT": (
        {"scheme": None, "method": "CONNECT", "path": None, "query": None},
        "CONNECT api.stripe.com:443",
    ),
    "nothing known": ({"host": None, "method": None}, "-"),
}


@pytest.mark.parametrize("changes,shown", DESTINATIONS.values(), ids=DESTINATIONS)
def test_a_destination_is_told_as_people_write_it(changes: dict[str, Any], shown: str) -> None:
    assert export.destination({**DENIED, **changes}) == shown


HOSTILE = "\x1b[2J\r\n00:00:00  allow\u202e\x9b\x07"


@pytest.mark.parametrize(
    "field",
    ["principal", "version", "host", "path", "query", "method", "scheme", "label", "detail", "add", "reason", "id", "verdict"],
)
def test_a_record_that_somebody_else_wrote_into_the_file_cannot_speak_to_the_terminal(field: str) -> None:
    one = {**DENIED, field: HOSTILE, "chain": [HOSTILE], "miss": {"rule": {"file": HOSTILE, "line": 1}, "why": HOSTILE}}
    text = [*told(one), export.sentence(one), export.json_line(one)]
    assert all(line.isprintable() for line in text)
    assert not any(line.startswith("00:00:00") for line in text)


def test_a_json_line_is_the_record_in_ascii() -> None:
    line = export.json_line(DENIED)
    assert line.isascii() and "\n" not in line and json.loads(line) == DENIED


def test_a_summary_tells_each_distinct_denial_once_with_the_line_to_add() -> None:
    counts = {("decision", "allow"): 10, ("decision", "deny"): 2, ("refusal", "deny"): 1, ("fault", "deny"): 4}
    forged = {**BASE, "reason": "pass_forged", "host": "h", "port": 1}
    assert export.summary(counts, [DENIED, forged, DENIED]) == {
        "decisions": 13,
        "allowed": 10,
        "denied": 3,
        "would_deny": 0,
        "faults": 4,
        "denials": [
            {
                "count": 2,
                "say": "stripe@11.4.0 may not POST https://api.stripe.com/v2/charges?token=… "
                "(network:http, chain stripe@11.4.0 > sqlalchemy@2.0 > app): "
                "no_rule: no rule of the package covers this destination",
                "add": DENIED["add"],
            },
            {"count": 1, "say": "a request to h:1 was refused: pass_forged: the pass was not signed by this broker", "add": None},
        ],
        "lines": [DENIED["add"]],
    }


def test_a_summary_is_bounded() -> None:
    many = [{**DENIED, "host": f"h{n}"} for n in range(1000)]
    assert len(export.summary({}, many)["denials"]) == export.LINES_MAX


def test_a_reason_of_a_newer_outpass_is_shown_as_its_code() -> None:
    assert "later_reason" in export.sentence({**DENIED, "reason": "later_reason"})
