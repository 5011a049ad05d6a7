"""Real DNS queries of a package's own (TXT, SRV, MX, …): asked of the host's resolver, within limits.

Lives here: which types, how much, the resolver, the answer as JSON. May not live here: whether the package may (policy/), the
wire (resolve.py).

A name is a message to whoever runs its zone. A rule that names a host lets nothing through but that name; under a wildcard the
free labels could carry data, so they are short, and few.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from outpass.reasons import Reason

if TYPE_CHECKING:
    import dns.resolver

LIFETIME_S: Final = 5.0
RATE: Final = 10.0
"""Queries a second of one package, over time."""
BURST: Final = 30.0
BYTES_PER_MINUTE: Final = 4_096
"""Characters in the names that one package asks for."""
MAX_FREE_LABEL: Final = 40
"""Characters of one label that a wildcard stands for; RFC 1035 allows 63."""
MAX_FREE: Final = 80
"""Of all such labels of one name."""
MAX_ANSWER: Final = 32_768
_MAX_PACKAGES: Final = 4_096


class _Meter:
    """What one package has left."""

    __slots__ = ("at", "queries", "text")

    def __init__(self, now: float) -> None:
        self.at = now
        self.queries = BURST
        self.text = float(BYTES_PER_MINUTE)


class Limits:
    """Per jail and package. One thread only."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock`: seconds, of any origin, that never go back."""
        self._clock = clock
        self._meters: OrderedDict[tuple[str, str], _Meter] = OrderedDict()

    def over(self, jail: str, package: str, name: str, pattern: str) -> str | None:
        """Why this query is not made, in words; None when it may be, and is counted. `pattern`: of the rule that allows it."""
        free = _free_labels(name, pattern)
        if any(len(label) > MAX_FREE_LABEL for label in free) or sum(map(len, free)) > MAX_FREE:
            return f"under a wildcard a label has at most {MAX_FREE_LABEL} characters, and all of them {MAX_FREE}"
        now = self._clock()
        meter = self._meters.setdefault((jail, package), _Meter(now))
        self._meters.move_to_end((jail, package))
        while len(self._meters) > _MAX_PACKAGES:
            self._meters.popitem(last=False)
        passed, meter.at = now - meter.at, now
        meter.queries = min(BURST, meter.queries + passed * RATE)
        meter.text = min(float(BYTES_PER_MINUTE), meter.text + passed * BYTES_PER_MINUTE / 60)
        if meter.queries < 1:
            return f"a package makes at most {RATE:.0f} queries a second"
        if meter.text < len(name):
            return f"a package's queries hold at most {BYTES_PER_MINUTE} characters a minute"
        meter.queries -= 1
        meter.text -= len(name)
        return None


def _free_labels(name: str, pattern: str) -> list[str]:
    """The labels that a wildcard stands for; all of them for a grant without a list."""
    if pattern == name:
        return []
    fixed = pattern.removeprefix("**.").removeprefix("*.") if pattern.startswith("*") else ""
    return name.removesuffix(f".{fixed}").split(".") if fixed else name.split(".")


def kind(text: Any) -> str | None:
    """A record type in normal form; None for what is none, or means a transfer or several types."""
    if not isinstance(text, str) or len(text) > 16:
        return None
    import dns.exception  # here: few runs ask, and all would wait for the import
    import dns.rdatatype

    try:
        found = dns.rdatatype.from_text(text)
    except (dns.exception.DNSException, ValueError):
        return None
    return None if dns.rdatatype.is_metatype(found) else dns.rdatatype.to_text(found)


def ask(name: str, rtype: str, resolver: dns.resolver.Resolver | None = None) -> dict[str, Any]:
    """The answer to one query, from the host's resolver; blocks for up to LIFETIME_S. Never raises."""
    import dns.exception
    import dns.resolver

    try:
        found = (resolver or dns.resolver.Resolver()).resolve(
            f"{name}.", rtype, search=False, raise_on_no_answer=False, lifetime=LIFETIME_S
        )
    except dns.resolver.NXDOMAIN:
        return {"name": name, "rtype": rtype, "ttl": 0, "absent": True, "answers": []}
    except (dns.exception.DNSException, OSError, ValueError) as error:
        return {"error": Reason.RESOLVE_FAILED.value, "say": f"{name} {rtype}: {type(error).__name__}"}
    rrset = found.rrset
    texts = [] if rrset is None else [item.to_text() for item in rrset]
    if sum(map(len, texts)) > MAX_ANSWER:
        return {"error": Reason.RESOLVE_FAILED.value, "say": f"{name} {rtype}: the answer is too long"}
    canonical = found.canonical_name.to_text(omit_final_dot=True)
    return {"name": canonical, "rtype": rtype, "ttl": 0 if rrset is None else int(rrset.ttl), "absent": False, "answers": texts}
