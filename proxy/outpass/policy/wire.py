"""A policy as JSON, as the broker hands it to a gate, and the digest that decisions and records carry.

Lives here: dump, load, digest. May not live here: YAML, validation (what arrives here was valid when it was dumped; what
does not have this shape is refused whole). Rules travel as short strings: a hundred thousand of them load in a third of a
second of CPU and 50 MB.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

from outpass.policy.limits import NONE, Limits, Rate
from outpass.policy.rules import Ceiling, Package, Policy, Rule

FORMAT: Final = "outpass.policy/1"
_PLAIN: Final = Rule("", 0, "", "", 0, 0)
_OPTIONS: Final = ("via", "private", "expires", "intercept", "multi_tenant", "owner", "why", "limits")
_TUPLES: Final = frozenset({"via", "private"})


def dump(policy: Policy) -> dict[str, Any]:
    """A JSON-able mapping with everything in the policy, positions included."""
    files: dict[str, int] = {}
    return {
        "format": FORMAT,
        "mode": policy.mode,
        "transparent": list(policy.transparent),
        "instruments": list(policy.instruments),
        "packages": [
            {
                "name": p.name,
                "at": [files.setdefault(p.file, len(files)), p.line],
                "allow": sorted(p.allow),
                "versions": p.versions,
                "mode": p.mode,
                "limits": p.limits,
                "lists": _lists(p.lists, files),
                "deny": _lists(p.deny, files),
            }
            for p in policy.packages.values()
        ],
        "ceilings": [
            {"at": [files.setdefault(c.file, len(files)), c.line], "lists": _lists(c.lists, files)} for c in policy.ceilings
        ],
        "programs": {name: list(globs) for name, globs in policy.programs.items()},
        "files": list(files),
    }


def _lists(lists: Mapping[str, tuple[Rule, ...]], files: dict[str, int]) -> dict[str, list[str | list[Any]]]:
    return {c: [_row(rule, files) for rule in rules] for c, rules in lists.items()}


def _row(rule: Rule, files: dict[str, int]) -> str | list[Any]:
    """`file line scheme low high host path methods` in one string; what few rules have, in a mapping beside it."""
    number = files.setdefault(rule.file, len(files))
    row = f"{number} {rule.line} {rule.scheme} {rule.low} {rule.high} {rule.host} {rule.path} {','.join(rule.methods)}"
    if rule[8:] == _PLAIN[8:]:
        return row
    return [row, {k: getattr(rule, k) for k in _OPTIONS if getattr(rule, k) != getattr(_PLAIN, k)}]


def load(data: Mapping[str, Any]) -> Policy:
    """The policy that was dumped. Raises ValueError (lower-case message) for anything that has not this shape."""
    if data.get("format") != FORMAT:
        raise ValueError(f"this is not an {FORMAT} document")
    try:
        files: list[str] = data["files"]
        return Policy(
            mode=data["mode"],
            transparent=tuple(data["transparent"]),
            instruments=tuple(data["instruments"]),
            packages={p["name"]: _package(p, files) for p in data["packages"]},
            ceilings=tuple(Ceiling(files[c["at"][0]], c["at"][1], _rules(c["lists"], files)) for c in data["ceilings"]),
            programs={name: tuple(globs) for name, globs in data.get("programs", {}).items()},
        )
    except (KeyError, IndexError, TypeError, ValueError) as problem:
        raise ValueError(f"the policy document is damaged: {problem!r}") from None


def _package(data: Mapping[str, Any], files: list[str]) -> Package:
    return Package(
        name=data["name"],
        file=files[data["at"][0]],
        line=data["at"][1],
        allow=frozenset(data["allow"]),
        lists=_rules(data["lists"], files),
        deny=_rules(data["deny"], files),
        versions=data["versions"],
        mode=data["mode"],
        limits=_limits(data.get("limits", NONE)),
    )


def _limits(data: Any) -> Limits:
    return Limits(*(None if rate is None else Rate(int(rate[0]), float(rate[1])) for rate in data))


def _rules(lists: Mapping[str, list[str | list[Any]]], files: list[str]) -> dict[str, tuple[Rule, ...]]:
    return {c: tuple([_rule(row, files) for row in rows]) for c, rows in lists.items()}


def _rule(row: str | list[Any], files: list[str]) -> Rule:
    plain, options = (row, None) if isinstance(row, str) else row
    file, line, scheme, low, high, host, path, methods = plain.split(" ")
    first, last = int(low), int(high)
    path, verbs = _SHARED.get(path, path), (_METHODS.get(methods) or tuple(methods.split(","))) if methods else ()
    if options is None:
        return Rule(files[int(file)], int(line), _SHARED[scheme], host, first, last, path, verbs)
    said: dict[str, Any] = {k: tuple(v) if k in _TUPLES else v for k, v in options.items()}
    if "limits" in said:
        said["limits"] = _limits(said["limits"])
    return Rule(files[int(file)], int(line), _SHARED[scheme], host, first, last, path, verbs, **said)


_SHARED: Final = {text: text for text in ("http", "https", "tcp", "udp", "dns", "listen", "/**", "/v1/**")}
_METHODS: Final[dict[str, tuple[str, ...]]] = {
    text: tuple(text.split(",")) for text in ("GET", "POST", "GET,HEAD", "HEAD,GET", "GET,POST", "POST,GET")
}
"""Values that a hundred thousand rules share: made once, they are a tenth of the memory."""


def digest(policy: Policy) -> str:
    """SHA-256 (hex, first 16) over what the policy grants; where it was written, by whom and why do not change it."""
    hashed = hashlib.sha256()
    hashed.update(json.dumps([policy.mode, sorted(policy.transparent), sorted(policy.instruments)]).encode())
    for name in sorted(policy.packages):
        package = policy.packages[name]
        hashed.update(json.dumps([name, sorted(package.allow), package.versions, package.mode]).encode())
        if package.limits != NONE:
            hashed.update(f"limits {package.limits.text}".encode())
        _hash_lists(hashed, package.lists)
        _hash_lists(hashed, package.deny)
    if policy.programs:
        hashed.update(json.dumps(["programs", sorted((n, sorted(g)) for n, g in policy.programs.items())]).encode())
    for ceiling in policy.ceilings:
        hashed.update(b"ceiling")
        _hash_lists(hashed, ceiling.lists)
    return hashed.hexdigest()[:16]


def _hash_lists(hashed: hashlib._Hash, lists: Mapping[str, tuple[Rule, ...]]) -> None:
    hashed.update(b"{")
    for capability in sorted(lists):
        rows = sorted(repr(rule.granted) for rule in lists[capability])
        hashed.update(f"{capability} {len(rows)}\n".encode())
        hashed.update("\n".join(rows).encode())
    hashed.update(b"}")
