"""What becomes of a record: kept, counted, summed up, told."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client import generate_latest

from outpass.audit import record
from outpass.broker.ears import MAX_DENIALS, About, Ears, Metrics, Record, Summary
from outpass.reasons import Reason


def a_record(**changes: Any) -> Record:
    made = record.refusal(Reason.NO_RULE, id="r", time_ms=1, jail="j", source="gate", status=403, sid="s")
    plain = {"kind": "decision", "principal": "stripe", "version": "11", "capability": "network:http", "host": "h", "port": 443}
    return {**made, **plain, **changes}


class Kept:
    """A store that is a list, of limited room."""

    def __init__(self, room: int = 100) -> None:
        self.records: list[Record] = []
        self.room = room

    def append(self, record: Record) -> bool:
        if len(self.records) >= self.room:
            return False
        self.records.append(record)
        return True


def ears(kept: Kept, summary: Summary | None = None) -> Ears:
    about = About("a \x1b[31mlabel", "audit", {"pid": 7, "exe": "/bin/\u202eevil"}, summary)
    return Ears(kept, lambda jail, sid: about if jail == "j" else About(None, "", None, None))


def test_what_only_the_broker_knows_is_added_and_harmless() -> None:
    kept = Kept()
    assert ears(kept).take(a_record()) is True
    assert kept.records[0]["label"] == "a \\x1b[31mlabel"
    assert kept.records[0]["peer"] == {"pid": 7, "exe": "/bin/\\u202eevil"}


def test_what_is_not_kept_is_said_to_whoever_asked() -> None:
    assert ears(Kept(room=0)).take(a_record()) is False


def test_a_listener_hears_everything_until_it_stops() -> None:
    heard: list[Record] = []
    room = ears(Kept())
    stop = room.listen(heard.append)
    room.take(a_record())
    stop()
    room.take(a_record())
    assert len(heard) == 1


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (a_record(verdict="allow"), (1, 1, 0, 0, 0)),
        (a_record(verdict="deny"), (1, 0, 1, 0, 0)),
        (a_record(verdict="would_deny"), (1, 0, 0, 1, 0)),
        (a_record(kind="refusal"), (1, 0, 1, 0, 0)),
        (a_record(kind="fault", verdict="allow"), (0, 0, 0, 0, 1)),
    ],
)
def test_a_summary_counts(record: Record, expected: tuple[int, ...]) -> None:
    summary = Summary()
    summary.count(record)
    told = summary.as_dict()
    assert tuple(told[k] for k in ("decisions", "allowed", "denied", "would_deny", "faults")) == expected


def test_a_summary_tells_each_denial_once_with_the_line_to_add() -> None:
    summary = Summary()
    for n in range(3 * MAX_DENIALS):
        summary.count(a_record(host=f"h{n % (2 * MAX_DENIALS)}", add="the line"))
    told = summary.as_dict()
    assert told["denied"] == 3 * MAX_DENIALS and len(told["denials"]) == MAX_DENIALS
    assert told["denials"][0]["count"] == 2 and told["denials"][0]["add"] == "the line"
    assert told["lines"] == ["the line"]


def test_metrics_have_no_host_and_no_unbounded_label(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("outpass.broker.ears.MAX_PACKAGES", 2)
    metrics = Metrics()
    for principal in ("a", "b", "c", "d", "!x", "!y", None):
        metrics.count(a_record(principal=principal, host="secret.example.com"), "enforce")
    text = generate_latest(metrics.registry).decode()
    packages = sorted(
        line.split('package="')[1].split('"')[0] for line in text.splitlines() if line.startswith("outpass_decisions_total{")
    )
    assert packages == ["!", "a", "b", "other"]
    assert "secret" not in text
