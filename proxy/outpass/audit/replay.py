"""Judges audit records again: the same decide(), under a policy of one's choice, and what comes out differently.

Lives here: from a record back to the question it answers; the comparison. May not live here: reading records (query.py), words
for people (export.py, cli/), any clock: a record is judged at its own time, so that only the policy can make a difference.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from outpass.model import Capability, Decision, EgressRequest, Tier
from outpass.policy import names
from outpass.policy.compiled import Compiled
from outpass.policy.decide import decide
from outpass.policy.reach import Anybody
from outpass.reasons import Reason

_SHORTENED: Final = ("…", "\\")
"""What `record` writes where it left something out or made something harmless: the text that was judged is not there any more."""
_CHAIN_MAX: Final = 65
JUDGED: Final = frozenset(
    (
        Reason.ALLOWED,
        Reason.NO_CAPABILITY,
        Reason.NO_RULE,
        Reason.DENIED_BY_RULE,
        Reason.OUTSIDE_CEILING,
        Reason.UNPROVEN,
        Reason.UNATTRIBUTED,
        Reason.VERSION_OUT_OF_RANGE,
        Reason.EXPIRED,
        Reason.ADDRESS_PRIVATE,
        Reason.ADDRESS_LOOPBACK,
        Reason.ADDRESS_METADATA,
        Reason.ADDRESS_RESERVED,
        Reason.RESOLVE_FAILED,
        Reason.BAD_HOST,
        Reason.BAD_TARGET,
        Reason.INTERNAL,
    )
)
"""The reasons that policy gives. Any other (a limit, an origin) depends on more than policy, and is not judged again."""


class Replayed(NamedTuple):
    """A record that was judged again."""

    record: Mapping[str, Any]
    decision: Decision

    @property
    def differs(self) -> bool:
        """Whether the verdict, or the reason for it, is another one now. Which rule says so is no difference."""
        return (self.decision.verdict.value, self.decision.reason.value) != (self.record["verdict"], self.record["reason"])


def request_of(record: Mapping[str, Any]) -> EgressRequest | None:
    """The question that a record answers; None where policy was not asked, or decided by text that was shortened since."""
    chain = record.get("chain") or []
    if record.get("kind") != "decision" or record.get("reason") not in JUDGED or not chain or len(chain) >= _CHAIN_MAX:
        return None
    texts = (*chain, record["host"] or "", record["path"] or "", record["method"] or "")
    if any(mark in text for text in texts for mark in _SHORTENED):
        return None
    pairs = [_entry(text) for text in chain]
    resolved = record["addresses"]
    return EgressRequest(
        record["capability"],
        tuple(name for name, _ in pairs),
        tuple(version for _, version in pairs),
        record["scheme"],
        record["host"],
        record["port"],
        record["method"],
        record["path"],
        None if resolved is None else tuple(resolved),
        bool(record["override"]),
        record["tier"] or Tier.ATTRIBUTED.value,
    )


def _entry(text: str) -> tuple[str, str | None]:
    """`name@version` of a chain; the `@` of an npm scope is no such mark."""
    name, mark, version = text.rpartition("@")
    return (name, version) if mark and name and not name.endswith("/") else (text, None)


class Replay:
    """One policy, and records that are put to it."""

    def __init__(self, compiled: Compiled) -> None:
        self._compiled = compiled
        self._anybody = Anybody(compiled)

    def judge(self, record: Mapping[str, Any]) -> Replayed | None:
        """The record judged again at its own time; None where it cannot be."""
        request = request_of(record)
        if request is None:
            return None
        now = record["time_ms"] / 1000
        if request.capability == Capability.DNS.value and request.chain == (names.UNATTRIBUTED,):
            # A jail's look-up is allowed where anybody in it may go (gate/naming.py); an address that is looked up is our own.
            if request.host.endswith(".in-addr.arpa"):
                return None
            found = self._anybody.reachable(request.host, now=now, tier=request.tier)
            if found is not None:
                return Replayed(record, found)
        return Replayed(record, decide(self._compiled, request, now=now))
