"""decide(): the only function in outpass that says yes or no to a request.

Lives here: the quick way through the checks, for a request that nothing stands in the way of. May not live here: the slow way
(judge.py), finding rules (match.py), words (explain.py), any I/O, any clock but the argument. What is checked, in this order:

 1. the request itself: capability and scheme agree, the host is in normal form, the path can be judged
 2. the chain: transparent packages are skipped; nothing left is `?`; `app` counts only when nothing stands before it
 3. every principal that is left holds the right (its own or that of `*`), or stands in `via:` of a nearer one's rule
 4. no deny rule of any of them, or of `*`, covers the request or an address that it would dial
 5. every ceiling covers it
 6. every address is public, or a rule of every principal opens it

What fails in 3, 4 or for a private address is let through in audit mode, as would_deny; nothing else ever is. Whatever is
not known, and every exception, is a denial.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from outpass.model import Capability, Decision, EgressRequest, Verdict
from outpass.policy import addresses, names
from outpass.policy.compiled import Compiled, compile_policy
from outpass.policy.judge import DIALLED, Judge, beyond, charged, refuse
from outpass.policy.match import Entry
from outpass.reasons import Reason

__all__ = ["Compiled", "compile", "decide"]

compile = compile_policy  # noqa: A001  # the contract's word for it; nothing here compiles Python

_SCHEMES: Final[dict[str, frozenset[str]]] = {
    Capability.HTTP.value: frozenset({"http", "https"}),
    Capability.FETCH.value: frozenset({"http", "https"}),
    Capability.SOCKET.value: frozenset({"tcp", "udp"}),
    Capability.DNS.value: frozenset({"dns"}),
    Capability.LISTEN.value: frozenset({"listen"}),
}
_BAD, _NAME, _LITERAL = range(3)


def decide(compiled: Compiled, request: EgressRequest, *, now: float) -> Decision:
    """The answer to one request under one policy at `now` (Unix time). Never raises: what cannot be judged is denied."""
    try:
        return _decide(compiled, request, now)
    except Exception:
        # Fail closed: a bug here must cost a request, never open a door.
        principal = request.chain[0] if request.chain else names.UNKNOWN
        return Decision(Verdict.DENY, Reason.INTERNAL, request, principal, None, None, None, None, compiled.digest)


def _decide(c: Compiled, request: EgressRequest, now: float) -> Decision:
    capability, chain, versions, scheme, host, _, _, path, resolved, connect_to, _ = request
    kind = _host_kind(host)
    if path is not None:
        try:
            path = names.path(path)
        except ValueError:
            return refuse(c, request, Reason.BAD_TARGET)
    if kind == _BAD:
        return refuse(c, request, Reason.BAD_HOST)
    if scheme not in _SCHEMES.get(capability, ()):
        return refuse(c, request, Reason.BAD_TARGET if capability in _SCHEMES else Reason.NO_CAPABILITY)
    if not chain or len(versions) != len(chain) or not c.transparent.isdisjoint(chain):
        chain, versions = charged(c, chain, versions)
    first, lacking, opaque = _held(c, request, chain, versions, path, now)
    if (
        not lacking
        and not opaque
        and capability not in c.denying
        and (not c.ceilings or beyond(c, request, path, now) is None)
        and (connect_to or _public(capability, kind, resolved))
        and first is not None
    ):
        return Decision(Verdict.ALLOW, Reason.ALLOWED, request, chain[0], versions[0], first.ref, None, None, c.digest)
    return Judge(c, request, chain, versions, path, now).verdict(first, lacking)


def _held(
    c: Compiled, request: EgressRequest, chain: tuple[str, ...], versions: tuple[str | None, ...], path: str | None, now: float
) -> tuple[Entry | None, list[int], bool]:
    """The nearest's grant, the places in the chain that hold none, and whether every grant found asks for a closed tunnel."""
    capability, _, _, scheme, host, port, method, *_ = request
    star = c.star.lists.get(capability) if c.star is not None else None
    first: Entry | None = None
    lacking: list[int] = []
    opaque = True
    at = -1
    for name in chain:
        at += 1
        if at and name == "app":
            continue
        grants = c.grants.get(name)
        held = grants.lists.get(capability) if grants is not None and grants.fits(versions[at]) else None
        entry = held.find(scheme, host, port, method, path, now) if held is not None else None
        if entry is None and star is not None:
            entry = star.find(scheme, host, port, method, path, now)
        if entry is None:
            lacking.append(at)
            continue
        opaque = opaque and not entry.intercept
        if first is None:
            first = entry
    return first, lacking, opaque


def _public(capability: str, kind: int, resolved: tuple[str, ...] | None) -> bool:
    """Whether nothing but public addresses would be dialled, as far as they are known yet."""
    if capability not in DIALLED:
        return True
    if resolved is None:
        return kind != _LITERAL
    for address in resolved:
        if addresses.classify(address)[0] is not addresses.Kind.PUBLIC:
            return False
    return bool(resolved)


@lru_cache(maxsize=8192)
def _host_kind(host: str) -> int:
    """Whether a host is in normal form, and a name or an address. A caller that does not normalise must not pass a deny rule."""
    if host == "":
        return _BAD
    try:
        if names.host(host) != host:
            return _BAD
    except ValueError:
        return _BAD
    return _LITERAL if addresses.is_literal(host) else _NAME
