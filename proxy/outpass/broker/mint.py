"""Passes and checks for a session: what a message means, decided once, answered many times.

Lives here: completing a chain (versions, origin, names that cannot be proven), the look ahead at the policy, the pass, the
record of a check. May not live here: the wire (switchboard.py), who gets a session (session.py), yes or no (policy/).

The hot path is `answer`. A shim's request for the same thing is the same bytes, so the bytes are the key of a cache: a
hit costs a serial, a signature and no parsing. The gate decides each request again with its method, path and addresses,
so a cached look ahead can be stale (`expires:`) without letting anything through.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from outpass.broker import hello
from outpass.broker.chain import complete, recorded, refused, told, told_of_the_gate
from outpass.broker.hello import Ask, Refused
from outpass.broker.resolve import Later, Lookups
from outpass.broker.session import Origin, Session
from outpass.errors import PassError
from outpass.model import Capability, Decision, EgressRequest, Verdict
from outpass.passes import token
from outpass.passes.token import Pass
from outpass.policy import names, ways
from outpass.policy.decide import decide
from outpass.policy.reach import connectable
from outpass.reasons import ENTRIES, Reason

MAX_PLAN: Final = 2_048
"""Bytes of a message whose answer is kept; a longer one (a very long chain, or padding) is worked out each time."""
MAX_PLANS: Final = 2_048
"""Different requests of one session that are answered from the cache."""
_TUNNELLED: Final = frozenset({"connect", "channel"})
"""Uses of a pass whose connection a socket rule can carry too."""
SPAWN_LIFE_S: Final = 366 * 86_400
"""A spawn pass ends with its jail (the broker forgets it) or its session; this only has to be longer than any child."""


class Signer(NamedTuple):
    """A key, and its name in a pass's header."""

    kid: str
    key: bytes


class Plan(NamedTuple):
    """One kind of request of one session, decided: all of its passes but serial and times."""

    template: Pass
    key: bytes
    life_s: int
    tail: bytes
    """The reply after the pass."""


class Minter:
    """Answers mint and check for any session. One thread only: it owns the serial, which only ever rises."""

    def __init__(
        self, iss: str, once: Signer, spawn: Signer, *, clock: Callable[[], float], take: Callable[[dict[str, Any]], bool]
    ) -> None:
        """`once` signs what is good once, `spawn` spawn passes. `clock`: seconds since the epoch. `take` keeps an audit record,
        False when it cannot."""
        self._iss = iss
        self._once = once
        self._spawn = spawn
        self._clock = clock
        self._take = take
        self._serial = 0
        self.audit_failing = False
        self.lookups: Lookups | None = None

    def answer(self, session: Session, data: bytes) -> bytes | Later:
        """The reply to one mint, check or resolve message, or how to get it. Raises Refused."""
        force = session.jail.force
        if session.plans_for is not force:  # a reload: nothing decided under the old policy stays
            session.plans.clear()
            session.plans_for = force
        plan = session.plans.get(data)
        if plan is None:
            message = hello.read(data)
            op = message.get("op")
            if op == "check":
                return self._check(session, hello.read_check(message))
            if op == "connected" and self.lookups is not None:
                return self.lookups.connected(session, hello.read_connected(message))
            if op == "resolve" and self.lookups is not None:
                if self.audit_failing:
                    return refused(Reason.AUDIT_UNAVAILABLE, ENTRIES[Reason.AUDIT_UNAVAILABLE].sentence)
                return self.lookups.answer(session, message)
            if op != "mint":
                raise Refused(Reason.PROTOCOL_UNKNOWN, "this operation is not known")
            plan = self._plan(session, hello.read_mint(message))
            if len(data) <= MAX_PLAN:
                if len(session.plans) >= MAX_PLANS:
                    session.plans.clear()
                session.plans[data] = plan
        self._serial += 1
        session.minted += 1
        now = int(self._clock())
        template = plan.template
        try:
            text = token.mint(template._replace(serial=self._serial, iat=now, exp=now + plan.life_s), plan.key)
        except (PassError, ValueError) as e:
            raise Refused(Reason.INTERNAL, f"no pass can be written for this: {e}") from None
        return b'{"pass":"' + text.encode() + plan.tail

    def _plan(self, session: Session, ask: Ask) -> Plan:
        links = complete(session, ask.chain)
        decision = None if ask.use == "spawn" else self._decide(session, ask, links, _scheme(ask))
        if decision is not None and ask.use in _TUNNELLED and ask.cap != Capability.SOCKET.value:
            socket = ask._replace(cap=Capability.SOCKET.value)
            raw = self._decide(session, socket, links, _scheme(socket))
            if ways.raw_wins(decision, raw):
                ask, decision = socket, raw
        deny = None if decision is None or decision.allowed else decision.reason
        looked_into = decision is None or (decision.intercept and ask.cap != Capability.SOCKET.value)
        tunnel = "http" if looked_into else "opaque"
        signer = self._spawn if ask.use == "spawn" else self._once
        template = Pass(
            jail=session.jail.id,
            sub=names.purl(*links[0]),
            chain=tuple(link.name for link in links),
            versions=tuple(link.version for link in links),
            sid=session.sid,
            use=ask.use,
            cap=ask.cap,
            host=ask.host,
            port=ask.port,
            serial=0,
            iat=0,
            exp=0,
            tunnel=tunnel,
            deny=deny,
            iss=self._iss,
            kid=signer.kid,
        )
        tail = {"tunnel": tunnel} | ({} if deny is None else {"deny": deny.value})
        life = SPAWN_LIFE_S if ask.use == "spawn" else token.LIFE_S
        return Plan(template, signer.key, life, b'",' + json.dumps(tail, separators=(",", ":")).encode()[1:])

    def _decide(self, session: Session, ask: Ask, links: Origin, scheme: str) -> Decision:
        """A check whole; a mint at its host stage: no method, no path, no addresses, which the gate has.

        A check for a literal address is the last word on it, so the address is judged as well.
        """
        literal = not ask.use and scheme != "listen" and _is_address(ask.host)
        request = EgressRequest(
            capability=ask.cap,
            chain=tuple(link.name for link in links),
            versions=tuple(link.version for link in links),
            scheme=scheme,
            host=ask.host,
            port=ask.port,
            addresses=(ask.host,) if literal else None,
            tier=session.jail.tier,
        )
        return decide(session.jail.force.compiled, request, now=self._clock())

    def _check(self, session: Session, ask: Ask) -> bytes:
        """Sockets, DNS and listening pass no gate: the broker decides, records, and the shim obeys.

        In a jail a connection does pass the gate (`gate`), which decides again and records: what is allowed here is not, and
        what an HTTP rule allows at that port is allowed too, because the gate will look into it.
        """
        if ask.cap == Capability.LISTEN.value and _out_of_reach(session, ask.port):
            return b'{"allow":true}'
        links = complete(session, ask.chain)
        decision = self._decide(session, ask, links, hello.CHECKED[ask.cap])
        if decision.verdict is not Verdict.ALLOW and not session.jail.transparent:
            if ask.cap == Capability.DNS.value and self._implied(session, ask.host, links):
                return b'{"allow":true}'
            if ask.name:
                decision = self._by_name(session, ask, links)
        if ask.gate and session.jail.transparent:
            web = ask._replace(cap=Capability.HTTP.value)
            tls, plain = (self._decide(session, web, links, scheme) for scheme in ("https", "http"))
            if decision.allowed or tls.allowed or plain.allowed:
                seen = ways.of_connection(tls, plain, decision, ask.port) is ways.Way.HTTP
                return b'{"allow":true,"tunnel":"http"}' if seen else b'{"allow":true,"tunnel":"opaque"}'
            # Whoever goes to a web port wants a line for HTTP.
            decision = {names.DEFAULT_PORTS["https"]: tls, names.DEFAULT_PORTS["http"]: plain}.get(ask.port, decision)
        written = recorded(decision, jail=session.jail.id, sid=session.sid, now=self._clock())
        if not self._take(written) or self.audit_failing:
            return refused(Reason.AUDIT_UNAVAILABLE, ENTRIES[Reason.AUDIT_UNAVAILABLE].sentence)
        if decision.allowed:
            return b'{"allow":true}'
        return refused(decision.reason, told_of_the_gate(decision) if self._has_http(session, ask, links) else told(decision))

    def _implied(self, session: Session, host: str, links: Origin) -> bool:
        """Whether a socket rule names what is looked up. In a jail there is no such look-up: an address stands for the name."""
        chain, versions = tuple(link.name for link in links), tuple(link.version for link in links)
        return connectable(session.jail.force.compiled, chain, versions, host, now=self._clock(), tier=session.jail.tier)

    def _by_name(self, session: Session, ask: Ask, links: Origin) -> Decision:
        """A connection to an address that the program got for a name: rules name hosts. The address is judged with it."""
        request = EgressRequest(
            capability=ask.cap,
            chain=tuple(link.name for link in links),
            versions=tuple(link.version for link in links),
            scheme="tcp",
            host=ask.name,
            port=ask.port,
            addresses=(ask.host,),
            tier=session.jail.tier,
        )
        return decide(session.jail.force.compiled, request, now=self._clock())

    def _has_http(self, session: Session, ask: Ask, links: Origin) -> bool:
        """Whether somebody who is refused a raw connection, or the look-up before it, may use HTTP there."""
        if session.jail.transparent or ask.cap == Capability.LISTEN.value:
            return False
        ports = names.DEFAULT_PORTS if ask.cap == Capability.DNS.value else dict.fromkeys(names.DEFAULT_PORTS, ask.port)
        web = ask._replace(cap=Capability.HTTP.value)
        return any(self._decide(session, web._replace(port=port), links, scheme).allowed for scheme, port in ports.items())


def _out_of_reach(session: Session, port: int) -> bool:
    """Whether nobody outside can reach a port of this jail: then listening on it is the jail's own affair."""
    jail = session.jail
    return jail.kind == "jail" and (jail.published is None or port not in jail.published.inside)


def _scheme(ask: Ask) -> str:
    if ask.cap == "network:socket":
        return "tcp"
    return "https" if ask.tls else "http"


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
