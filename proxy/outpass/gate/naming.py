"""What a jail's look-ups are answered with: an address that stands for a name somebody in the jail may reach, or a refusal.

Lives here: the decision about one query, and its record. May not live here: bytes and sockets (nameserver.py), rights (policy/),
giving addresses out (the broker). Nothing is ever asked of a resolver here: a name that is looked up leaves the host only when
a connection to it was allowed.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address
from typing import Final, NamedTuple

from outpass.gate.book import synthetic
from outpass.gate.jails import Jail
from outpass.gate.questions import Questions, Unanswered
from outpass.gate.recorder import Recorder
from outpass.model import Capability, Decision, EgressRequest, Verdict
from outpass.policy import addresses, names
from outpass.reasons import Reason

_REVERSE: Final = ".in-addr.arpa"
_EMPTY: Final = frozenset({"AAAA", "HTTPS", "SVCB"})
"""Types that are answered with no data: there is IPv4 only, and no other port or protocol."""


class Query(NamedTuple):
    """One question; `name` as text, not yet in normal form."""

    name: str
    kind: str
    """`A`, `PTR`, …"""


class Answer(NamedTuple):
    """What is answered. With a reason: refused. Else the address or the name, or neither: no data."""

    reason: Reason | None = None
    address: str | None = None
    name: str | None = None
    absent: bool = False
    """There is no such name: an address of ours that stands for none, or, with a reason, one on the way of a search list."""


class Naming:
    """Decides about queries."""

    def __init__(self, recorder: Recorder, questions: Questions, unavailable: Callable[[], Reason | None]) -> None:
        self._recorder = recorder
        self._questions = questions
        self._unavailable = unavailable

    async def answer(self, jail: Jail, query: Query) -> Answer:
        """The answer to one query of a jail, recorded."""
        if (reason := self._unavailable()) is not None:
            return self._refused(jail, reason, query)
        try:
            name = names.host(query.name)
        except ValueError:
            return self._refused(jail, Reason.BAD_HOST, query)
        if addresses.is_literal(name):
            return self._refused(jail, Reason.BAD_HOST, query)
        if query.kind == "PTR":
            return self._reverse(jail, name, query)
        if query.kind != "A" and query.kind not in _EMPTY:
            return self._refused(jail, Reason.DNS_TYPE, query, name)
        decision = self._decision(jail, name, jail.reach(name))
        self._recorder.decision(jail, decision, sid=None, query=None)
        if not decision.allowed:
            return Answer(decision.reason, absent=decision.reason is Reason.DNS_SEARCH)
        if query.kind in _EMPTY:
            return Answer()
        try:
            said = await self._questions.ask({"op": "name", "jail": jail.id, "name": name})
        except Unanswered as error:
            return self._refused(jail, Reason.BROKER_UNAVAILABLE, query, name, str(error))
        address = str(said.get("address"))
        line = jail.book.line(address)
        if line is None or line.name != name:
            return self._refused(jail, Reason.INTERNAL, query, name, "the broker's address is not in the book")
        return Answer(address=address)

    def _reverse(self, jail: Jail, name: str, query: Query) -> Answer:
        parts = name.removesuffix(_REVERSE).split(".")
        if not name.endswith(_REVERSE) or len(parts) != 4 or not all(p.isascii() and p.isdecimal() for p in parts):
            return self._refused(jail, Reason.DNS_TYPE, query, name)
        try:
            address = str(IPv4Address(".".join(reversed(parts))))
        except ValueError:
            return self._refused(jail, Reason.BAD_HOST, query, name)
        if not synthetic(address):
            return self._refused(jail, Reason.DNS_TYPE, query, name)
        line = jail.book.line(address)
        allowed = Decision(Verdict.ALLOW, Reason.ALLOWED, _request(jail, name), names.UNATTRIBUTED, None, None, None, None, "")
        self._recorder.decision(jail, allowed, sid=None, query=None)
        if line is None or addresses.is_literal(line.name):
            return Answer(absent=True)
        return Answer(name=line.name)

    @staticmethod
    def _decision(jail: Jail, name: str, found: Decision | None) -> Decision:
        """As it is recorded: the query is the jail's, whoever in it made it; the rule is the one that lets somebody go there."""
        request = _request(jail, name)
        if found is not None:
            return found._replace(request=request, principal=names.UNATTRIBUTED, version=None)
        denied = jail.decide(request)
        # A right to look the name up would help nobody: what is missing is a right to go there, and whose is not known here.
        reason: Reason = denied.reason if denied.reason is Reason.DENIED_BY_RULE else Reason.NO_RULE
        if any(name.endswith(f".{domain}") for domain in jail.search):
            # A refusal would end the search: glibc and c-ares go on to the next name only after "there is no such name".
            reason = Reason.DNS_SEARCH
        return denied._replace(verdict=Verdict.DENY, reason=reason, miss=None, add=None)

    def _refused(self, jail: Jail, reason: Reason, query: Query, name: str | None = None, detail: str = "") -> Answer:
        where = (query.name[:255] if name is None else name, 53)
        said = f"{query.kind} query" + (f"; {detail}" if detail else "")
        self._recorder.refusal(jail, reason, tunnel=where, capability=Capability.DNS, detail=said)
        return Answer(reason)


def _request(jail: Jail, name: str) -> EgressRequest:
    return EgressRequest(Capability.DNS.value, (names.UNATTRIBUTED,), (None,), "dns", name, 53, tier=jail.tier)
