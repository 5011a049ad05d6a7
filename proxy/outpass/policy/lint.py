"""What a valid policy says that its writer may not have meant: the warnings of `outpass check`.

Lives here: one function a warning. May not live here: errors (schema.py), anything that changes a verdict.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from outpass.errors import Fault, Place
from outpass.policy import suffixes
from outpass.policy.match import Entry, Index
from outpass.policy.rules import AUDIT, KEYS, Package, Policy, Rule

SOON: Final = 14 * 86400.0
"""Seconds before its end from which a rule is said to expire soon."""


def warnings(policy: Policy, *, now: float) -> tuple[Fault, ...]:
    """Every warning, by file and line. `now` is Unix time."""
    found: list[Fault] = []
    libraries = [p for name, p in policy.packages.items() if not name.startswith("exe:")]  # programs call none of ours
    if libraries and not policy.transparent:
        first = libraries[0]
        found.append(
            Fault(Place(first.file, 1), "no package is transparent, so HTTP libraries are charged and not their callers",
                  "add include: [preset:http-clients]")
        )  # fmt: skip
    for package in policy.packages.values():
        found += _package(policy, package)
        for rules in package.lists.values():
            found += [fault for rule in rules for fault in _rule(rule, now)]
            found += _shadowed(rules)
    return tuple(sorted(dict.fromkeys(found), key=lambda f: (f.place.file, f.place.line, f.place.column)))


def _at(rule: Rule | Package) -> Place:
    return Place(rule.file, rule.line)


def _package(policy: Policy, package: Package) -> Iterator[Fault]:
    shipped = package.file.startswith("preset:")
    for capability in sorted(package.allow - set(package.lists)):
        yield Fault(
            _at(package),
            f"{package.name} has {capability} and no {KEYS[capability]}: list, so it reaches any public destination",
            f"add {KEYS[capability]}: with the destinations that it needs",
        )
    for capability in sorted(set(package.lists) - package.allow):
        yield Fault(
            _at(package), f"{package.name} has a {KEYS[capability]}: list, but not {capability}, so the list grants nothing",
            f"add allow: [{capability}]",
        )  # fmt: skip
    if package.name in policy.transparent and not shipped:
        yield Fault(_at(package), f"{package.name} is transparent: its callers are charged, so its rules never apply")
    if package.mode == AUDIT and policy.mode != AUDIT:
        yield Fault(_at(package), f"{package.name} is in audit mode: it is let through, and what it does is only recorded")
    if policy.ceilings:
        for capability in sorted(package.allow):
            if any(capability not in ceiling.lists for ceiling in policy.ceilings):
                yield Fault(_at(package), f"{package.name} has {capability}, which the ceiling does not list, so it is denied")


def _rule(rule: Rule, now: float) -> Iterator[Fault]:
    if rule.expires is not None and rule.expires <= now:
        yield Fault(
            _at(rule), f"{rule.text} has expired ({_day(rule.expires)}), so it grants nothing", "renew expires:, or remove it"
        )
    elif rule.expires is not None and rule.expires - now < SOON:
        yield Fault(_at(rule), f"{rule.text} expires soon ({_day(rule.expires)})", "renew expires: in time")
    if rule.scheme == "http" and rule.host not in {"localhost"}:
        yield Fault(
            _at(rule), f"{rule.text} is not encrypted: whoever is on the way reads and changes it", "use https if the host has it"
        )
    if rule.host.startswith("**.") and rule.scheme != "dns":
        yield Fault(
            _at(rule), f"{rule.text} covers every name below {rule.host[3:]}, also ones not made yet", "name the hosts if you can"
        )
    if suffixes.width(rule.host) is suffixes.Width.UNKNOWN_TLD:
        base = rule.host.rpartition(".")[2]
        yield Fault(
            _at(rule), f"{rule.host}: {base!r} is no known top-level name; if it is public, anybody can register below it"
        )
    if rule.multi_tenant:
        yield Fault(_at(rule), f"{rule.text} covers hosts of different owners (multi_tenant)")


def _day(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _shadowed(rules: tuple[Rule, ...]) -> Iterator[Fault]:
    """Rules that say nothing an earlier one of the same list does not say."""
    if len(rules) > 2000:
        return  # quadratic in the rules of one host; lists of that size are generated
    index = Index(rules)
    order = {id(rule): n for n, rule in enumerate(rules)}
    for rule in rules:
        if "/" in rule.host or not rule.host:
            continue
        probe = rule.host.replace("**.", "a.b.", 1).replace("*.", "a.", 1)
        for bucket in index.buckets(probe):
            wider = next(
                (
                    e.rule
                    for e in bucket.entries
                    if e.rule is not None and order.get(id(e.rule), 0) < order[id(rule)] and _wider(e, rule)
                ),
                None,
            )
            if wider is not None:
                yield Fault(_at(rule), f"{rule.text} adds nothing to {wider.text} (line {wider.line})", "remove one of them")
                break


def _wider(entry: Entry, rule: Rule) -> bool:
    """Whether an entry covers all that a rule does and says as much or more besides."""
    other = entry.rule
    if other is None or other.scheme != rule.scheme or not (other.low <= rule.low and rule.high <= other.high):
        return False
    if entry.methods is not None and (not rule.methods or not entry.methods.issuperset(rule.methods)):
        return False
    if not set(rule.via) <= set(other.via) or not set(rule.private) <= set(other.private) or other.intercept != rule.intercept:
        return False
    if other.expires is not None and (rule.expires is None or other.expires < rule.expires):
        return False
    return entry.whole_host or other.path == rule.path or ("*" not in rule.path and entry.covers_path(rule.path))
