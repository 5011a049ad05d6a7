"""The slow way through a decision: excuses, deny rules, address floors, and everything that a denial tells.

Lives here: Judge, which decide() asks when the quick way found something in the way; it judges by the same grants, in the
order that decide.py gives. May not live here: the words (nearest.py, suggest.py, explain.py), finding rules (match.py).
"""

from __future__ import annotations

from typing import Final, NamedTuple

from outpass.model import Capability, Decision, EgressRequest, Miss, RuleRef, Verdict
from outpass.policy import addresses, names, nearest, suggest
from outpass.policy.compiled import Compiled
from outpass.policy.match import Entry, Index, within
from outpass.policy.readings import readings
from outpass.reasons import Reason

DIALLED: Final = frozenset({Capability.HTTP.value, Capability.FETCH.value, Capability.SOCKET.value})
_FLOORS: Final[dict[addresses.Kind, Reason]] = {
    addresses.Kind.PRIVATE: Reason.ADDRESS_PRIVATE,
    addresses.Kind.LOOPBACK: Reason.ADDRESS_LOOPBACK,
    addresses.Kind.METADATA: Reason.ADDRESS_METADATA,
    addresses.Kind.RESERVED: Reason.ADDRESS_RESERVED,
}
_MISSED: Final = frozenset({Reason.NO_RULE, Reason.NO_CAPABILITY, Reason.UNATTRIBUTED, Reason.OUTSIDE_CEILING, *_FLOORS.values()})
_ADDABLE: Final = frozenset({Reason.NO_RULE, Reason.NO_CAPABILITY, Reason.UNATTRIBUTED, Reason.EXPIRED, Reason.ADDRESS_PRIVATE})


class Lack(NamedTuple):
    """One principal that does not hold the right, and why."""

    at: int
    """Index into the charged chain."""
    reason: Reason
    rule: RuleRef | None


def charged(
    c: Compiled, chain: tuple[str, ...], versions: tuple[str | None, ...]
) -> tuple[tuple[str, ...], tuple[str | None, ...]]:
    """The chain without transparent packages; an empty one is code that nobody can name."""
    padded = (*versions, *(None for _ in range(len(chain) - len(versions))))
    kept = [(n, v) for n, v in zip(chain, padded, strict=False) if n not in c.transparent]
    if not kept:
        return (names.UNKNOWN,), (None,)
    return tuple(n for n, _ in kept), tuple(v for _, v in kept)


def refuse(c: Compiled, request: EgressRequest, reason: Reason) -> Decision:
    """A refusal that no policy could lift."""
    chain, versions = charged(c, request.chain, request.versions)
    return Decision(Verdict.DENY, reason, request, chain[0], versions[0], None, None, None, c.digest)


def beyond(c: Compiled, r: EgressRequest, path: str | None, now: float) -> RuleRef | None:
    """The first ceiling that does not cover the request."""
    for ceiling, lists in c.ceilings:
        index = lists.get(r.capability)
        if index is None or index.find(r.scheme, r.host, r.port, r.method, path, now) is None:
            return ceiling.ref
    return None


class Judge:
    """The slow way, for one request: what was excused, denied, or is to be explained."""

    def __init__(
        self,
        c: Compiled,
        request: EgressRequest,
        chain: tuple[str, ...],
        versions: tuple[str | None, ...],
        path: str | None,
        now: float,
    ) -> None:
        self.c = c
        self.request = request
        self.chain = chain
        self.versions = versions
        self.path = path
        self.now = now
        self.excused: frozenset[int] = frozenset()

    def verdict(self, first: Entry | None, lacking: list[int]) -> Decision:
        """The answer, given the nearest's grant and the places in the chain that hold none."""
        lacks = self._lacks(lacking)
        if lacks:
            return self._refused(lacks)
        stopped = self._outside() or self._floored(hard_only=False)
        if stopped is not None:
            return stopped
        name, version, intercept = self.chain[0], self.versions[0], not self._opaque()
        rule = first.ref if first is not None else None
        return Decision(Verdict.ALLOW, Reason.ALLOWED, self.request, name, version, rule, None, None, self.c.digest, intercept)

    def _lacks(self, lacking: list[int]) -> list[Lack]:
        """Every principal in the way, nearest first: those without the right, less those excused, and those denied."""
        self.excused = frozenset(at for at in lacking if self._excused(at))
        found = [self._why(at) for at in lacking if at not in self.excused]
        if self.request.capability in self.c.denying:
            denied = [
                Lack(at, Reason.DENIED_BY_RULE, ref) for at in range(len(self.chain)) if (ref := self._denied(at)) is not None
            ]
            found = [*denied, *(lack for lack in found if lack.at not in {d.at for d in denied})]
        return sorted(found, key=lambda lack: lack.at)

    def _excused(self, at: int) -> bool:
        """Whether a nearer principal that holds the right names this one in `via:` of a rule that covers the request."""
        name = self.chain[at]
        return any(
            entry.rule is not None and name in entry.rule.via
            for nearer in range(at)
            if self._counts(nearer)
            for entry in self._entries(nearer)
        )

    def _counts(self, at: int) -> bool:
        return at == 0 or self.chain[at] != names.APP

    def _entries(self, at: int) -> list[Entry]:
        """Every live grant of a principal, its own and those of `*`, that covers the request."""
        r, found = self.request, []
        own = self.c.grants.get(self.chain[at])
        for grants in (own, self.c.star):
            if grants is None or not grants.fits(self.versions[at] if grants is own else None):
                continue
            held = grants.lists.get(r.capability)
            matching = held.matching(r.scheme, r.host, r.port, r.method, self.path) if held is not None else ()
            found += [e for e in matching if e.expires is None or self.now < e.expires]
        return found

    def _why(self, at: int) -> Lack:
        """Why a principal does not hold the right."""
        name, r = self.chain[at], self.request
        if name == names.UNKNOWN or name.startswith("!"):
            return Lack(at, Reason.UNPROVEN, None)
        own = self.c.grants.get(name)
        held = own.lists.get(r.capability) if own is not None else None
        if own is not None and held is not None and not own.fits(self.versions[at]):
            return Lack(at, Reason.VERSION_OUT_OF_RANGE, own.package.ref._replace(text=f"versions: {own.package.versions}"))
        star = self.c.star.lists.get(r.capability) if self.c.star is not None else None
        for index in (held, star):
            if isinstance(index, Index):
                for entry in index.matching(r.scheme, r.host, r.port, r.method, self.path):
                    return Lack(at, Reason.EXPIRED, entry.ref)
        if name == names.UNATTRIBUTED:
            return Lack(at, Reason.UNATTRIBUTED, None)
        return Lack(at, Reason.NO_RULE if held is not None or star is not None else Reason.NO_CAPABILITY, None)

    def _denied(self, at: int) -> RuleRef | None:
        """The deny rule of a principal, or of `*`, that covers the request or an address that it would dial."""
        if not self._counts(at):
            return None
        r = self.request
        hosts = [r.host, *(str(addresses.classify(a)[1]) for a in r.addresses or ())]
        for grants in (self.c.grants.get(self.chain[at]), self.c.star):
            index = grants.deny.get(r.capability) if grants is not None else None
            for host in hosts if index is not None else ():
                entry = _denying(index, r, host, self.path) if index is not None else None
                if entry is not None:
                    return entry.ref
        return None

    def _audit(self, at: int) -> bool:
        grants = self.c.grants.get(self.chain[at])
        return grants.audit if grants is not None else self.c.audit

    def _refused(self, lacks: list[Lack]) -> Decision:
        """Denied, or let through for the record when every principal in the way is in audit mode and no floor is touched."""
        told = next((lack for lack in lacks if not self._audit(lack.at)), None)
        if told is not None:
            return self._denial(Verdict.DENY, told.at, told.reason, told.rule, [lack.at for lack in lacks])
        hard = self._outside() or self._floored(hard_only=True)
        if hard is not None:
            return hard
        return self._denial(Verdict.WOULD_DENY, lacks[0].at, lacks[0].reason, lacks[0].rule, [lack.at for lack in lacks])

    def _outside(self) -> Decision | None:
        """The denial when a ceiling does not reach this far; also in audit mode."""
        ceiling = beyond(self.c, self.request, self.path, self.now)
        return None if ceiling is None else self._denial(Verdict.DENY, 0, Reason.OUTSIDE_CEILING, ceiling, [])

    def _floored(self, *, hard_only: bool) -> Decision | None:
        """The denial for the first address that some principal may not dial; `hard_only` leaves out private ones (audit)."""
        r = self.request
        if r.connect_to or r.capability not in DIALLED:
            return None
        literal = addresses.is_literal(r.host)
        if r.addresses is None and not literal:
            return None
        if not r.addresses and r.addresses is not None:
            return refuse(self.c, r, Reason.RESOLVE_FAILED)
        soft: Decision | None = None
        for address in r.addresses or (r.host,):
            kind, counts = addresses.classify(address)
            if kind is addresses.Kind.PUBLIC or (hard_only and kind is addresses.Kind.PRIVATE):
                continue
            named = (literal and addresses.canonical(address) == r.host) or (
                r.host == names.HOST and kind is addresses.Kind.LOOPBACK
            )
            short = [at for at in self._needing() if not any(_opens(e, kind, counts, r.host, named) for e in self._entries(at))]
            if not short:
                continue
            private = kind is addresses.Kind.PRIVATE
            if private and all(self._audit(at) for at in short):
                soft = soft or self._denial(Verdict.WOULD_DENY, short[0], _FLOORS[kind], None, short, address)
                continue
            at = next((a for a in short if not self._audit(a)), short[0])
            return self._denial(Verdict.DENY, at, _FLOORS[kind], None, short, address if private or named else None)
        return soft

    def _needing(self) -> list[int]:
        return [at for at in range(len(self.chain)) if self._counts(at) and at not in self.excused]

    def _opaque(self) -> bool:
        """Whether the tunnel may stay closed: every grant of every principal says so, and nothing looks at its inside."""
        r = self.request
        if r.scheme != "https" or any(e.intercept for at in self._needing() for e in self._entries(at)):
            return False
        indexes = [lists.get(r.capability) for _, lists in self.c.ceilings]
        if any(i is not None and not any(e.whole_host for b in i.buckets(r.host) for e in b.entries) for i in indexes):
            return False
        denials = [g.deny.get(r.capability) for n in self.chain if (g := self.c.grants.get(n)) is not None]
        denials += [self.c.star.deny.get(r.capability)] if self.c.star is not None else []
        return not any(True for i in denials if i is not None for _ in i.buckets(r.host))

    def _denial(
        self, verdict: Verdict, at: int, reason: Reason, rule: RuleRef | None, lacking: list[int], private: str | None = None
    ) -> Decision:
        """A denial with what a person needs: the nearest rule that missed, and the line to add."""
        name, version = self.chain[at], self.versions[at]
        miss: Miss | None = None
        if reason in _MISSED:
            miss = nearest.miss(self.c, self.request, name, version, self.path)
        add = None
        if reason in _ADDABLE:
            add = suggest.lines(self.c, self.request, [self.chain[i] for i in lacking], self.path, private)
        elif reason is Reason.OUTSIDE_CEILING:
            add = suggest.ceiling(self.request, self.path)
        return Decision(verdict, reason, self.request, name, version, rule, miss, add, self.c.digest)


def _denying(index: Index, r: EgressRequest, host: str, path: str | None) -> Entry | None:
    """A deny rule that covers the request. While only the host is known, one that covers the whole host.

    Origins differ in how they read a path, so a deny rule is held against each reading (readings.py).
    """
    held_against = [None] if path is None else readings(path)
    for bucket in index.buckets(host):
        for reading in held_against:
            for e in bucket.near(r.scheme, r.port, reading):
                if e.scheme != r.scheme or not e.low <= r.port <= e.high:
                    continue
                if (e.whole_host) if reading is None else _denies(e, r.method, reading):
                    return e
    return None


def _denies(entry: Entry, method: str | None, path: str) -> bool:
    return (entry.methods is None or method is None or method in entry.methods) and entry.covers_path(path)


def _opens(entry: Entry, kind: addresses.Kind, address: addresses.Address, host: str, named: bool) -> bool:
    """Whether a grant opens a non-public address: by naming it, or, for a private one, by a network that holds it."""
    rule = entry.rule
    if rule is None:
        return False
    if named and rule.host in {host, f"{host}/32", f"{host}/128"}:
        return True
    if kind is not addresses.Kind.PRIVATE:
        return False
    if named and "/" in rule.host:
        return within(rule.host, host)
    return any(within(network, str(address)) for network in rule.private)
