"""How much a rule or a package may do: requests a second, bytes out and in; and which limits hold for one request.

Lives here: what `limits:` says, as a value, and `holding`. May not live here: counting (passes/quota.py), clocks, what is done
about a request beyond a limit (gate/). decide() does not know limits: whether something is allowed does not depend on how much
of it there was.

A limit counts where it is written: one of a rule for everything that the rule covers, one of a package for everything that it
is charged with, one of `"*"` for any code together. All of them hold, over the whole chain, as rights do: else a package that
has used up its share would go on through another.
"""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, NamedTuple

from outpass.model import Capability, EgressRequest, RuleRef

if TYPE_CHECKING:
    from outpass.policy.compiled import Compiled, Grants
    from outpass.policy.match import Entry
    from outpass.policy.rules import Rule


class Rate(NamedTuple):
    """At most `amount` (requests, or bytes) in any window of `seconds`."""

    amount: int
    seconds: float


class Limits(NamedTuple):
    """What `limits:` says. None: not limited."""

    rps: Rate | None = None
    bytes_out: Rate | None = None
    bytes_in: Rate | None = None

    @property
    def text(self) -> str:
        """As a person would write it: `rps: 20, bytes_out: 2MiB/min`."""
        said = [f"rps: {_number(self.rps)}"] if self.rps else []
        said += [f"{n}: {_size(r)}" for n, r in (("bytes_out", self.bytes_out), ("bytes_in", self.bytes_in)) if r]
        return ", ".join(said)


class Held(NamedTuple):
    """The limits of one rule or package that hold for a request."""

    owner: str
    """The principal whose rule or entry it is."""
    limits: Limits
    identity: bytes
    """The same for the same rule in every gate and after a reload, wherever it is written then; 8 bytes."""
    ref: RuleRef
    audit: bool
    """Going beyond it is only recorded."""


NONE: Final = Limits()
_LIMITED: Final = frozenset({Capability.HTTP.value, Capability.FETCH.value, Capability.SOCKET.value})
_SIZES: Final = {"B": 1, "kB": 1000, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30,
                 "TiB": 1 << 40}  # fmt: skip
_TIMES: Final = {"s": 1.0, "min": 60.0, "h": 3600.0, "day": 86400.0}
_BYTES: Final = re.compile(r"([0-9]{1,15}) ?([A-Za-z]{1,3})/([a-z]{1,3})")
_MOST: Final = 1 << 50
_SLOWEST: Final = 1 / 86400


def rps(value: float) -> Rate:
    """`20` is 20 in any second, `0.1` is one in any ten. Raises ValueError with what would be right."""
    if not _SLOWEST <= value <= 1_000_000:
        raise ValueError(f"rps: {value} is not between one a day and 1000000")
    if value < 1:
        return Rate(1, 1 / value)
    if value != int(value):
        raise ValueError(f"rps: {value} is neither a whole number nor below 1")
    return Rate(int(value), 1.0)


def size(text: str) -> Rate:
    """`2MiB/min`. Raises ValueError with what would be right."""
    found = _BYTES.fullmatch(text)
    if found is None or found[2] not in _SIZES or found[3] not in _TIMES:
        raise ValueError(f"{text!r} is not a number of bytes in a time: units are {', '.join(_SIZES)}, and /{', /'.join(_TIMES)}")
    amount = int(found[1]) * _SIZES[found[2]]
    if not 0 < amount <= _MOST:
        raise ValueError(f"{text!r} is not between 1B and 1024TiB")
    return Rate(amount, _TIMES[found[3]])


def holding(c: Compiled, request: EgressRequest, now: float) -> tuple[Held, ...]:
    """The limits that hold for a request that was allowed, those of the nearest first; nothing twice."""
    if not c.limited or request.capability not in _LIMITED:
        return ()
    found: dict[bytes, Held] = {}
    for at, name in enumerate(request.chain):
        if name in c.transparent or (at and name == "app"):
            continue
        own = c.grants.get(name)
        version = request.versions[at] if at < len(request.versions) else None
        entries = _entries(own, version, request, now)
        holder = own
        if not entries:
            entries, holder = _entries(c.star, None, request, now), c.star
        for entry in entries:
            if holder is not None and entry.rule is not None and entry.rule.limits != NONE:
                audit = own.audit if own is not None else c.audit
                _note(
                    found, Held(holder.package.name, entry.rule.limits, _of_rule(holder, entry.rule, request), entry.ref, audit)
                )
        if own is not None and own.package.limits != NONE:
            _note(found, _of_package(own, own.audit))
    if c.star is not None and c.star.package.limits != NONE:
        _note(found, _of_package(c.star, c.audit))
    return tuple(found.values())


def _entries(grants: Grants | None, version: str | None, r: EgressRequest, now: float) -> list[Entry]:
    """Every live rule of one principal that covers the request; not only the first: a limit holds for all that it covers."""
    if grants is None or not grants.fits(version):
        return []
    held = grants.lists.get(r.capability)
    if held is None:
        return []
    matching = held.matching(r.scheme, r.host, r.port, r.method, r.path)
    return [e for e in matching if e.expires is None or now < e.expires]


def _note(found: dict[bytes, Held], held: Held) -> None:
    """Keep it once; where two principals share it, audit mode of one does not lift it for the other."""
    before = found.get(held.identity)
    found[held.identity] = held if before is None else before._replace(audit=before.audit and held.audit)


def _of_rule(grants: Grants, rule: Rule, r: EgressRequest) -> bytes:
    return _identity(grants.package.name, r.capability, rule.granted)


def _of_package(grants: Grants, audit: bool) -> Held:
    package = grants.package
    ref = package.ref._replace(text=f"{package.name}: limits: {{{package.limits.text}}}")
    return Held(package.name, package.limits, _identity(package.name, "", package.limits), ref, audit)


@lru_cache(maxsize=4096)
def _identity(owner: str, capability: str, what: tuple[object, ...]) -> bytes:
    return blake2b(repr((owner, capability, what)).encode(), digest_size=8).digest()


def _number(rate: Rate) -> str:
    return str(rate.amount) if rate.seconds == 1.0 else f"{1 / rate.seconds:g}"


def _size(rate: Rate) -> str:
    unit = next((u for u, n in reversed(_SIZES.items()) if rate.amount % n == 0 and rate.amount >= n), "B")
    time = next(t for t, s in _TIMES.items() if s == rate.seconds)
    return f"{rate.amount // _SIZES[unit]}{unit}/{time}"
