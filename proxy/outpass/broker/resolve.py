"""`resolve`: the shim looks a name up for a chain, and gets an address that stands for both; or makes a real query (`rtype`).

Lives here: what a resolve message means, decided. May not live here: the wire (switchboard.py), the table of addresses
(synthetic.py), the resolver (queries.py), yes or no (policy/).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

from outpass.broker import hello, queries, synthetic
from outpass.broker.chain import complete, recorded, refused, told
from outpass.broker.claims import Claims, Ends
from outpass.broker.hello import Connected, Lookup, Refused
from outpass.broker.jails import Jail
from outpass.broker.session import Origin, Session
from outpass.model import Capability, Decision, EgressRequest, Verdict
from outpass.policy import addresses, names
from outpass.policy.decide import decide
from outpass.policy.reach import reachable
from outpass.reasons import ENTRIES, Reason

Reply = Callable[[bytes], None]
Later = Callable[[Reply], None]
"""Called with where the reply goes once there is one; that is called once, from any thread."""
Tell = Callable[[Jail, synthetic.Entry, tuple[str, ...], Callable[[bool], None]], None]
"""Tells the gate of an address (and of dropped ones); the callback hears whether it knows it now. From any thread."""

MAX_PENDING: Final = 64
"""Real queries that are under way for one jail."""


class Lookups:
    """Answers resolve messages. One thread only: the switchboard's."""

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        ticks: Callable[[], float],
        take: Callable[[dict[str, Any]], bool],
        tell: Tell,
        background: Callable[[Callable[[], None]], None],
        claims: Claims,
    ) -> None:
        """`clock`: seconds since the epoch; `ticks`: seconds that never go back; `background` runs work in another thread."""
        self._claims = claims
        self._clock = clock
        self._take = take
        self._tell = tell
        self._background = background
        self._limits = queries.Limits(ticks)
        self._pending: dict[str, int] = {}

    def answer(self, session: Session, message: dict[str, Any]) -> bytes | Later:
        """The reply, or how to get it. Raises Refused."""
        ask = hello.read_lookup(message)
        links = complete(session, ask.chain)
        return self._query(session, ask, links) if ask.rtype else self._address(session, ask, links)

    def connected(self, session: Session, said: Connected) -> bytes:
        """The session says that a connection is its own. It can only give away its own name by that."""
        self._claims.say(Ends(session.jail.id, said.client, said.server), session.sid)
        return b'{"ok":true}'

    # -- addresses ---------------------------------------------------------------------------------------------------

    def _address(self, session: Session, ask: Lookup, links: Origin) -> bytes | Later:
        """An address when the chain may reach the name in some way. A connection to it is decided by the gate, with its port."""
        chain, versions = tuple(link.name for link in links), tuple(link.version for link in links)
        jail = session.jail
        if not jail.transparent:
            raise Refused(Reason.UNSUPPORTED, "there are addresses to hand out only in a jail with a transparent listener")
        # An address of another session's stands for its name only: who connects by it is charged himself.
        meant = jail.addresses.name_of(ask.name) or ask.name
        wanted = [meant] if addresses.is_literal(meant) else [meant, *(f"{meant}.{domain}" for domain in jail.search)]
        now = self._clock()
        name = next((n for n in wanted if reachable(jail.force.compiled, chain, versions, n, now=now, tier=jail.tier)), None)
        if name is None:
            return self._denied(session, self._denial(session, ask._replace(name=meant), chain, versions))
        key = synthetic.Key(session.sid, tuple((link.name, link.version) for link in links), name)
        try:
            entry, dropped = jail.addresses.give(key)
        except synthetic.Full:
            return refused(Reason.DNS_LIMIT, "every address that may be handed out is in use")
        if entry.told and not dropped:
            return _as_reply(entry, ask)

        def later(reply: Reply) -> None:
            def known(ok: bool) -> None:
                reply(_as_reply(entry, ask) if ok else refused(Reason.BROKER_UNAVAILABLE, "the gate does not answer"))

            self._tell(jail, entry, dropped, known)

        return later

    def _denial(self, session: Session, ask: Lookup, chain: tuple[str, ...], versions: tuple[str | None, ...]) -> Decision:
        """The denial in the terms of what the caller is after: HTTP, a socket, or, where no port is known, a look-up."""
        capability, scheme, port = Capability.SOCKET, "tcp", ask.port
        if ask.port in names.DEFAULT_PORTS.values():
            capability, scheme = Capability.HTTP, "https" if ask.port == names.DEFAULT_PORTS["https"] else "http"
        elif not ask.port:
            capability, scheme, port = Capability.DNS, "dns", 53
        request = EgressRequest(capability.value, chain, versions, scheme, ask.name, port, tier=session.jail.tier)
        decision = decide(session.jail.force.compiled, request, now=self._clock())
        return decision if not decision.allowed else decision._replace(verdict=Verdict.DENY, reason=Reason.NO_RULE)

    # -- real queries ------------------------------------------------------------------------------------------------

    def _query(self, session: Session, ask: Lookup, links: Origin) -> bytes | Later:
        chain, versions = tuple(link.name for link in links), tuple(link.version for link in links)
        jail = session.jail
        request = EgressRequest(Capability.DNS.value, chain, versions, "dns", ask.name, 53, method=ask.rtype, tier=jail.tier)
        decision = decide(jail.force.compiled, request, now=self._clock())
        if not decision.allowed:
            return self._denied(session, decision)
        pattern = decision.rule.text if decision.rule is not None else ""
        over = self._limits.over(jail.id, chain[0], ask.name, pattern)
        if over is None and self._pending.get(jail.id, 0) >= MAX_PENDING:
            over = f"a jail has at most {MAX_PENDING} queries under way"
        if over is not None:
            limited = decision._replace(verdict=Verdict.DENY, reason=Reason.DNS_LIMIT)
            self._record(session, limited)
            return refused(Reason.DNS_LIMIT, over)
        if not self._record(session, decision):
            return refused(Reason.AUDIT_UNAVAILABLE, ENTRIES[Reason.AUDIT_UNAVAILABLE].sentence)
        self._pending[jail.id] = self._pending.get(jail.id, 0) + 1

        def later(reply: Reply) -> None:
            def work() -> None:
                reply(json.dumps(queries.ask(ask.name, ask.rtype)).encode())

            self._background(work)

        return later

    def finished(self, session: Session, data: bytes) -> None:
        """A reply came that was waited for; in the switchboard's thread."""
        if b'"rtype"' in data:
            left = self._pending.get(session.jail.id, 1) - 1
            if left > 0:
                self._pending[session.jail.id] = left
            else:
                self._pending.pop(session.jail.id, None)

    # -- records -----------------------------------------------------------------------------------------------------

    def _denied(self, session: Session, decision: Decision) -> bytes:
        if not self._record(session, decision):
            return refused(Reason.AUDIT_UNAVAILABLE, ENTRIES[Reason.AUDIT_UNAVAILABLE].sentence)
        return refused(decision.reason, told(decision))

    def _record(self, session: Session, decision: Decision) -> bool:
        return self._take(recorded(decision, jail=session.jail.id, sid=session.sid, now=self._clock()))


def _as_reply(entry: synthetic.Entry, ask: Lookup) -> bytes:
    """With the name that the address stands for, where that is not the one that was asked for."""
    told = {"address": entry.address} | ({} if entry.key.name == ask.name else {"name": entry.key.name})
    return json.dumps(told).encode()
