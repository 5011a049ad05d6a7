"""Records of permissions that are written out once say what they would say if they were made anew."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from outpass.audit import record
from outpass.gate.jails import Jail
from outpass.gate.outgoing import encode
from outpass.gate.recorder import MAX_ALIKE, Recorder
from outpass.model import Decision, EgressRequest, RuleRef, Verdict
from outpass.reasons import Reason


class Sink:
    """Keeps what it is given, as text."""

    def __init__(self) -> None:
        self.texts: list[bytes] = []

    def record(self, record: Mapping[str, Any], *, now: bool) -> None:
        """A record that was made anew."""
        self.texts.append(encode(record))

    def encoded(self, text: bytes) -> None:
        """One that may not have been."""
        self.texts.append(text)


def _jail(name: str) -> Jail:
    return Jail(name, "attributed", "no-jail", lambda _: None)  # type: ignore[arg-type, return-value]


TEXT = st.text(max_size=6)
REQUESTS = st.builds(
    EgressRequest,
    st.sampled_from(["network:http", "network:fetch"]),
    st.lists(TEXT, min_size=1, max_size=2).map(tuple),
    st.just((None, None)),
    st.just("https"),
    TEXT,
    st.sampled_from([80, 443]),
    st.none() | TEXT,
    st.none() | TEXT,
    st.none() | st.just(("192.0.2.1",)),
    st.booleans(),
)
DECISIONS = st.builds(
    Decision,
    st.sampled_from([Verdict.ALLOW, Verdict.WOULD_DENY, Verdict.DENY]),
    st.sampled_from([Reason.ALLOWED, Reason.NO_RULE]) if hasattr(Reason, "NO_RULE") else st.just(Reason.ALLOWED),
    REQUESTS,
    TEXT,
    st.none() | TEXT,
    st.none() | st.builds(RuleRef, TEXT, st.integers(1, 9), TEXT),
    st.none(),
    st.none() | TEXT,
    TEXT,
    st.booleans(),
)
CALLS = st.tuples(
    DECISIONS,
    st.sampled_from(["j-1", "j-2", 'j-"3']),
    st.sampled_from([None, "s-1", "s-\u202e"]),
    st.sampled_from([None, "a=1", ""]),
    st.sampled_from([None, "192.0.2.1:443"]),
    st.booleans(),
)


@given(st.lists(CALLS, min_size=1, max_size=3))
def test_a_record_that_was_kept_is_the_record_that_would_be_made(calls: list[Any]) -> None:
    """Invariant: whatever is recorded, in whatever order and however often, equals the record of that decision alone."""
    sink, now = Sink(), [1_700_000_000.5]
    recorder = Recorder(sink, lambda: now[0])
    for decision, jail, sid, query, dialled, override in calls * 2:
        now[0] += 0.25
        trace = recorder.decision(_jail(jail), decision, sid=sid, query=query, dialled=dialled, override=override)
        made = record.decision(
            decision,
            id=trace,
            time_ms=int(now[0] * 1000),
            jail=jail,
            source="gate",
            status=None,
            sid=sid,
            dialled=dialled,
            override=override,
            query=query,
        )
        assert sink.texts[-1] == encode(made) and tuple(json.loads(sink.texts[-1])) == record.FIELDS


def _permission(path: str) -> Decision:
    request = EgressRequest("network:http", ("stripe",), (None,), "https", "api.test", 443, "GET", path)
    return Decision(Verdict.ALLOW, Reason.ALLOWED, request, "stripe", None, None, None, None, "d")


def test_what_is_kept_is_bounded_and_holds_no_query() -> None:
    recorder, jail = Recorder(Sink(), lambda: 1.0), _jail("j-1")
    for n in range(MAX_ALIKE + 9):
        recorder.decision(jail, _permission(f"/{n}"), sid=None, query=None)
        recorder.decision(jail, _permission("/q"), sid=None, query=f"token=secret{n}")
    assert len(recorder._alike) == MAX_ALIKE
    assert "secret" not in repr(recorder._alike)
