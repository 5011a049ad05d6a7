"""One audit record for every decision, refusal and fault of the gate, numbered and handed on.

Lives here: ids, times, which kind a thing is. May not live here: the form of a record (audit.record), its sending.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from outpass.audit import record
from outpass.gate.jails import Jail
from outpass.gate.outgoing import encode
from outpass.model import Capability, Decision, Verdict
from outpass.reasons import ENTRIES, Reason

MAX_ALIKE: Final = 512
"""Permissions whose record is kept written out; each is under 4 kB, and mostly 700 bytes."""
_VARYING: Final = b'"id":"","time_ms":0,'


class Sink(Protocol):
    """Where records go (Outgoing)."""

    def record(self, record: Mapping[str, Any], *, now: bool) -> None:
        """Queue one record; `now` for what a person may be waiting to see."""

    def encoded(self, text: bytes) -> None:
        """Queue one record that is JSON already, and that nobody waits for."""


class Recorder:
    """Writes down what happened. Every method returns the id of the record, which the client may be shown."""

    def __init__(self, sink: Sink, clock: Callable[[], float]) -> None:
        """`clock` gives seconds since the epoch."""
        self._sink = sink
        self._clock = clock
        self._prefix = f"g-{secrets.token_hex(5)}-"
        self._count = 0
        self._alike: dict[Any, bytes] = {}
        """The records of permissions from behind their time on, by all that is in them."""

    def decision(
        self,
        jail: Jail,
        decision: Decision,
        *,
        sid: str | None,
        query: str | None,
        status: int | None = None,
        dialled: str | None = None,
        override: bool = False,
        trace: str | None = None,
        kind: record.Kind = "decision",
        moved: tuple[int, int] | None = None,
    ) -> str:
        """The record of a decision; `status` is set when the gate itself answered."""
        trace = trace or self.next_id()
        if decision.verdict is Verdict.ALLOW and kind == "decision" and query is None and moved is None:
            self._allowed(jail, decision, trace, status, sid, dialled, override)
            return trace
        made = record.decision(
            decision,
            kind=kind,
            id=trace,
            time_ms=int(self._clock() * 1000),
            jail=jail.id,
            source="gate",
            status=status,
            sid=sid,
            dialled=dialled,
            override=override,
            query=query,
            moved=moved,
        )
        self._sink.record(made, now=decision.verdict is not Verdict.ALLOW or kind == "fault")
        return trace

    def _allowed(
        self,
        jail: Jail,
        decision: Decision,
        trace: str,
        status: int | None,
        sid: str | None,
        dialled: str | None,
        override: bool,
    ) -> None:
        """The record of a permission. They are many and alike: but for id and time, equal ones are written out once.

        One with a query is not kept: queries hold secrets, and are redacted on the way into the record.
        """
        key = (decision, jail.id, status, sid, dialled, override)
        rest = self._alike.get(key)
        if rest is None:
            made = record.decision(
                decision,
                id="",
                time_ms=0,
                jail=jail.id,
                source="gate",
                status=status,
                sid=sid,
                dialled=dialled,
                override=override,
                query=None,
            )
            rest = encode(made).partition(_VARYING)[2]
            if len(self._alike) >= MAX_ALIKE:
                del self._alike[next(iter(self._alike))]
            self._alike[key] = rest
        time_ms = int(self._clock() * 1000)
        self._sink.encoded(b'{"v":%d,"id":"%s","time_ms":%d,%s' % (record.VERSION, trace.encode(), time_ms, rest))

    def told(self, jail: Jail, decision: Decision, *, sid: str | None, query: str | None) -> None:
        """The record of something noted beside a decision that stands (audit mode)."""
        self.decision(jail, decision, sid=sid, query=query)

    def refusal(
        self,
        jail: Jail,
        reason: Reason,
        *,
        detail: str = "",
        status: int | None = None,
        sid: str | None = None,
        tunnel: tuple[str, int] | None = None,
        method: str | None = None,
        capability: Capability | None = None,
        kind: record.Kind = "refusal",
    ) -> str:
        """The record of something refused before there was a request to decide."""
        trace = self.next_id()
        host, port = tunnel or (None, None)
        made = record.refusal(
            reason,
            kind=kind,
            id=trace,
            time_ms=int(self._clock() * 1000),
            jail=jail.id,
            source="gate",
            status=status or ENTRIES[reason].status,
            sid=sid,
            host=host,
            port=port,
            method=method,
            capability=capability,
            tier=jail.tier,
            detail=detail or None,
            digest=jail.digest or None,
        )
        self._sink.record(made, now=True)
        return trace

    def next_id(self) -> str:
        """A new id, unique over every gate: a random prefix of this process, and a count."""
        self._count += 1
        return f"{self._prefix}{self._count:x}"
