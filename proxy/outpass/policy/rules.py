"""A policy as a value: what was written, parsed, united, and ready to be compiled or sent to a gate.

Lives here: Rule, Package, Ceiling, Policy; all immutable, all with the place they were written at. May not live here:
parsing (schema.py), matching (match.py), JSON (wire.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from outpass.model import Capability, RuleRef
from outpass.policy.limits import NONE, Limits

LISTS: Final[dict[str, str]] = {c.value.removeprefix("network:"): c.value for c in Capability}
"""Key of a destination list → the capability whose second check it is."""
KEYS: Final[dict[str, str]] = {capability: key for key, capability in LISTS.items()}
ENFORCE: Final = "enforce"
AUDIT: Final = "audit"
_ANYWHERE: Final = "any public destination"


class Rule(NamedTuple):
    """One line of a destination list. A NamedTuple: a gate makes a hundred thousand of them from JSON in one go."""

    file: str
    """As the user named it."""
    line: int
    """1-based."""
    scheme: str
    host: str
    """Canonical host, `*.x`, `**.x`, a network in CIDR form, or "" (listen on any address)."""
    low: int
    high: int
    """Ports from low to high, both included."""
    path: str = ""
    """Normal path glob; "" for what has no path."""
    methods: tuple[str, ...] = ()
    """Empty: any."""
    via: tuple[str, ...] = ()
    private: tuple[str, ...] = ()
    """Private networks, CIDR, that the name may resolve to."""
    expires: float | None = None
    """Unix time from which on the rule grants nothing."""
    intercept: bool = True
    multi_tenant: bool = False
    owner: str = ""
    why: str = ""
    limits: Limits = NONE

    @property
    def granted(self) -> tuple[object, ...]:
        """What it grants, without where, by whom and why: what the digest and the identity of its limits are made of."""
        plain = self[2:12]
        return plain if self.limits == NONE else (*plain, self.limits)

    @property
    def text(self) -> str:
        """The rule as a person would write it in a list, in one line."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        ports = f"{self.low}" if self.low == self.high else f"{self.low}-{self.high}"
        if self.scheme in {"http", "https"}:
            suffix = "" if self.low == {"http": 80, "https": 443}[self.scheme] else f":{ports}"
            methods = ",".join(self.methods) + " " if self.methods else ""
            return f"{methods}{self.scheme}://{host}{suffix}{self.path}"
        if self.scheme == "dns":
            return self.host
        prefix = "udp://" if self.scheme == "udp" else ""
        return f"{prefix}{host}:{ports}" if host else ports

    @property
    def ref(self) -> RuleRef:
        """The rule as a decision names it."""
        return RuleRef(self.file, self.line, self.text)


@dataclass(frozen=True, slots=True)
class Package:
    """What one principal may do, over all files."""

    name: str
    file: str
    line: int
    allow: frozenset[str] = frozenset()
    """Capabilities."""
    lists: Mapping[str, tuple[Rule, ...]] = field(default_factory=dict)
    """Capability → destinations; a capability that is missing here has no list: any public destination."""
    deny: Mapping[str, tuple[Rule, ...]] = field(default_factory=dict)
    """Capability → destinations that no rule opens."""
    versions: str = ""
    """PEP 440 specifiers outside which nothing is granted; empty: any version."""
    mode: str = ""
    """`enforce`, `audit`, or empty: the policy's."""
    limits: Limits = NONE
    """On everything that it is charged with."""

    @property
    def ref(self) -> RuleRef:
        """The package's entry, for a grant that has no list and so no rule."""
        return RuleRef(self.file, self.line, f"{self.name}: {_ANYWHERE}")


@dataclass(frozen=True, slots=True)
class Ceiling:
    """What the whole process may reach, whoever asks; a capability that is missing here reaches nothing."""

    file: str
    line: int
    lists: Mapping[str, tuple[Rule, ...]] = field(default_factory=dict)

    @property
    def ref(self) -> RuleRef:
        """The ceiling as a decision names it."""
        return RuleRef(self.file, self.line, "ceiling")


@dataclass(frozen=True, slots=True)
class Policy:
    """Everything in force. Two policies that grant the same have the same digest (wire.digest), wherever they were written."""

    mode: str = ENFORCE
    transparent: tuple[str, ...] = ()
    instruments: tuple[str, ...] = ()
    packages: Mapping[str, Package] = field(default_factory=dict)
    ceilings: tuple[Ceiling, ...] = ()
    """All of them must let a request through."""
    programs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """NAME of `exe:NAME` → globs of the files that it stands for (programs.py)."""


def listed(ref: RuleRef | None) -> bool:
    """Whether a decision's rule is one that names its destination, not a grant without a list."""
    return ref is not None and not ref.text.endswith(_ANYWHERE)
