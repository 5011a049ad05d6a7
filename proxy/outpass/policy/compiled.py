"""A policy made ready for deciding: one index per principal and capability, built once per load or reload.

Lives here: Grants, Compiled, compile. May not live here: the decision itself (decide.py).
"""

from __future__ import annotations

from typing import Final

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from outpass.policy import names, wire
from outpass.policy.limits import NONE
from outpass.policy.match import Anywhere, Index
from outpass.policy.rules import AUDIT, Package, Policy

_REMEMBERED: Final = 256
"""Versions of one package whose fit is remembered; an installation has one, a hostile shim may claim many."""


class Grants:
    """One principal's rights: `lists` by capability, `deny` that no rule opens, and the versions they are for."""

    __slots__ = ("_fits", "audit", "deny", "lists", "package", "specifier")

    def __init__(self, package: Package, mode: str) -> None:
        self.package = package
        self.audit = (package.mode or mode) == AUDIT
        anywhere = Anywhere(package.ref)
        self.lists: dict[str, Index | Anywhere] = {
            c: Index(package.lists[c]) if c in package.lists else anywhere for c in package.allow
        }
        self.deny: dict[str, Index] = {c: Index(rules) for c, rules in package.deny.items() if rules}
        self.specifier = SpecifierSet(package.versions) if package.versions else None
        self._fits: dict[str | None, bool] = {}

    def fits(self, version: str | None) -> bool:
        """Whether rights go to this version; an unknown version fits only where the policy names none."""
        if self.specifier is None:
            return True
        known = self._fits.get(version)
        if known is None:
            if len(self._fits) >= _REMEMBERED:
                self._fits.clear()
            known = self._fits[version] = _in_range(self.specifier, version)
        return known


def _in_range(specifier: SpecifierSet, version: str | None) -> bool:
    if version is None:
        return False
    try:
        return specifier.contains(Version(version), prereleases=True)
    except InvalidVersion:
        return False


class Compiled:
    """What decide() needs; immutable for its users: a reload makes a new one and swaps one reference."""

    __slots__ = (
        "audit",
        "ceilings",
        "denying",
        "digest",
        "grants",
        "instruments",
        "limited",
        "mode",
        "policy",
        "star",
        "transparent",
    )

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.digest = wire.digest(policy)
        self.mode = policy.mode
        self.audit = policy.mode == AUDIT
        self.transparent = frozenset(policy.transparent)
        self.instruments = policy.instruments
        self.grants = {name: Grants(package, policy.mode) for name, package in policy.packages.items()}
        self.star = self.grants.get(names.ANY)
        self.ceilings = tuple((c, {cap: Index(rules) for cap, rules in c.lists.items()}) for c in policy.ceilings)
        self.denying = frozenset(c for grants in self.grants.values() for c in grants.deny)
        """Capabilities with a deny rule anywhere."""
        self.limited = any(
            p.limits != NONE or any(rule.limits != NONE for rules in p.lists.values() for rule in rules)
            for p in policy.packages.values()
        )
        """Whether there is any limit at all."""


def compile_policy(policy: Policy) -> Compiled:
    """Makes a policy ready for deciding: about 1 µs a rule."""
    return Compiled(policy)
