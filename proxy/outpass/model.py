"""The nouns of outpass: who asks, for what, and what was decided. All immutable values.

Lives here: EgressRequest, Decision and the small enums they need. May not live here: rules about them (policy/), clocks,
files, the engine's types. Everything that judges (gate, broker, explain, test, replay) speaks in these.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from outpass.reasons import Reason


class Capability(StrEnum):
    """What a package may do at all; the second check, where, is the destination list of the same name."""

    HTTP = "network:http"
    FETCH = "network:fetch"
    SOCKET = "network:socket"
    DNS = "network:dns"
    LISTEN = "network:listen"


class Verdict(StrEnum):
    """`would_deny` = audit mode let a request through that the policy denies."""

    ALLOW = "allow"
    DENY = "deny"
    WOULD_DENY = "would_deny"


class Tier(StrEnum):
    """Who vouches for a record (README, first screen): the kernel jail, the broker, or only the shim."""

    ENFORCED = "enforced"
    ATTESTED = "attested"
    ATTRIBUTED = "attributed"


class EgressRequest(NamedTuple):
    """One thing that some code wants to do on the network, in normal form (policy.names made it so).

    A NamedTuple, not a dataclass: it is the key of the decision cache and is made once per request on the hot path.
    """

    capability: str
    """A `Capability` value."""
    chain: tuple[str, ...]
    """Principals, nearest first, normal form: `stripe`, `app`, `?`, `!stripe`, `exe:git`, `unattributed`."""
    versions: tuple[str | None, ...]
    """Installed version per chain entry; None where there is none or it is not known."""
    scheme: str
    """`http`, `https`, `tcp`, `udp`, `dns`, `listen`."""
    host: str
    """Canonical host: lower-case A-labels without trailing dot, or a canonical IP literal without brackets."""
    port: int
    method: str | None = None
    """None while only the host is known (CONNECT, and the broker's look ahead)."""
    path: str | None = None
    """Raw path without query, starting with `/`; None as above."""
    addresses: tuple[str, ...] | None = None
    """What the name resolved to, canonical; None = not resolved yet, so not judged yet."""
    connect_to: bool = False
    """True when the operator's own `--connect-to` named the address: the address floors do not apply to it."""
    tier: str = Tier.ATTRIBUTED.value


class RuleRef(NamedTuple):
    """A rule as a person finds it again: file (as named by the user), 1-based line, and its text in one line."""

    file: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class Miss(NamedTuple):
    """The rule that came nearest to covering the request, and the one thing by which it did not."""

    rule: RuleRef
    why: str


class Decision(NamedTuple):
    """The answer to one EgressRequest under one policy. Every caller of `decide` gets exactly this."""

    verdict: Verdict
    reason: Reason
    request: EgressRequest
    principal: str
    """The chain entry that lacked the right (deny), else the nearest: the one reported and charged."""
    version: str | None
    rule: RuleRef | None
    """The rule of the nearest that allowed it, or the deny/ceiling/expired rule that refused it."""
    miss: Miss | None
    add: str | None
    """The policy line(s) that would allow it, as YAML a person can paste; None where no line would."""
    digest: str
    """SHA-256 (hex, first 16) of the policy in force."""
    intercept: bool = True
    """False: an opaque tunnel, as the rule that covers it asks."""

    @property
    def allowed(self) -> bool:
        """True when the request goes through (also in audit mode)."""
        return self.verdict is not Verdict.DENY
