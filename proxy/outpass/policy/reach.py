"""May this chain, or anybody at all, reach this host in some way? The question that a name look-up asks, before there is a port.
And: may anybody listen there? The question of a published port, before there is a listener.

Lives here: which requests to put to decide() so that the answer is complete. May not live here: yes or no (decide.py).

A look-up knows neither port nor scheme nor path. The ports at which a host may be allowed are those where some rule's range
begins, or where a deny rule's ends: between two of them nothing changes. decide() is asked about each.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from outpass.model import Capability, Decision, EgressRequest, Tier, Verdict
from outpass.policy import names
from outpass.policy.compiled import Compiled
from outpass.policy.decide import decide
from outpass.policy.match import Anywhere, Index
from outpass.reasons import Reason

_DEFAULTS: Final[dict[str, tuple[tuple[str, int], ...]]] = {
    Capability.HTTP.value: (("https", 443), ("http", 80)),
    Capability.FETCH.value: (("https", 443), ("http", 80)),
    Capability.SOCKET.value: (("tcp", 443),),
    Capability.DNS.value: (("dns", 53),),
}
MAX_TRIED: Final = 256
"""Requests that are put to decide() for one capability; a host with more distinct ports than that is reached by a port."""


def reachable(
    c: Compiled, chain: tuple[str, ...], versions: tuple[str | None, ...], host: str, *, now: float, tier: str = Tier.ATTRIBUTED
) -> Decision | None:
    """The first decision that lets this chain reach a canonical `host` in some way; None when there is none.

    No path and no address is known yet: what is reached there is decided again.
    """
    for capability in _DEFAULTS:
        for scheme, port in _tried(c, capability, chain, host):
            decision = decide(c, EgressRequest(capability, chain, versions, scheme, host, port, tier=tier), now=now)
            if decision.allowed:
                return decision
    return None


def connectable(
    c: Compiled, chain: tuple[str, ...], versions: tuple[str | None, ...], host: str, *, now: float, tier: str
) -> bool:
    """Whether a socket rule lets this chain connect to a canonical `host` at some port: such a rule implies the look-up."""
    socket = Capability.SOCKET.value
    return any(
        decide(c, EgressRequest(socket, chain, versions, scheme, host, port, tier=tier), now=now).verdict is Verdict.ALLOW
        for scheme, port in _tried(c, socket, chain, host)
    )


def _tried(c: Compiled, capability: str, chain: tuple[str, ...], host: str) -> list[tuple[str, int]]:
    found = dict.fromkeys(_DEFAULTS[capability])
    for index in _indexes(c, capability, chain):
        for bucket in index.buckets(host):
            for entry in bucket.entries:
                if entry.scheme == "udp":  # not carried
                    continue
                found[entry.scheme, max(entry.low, 1)] = None
                if entry.high < 65535:
                    found[entry.scheme, entry.high + 1] = None
                if len(found) >= MAX_TRIED:
                    return list(found)
    return list(found)


def _indexes(c: Compiled, capability: str, chain: tuple[str, ...]) -> Iterator[Index]:
    for name in dict.fromkeys((*chain, names.ANY)):
        grants = c.grants.get(name)
        if grants is not None:
            held = grants.lists.get(capability)
            if isinstance(held, Index):
                yield held
            if capability in grants.deny:
                yield grants.deny[capability]
    for _, lists in c.ceilings:
        if capability in lists:
            yield lists[capability]


def listening(c: Compiled, address: str, port: int, *, now: float, tier: str = Tier.ATTRIBUTED) -> Decision:
    """The decision for the first principal that may listen on `port` at a canonical `address`.

    If none may: the refusal of one whose rule has expired, else the application's. For a port that is opened before anybody
    listens on it.
    """
    wanted = EgressRequest(Capability.LISTEN.value, (names.APP,), (None,), "listen", address, port, tier=tier)
    first = decide(c, wanted, now=now)
    for name in c.grants if not first.allowed else ():
        decision = decide(c, wanted._replace(chain=(name,), versions=(_fitting(c, name),)), now=now)
        if decision.allowed:
            return decision
        if decision.reason is Reason.EXPIRED:
            first = decision
    return first


class Anybody:
    """The union over every principal of a policy: what code in a jail may reach at most. Made once per policy, on first use."""

    def __init__(self, compiled: Compiled) -> None:
        self._c = compiled
        self._owners: dict[int, list[str]] = {}
        """id() of a rule (the policy keeps it alive) → the principals that have it."""
        self._everywhere: list[str] = []
        rules = []
        for name, grants in compiled.grants.items():
            for capability in _DEFAULTS:
                held = grants.lists.get(capability)
                if isinstance(held, Anywhere):
                    self._everywhere.append(name)
                for rule in grants.package.lists.get(capability, ()) if isinstance(held, Index) else ():
                    self._owners.setdefault(id(rule), []).append(name)
                    rules.append(rule)
        if compiled.audit:
            self._everywhere.append(names.UNATTRIBUTED)
        self._everywhere += [n for n, g in compiled.grants.items() if g.audit]
        self._index = Index(rules)

    def reachable(self, host: str, *, now: float, tier: str = Tier.ATTRIBUTED) -> Decision | None:
        """As `reachable`, for the first principal that may."""
        for name in dict.fromkeys((*self._named(host), *self._everywhere)):
            version = _fitting(self._c, name)
            found = reachable(self._c, (name,), (version,), host, now=now, tier=tier)
            if found is not None:
                return found
        return None

    def _named(self, host: str) -> Iterator[str]:
        for bucket in self._index.buckets(host):
            for entry in bucket.entries:
                yield from self._owners.get(id(entry.rule), ())


def _fitting(c: Compiled, name: str) -> str | None:
    """Some version that holds the principal's rights: which one is installed is not asked here."""
    grants = c.grants.get(name)
    if grants is None or grants.specifier is None:
        return None
    return next((v for v in _candidates(grants.specifier) if grants.specifier.contains(v, prereleases=True)), None)


def _candidates(specifier: SpecifierSet) -> Iterator[str]:
    yield "0"
    for clause in specifier:
        text = clause.version.removesuffix(".*")
        try:
            version = Version(text)
        except InvalidVersion:
            yield text  # ===
            continue
        yield text
        yield f"{version.base_version}.0.1"
        yield ".".join(map(str, (*version.release[:-1], version.release[-1] + 1)))
        yield ".".join(map(str, (*version.release[:-1], max(version.release[-1] - 1, 0))))
    yield "99999"
