"""Holds what was allowed to the limits of the policy: before it goes out, and byte by byte while it does.

Lives here: which limits one request or tunnel is measured by, taking from them, what is said when one is used up. May not live
here: which limits there are (policy/limits.py), how they are counted (passes/quota.py), cutting a body off (engine/stream.py,
relay.py). Everything but `Budgets.admit` may be called from any thread.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple

from outpass.gate.jails import Jail
from outpass.model import Decision, Verdict
from outpass.passes.quota import Quota
from outpass.policy.limits import Held, Rate
from outpass.reasons import Reason


class Measure(NamedTuple):
    """One number of one limit, as it is counted."""

    key: int
    rate: Rate
    held: Held
    reason: Reason


class OverLimit(Exception):
    """A limit is used up; `decision` is the denial that says which, `retry_s` whole seconds until there may be room."""

    def __init__(self, decision: Decision, retry_s: int) -> None:
        super().__init__(decision.reason)
        self.decision = decision
        self.retry_s = retry_s


class Meter:
    """What one request or tunnel may still carry. Ask before passing bytes on; pass on what is granted; less is the end."""

    __slots__ = ("_back", "_decision", "_noted", "_out", "_quota", "_would", "over")

    def __init__(
        self, quota: Clocked, decision: Decision, out: list[Measure], back: list[Measure], would: Callable[[Decision], None]
    ) -> None:
        self._quota, self._decision, self._out, self._back, self._would = quota, decision, out, back, would
        self._noted = False
        self.over: OverLimit | None = None
        """Set when fewer bytes were granted than were asked for."""

    def out(self, count: int) -> int:
        """How many of `count` bytes may go to the origin."""
        return self._take(self._out, count)

    def back(self, count: int) -> int:
        """How many of `count` bytes may go to the client."""
        return self._take(self._back, count)

    @property
    def reason(self) -> Reason:
        """Why fewer bytes were granted than were asked for."""
        return Reason.INTERNAL if self.over is None else self.over.decision.reason

    def _take(self, measures: list[Measure], count: int) -> int:
        granted = count
        for m in measures:
            got = self._quota.take(m, granted)
            if got == granted:
                continue
            if m.held.audit:
                if not self._noted:
                    self._noted = True
                    self._would(beyond(self._decision, m))
                continue
            granted = got
            self.over = OverLimit(beyond(self._decision, m), self._quota.retry_s(m))
        return granted


class Clocked:
    """The quota with its clock."""

    def __init__(self, quota: Quota, clock_ns: Callable[[], int]) -> None:
        """`clock_ns` never runs backwards and is the same in every gate (CLOCK_MONOTONIC)."""
        self._quota = quota
        self._clock_ns = clock_ns

    def take(self, m: Measure, amount: int, *, whole: bool = False) -> int:
        """As Quota.take, now."""
        return self._quota.take(m.key, m.rate, amount, self._clock_ns(), whole=whole)

    def retry_s(self, m: Measure, amount: int = 1) -> int:
        """Whole seconds until `amount` may be had, rounded up; 0: now."""
        return math.ceil(self._quota.wait(m.key, m.rate, amount, self._clock_ns()))


class Budgets:
    """Judges allowed requests by their limits. One per gate."""

    def __init__(self, quota: Quota, clock_ns: Callable[[], int]) -> None:
        self._quota = Clocked(quota, clock_ns)

    def admit(self, jail: Jail, decision: Decision, head: int, would: Callable[[Decision], None]) -> Meter | None:
        """Count one request whose head is `head` bytes; the meter for its bytes, None where none are limited.

        `would(decision)` is told of a limit that is passed in audit mode; it may be called from any thread. Raises OverLimit;
        then nothing was counted against a limit in requests.
        """
        holding = jail.holding(decision.request)
        if not holding:
            return None
        requests, out, back = _measures(jail.id, holding)
        for m, amount in (*((m, 1) for m in requests), *((m, max(head, 1)) for m in out), *((m, 1) for m in back)):
            wait_s = self._quota.retry_s(m, amount)
            if wait_s and not m.held.audit:
                raise OverLimit(beyond(decision, m), max(wait_s, 1))
        for m in (*requests, *out):
            amount = 1 if m.reason is Reason.LIMIT_RPS else head
            if self._quota.take(m, amount, whole=True) != amount:
                if not m.held.audit:
                    raise OverLimit(beyond(decision, m), max(self._quota.retry_s(m, amount), 1))
                would(beyond(decision, m))
        return Meter(self._quota, decision, out, back, would) if out or back else None


def beyond(decision: Decision, m: Measure) -> Decision:
    """The denial (in audit mode: the note) that an allowed request became when it ran into a limit."""
    verdict = Verdict.WOULD_DENY if m.held.audit else Verdict.DENY
    return decision._replace(verdict=verdict, reason=m.reason, principal=_charged(decision, m), rule=m.held.ref)


def _charged(decision: Decision, m: Measure) -> str:
    return m.held.owner if m.held.owner in decision.request.chain else decision.principal


@lru_cache(maxsize=4096)
def _measures(jail: str, holding: tuple[Held, ...]) -> tuple[list[Measure], list[Measure], list[Measure]]:
    """What is counted in requests, in bytes out, in bytes in."""
    found: dict[Reason, list[Measure]] = {Reason.LIMIT_RPS: [], Reason.LIMIT_BYTES_OUT: [], Reason.LIMIT_BYTES_IN: []}
    for held in holding:
        for reason, rate in zip(found, held.limits, strict=True):
            if rate is not None:
                name = f"{jail}\0{reason.value}\0".encode() + held.identity
                key = int.from_bytes(blake2b(name, digest_size=8).digest(), "little") or 1
                found[reason].append(Measure(key, rate, held, reason))
    return found[Reason.LIMIT_RPS], found[Reason.LIMIT_BYTES_OUT], found[Reason.LIMIT_BYTES_IN]
