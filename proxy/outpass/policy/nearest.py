"""The rule that came nearest to covering a denied request, and the one thing by which it did not.

Lives here: what to show a person instead of a bare "no". Runs for denials only, and looks at a bounded number of rules,
because hostile code can ask for denials as fast as it likes. May not live here: anything that changes a verdict.
"""

from __future__ import annotations

from difflib import get_close_matches
from itertools import islice
from typing import Final

from outpass.model import EgressRequest, Miss
from outpass.policy.compiled import Compiled, Grants
from outpass.policy.match import Entry, Index
from outpass.policy.rules import KEYS

_LOOKED_AT: Final = 256
"""Rules looked at for one explanation; a person reads one."""
_COMPARED: Final = 24
"""Hosts whose spelling is compared, at 20 µs each."""


def miss(c: Compiled, request: EgressRequest, name: str, version: str | None, path: str | None) -> Miss | None:
    """The nearest miss among the principal's own rules, then those of `*`; None when there is nothing near."""
    candidates = [g for g in (c.grants.get(name), c.star) if g is not None]
    for grants in candidates:
        held = grants.lists.get(request.capability)
        if isinstance(held, Index):
            found = _same_host(held, request, path) or _wildcard(held, request) or _similar(held, request)
            if found is not None:
                return found
    for grants in candidates:
        other = _other_capability(grants, request, path)
        if other is not None:
            return other
    return None


def _same_host(index: Index, request: EgressRequest, path: str | None) -> Miss | None:
    """A rule for the same host that differs in as little as possible."""
    entries = islice((e for b in index.buckets(request.host) for e in b.entries), _LOOKED_AT)
    best: tuple[int, Entry, str] | None = None
    for entry in entries:
        differs = _differences(entry, request, path)
        if best is None or len(differs) < best[0]:
            best = (len(differs), entry, differs[0] if differs else "it covers the request, but not the address")
    return Miss(best[1].ref, best[2]) if best else None


def _differences(entry: Entry, request: EgressRequest, path: str | None) -> list[str]:
    found = []
    if entry.scheme != request.scheme:
        found.append(f"the request is {request.scheme}, the rule says {entry.scheme}")
    if not entry.low <= request.port <= entry.high:
        ports = f"{entry.low}" if entry.low == entry.high else f"{entry.low}-{entry.high}"
        found.append(f"the request's port is {request.port}, the rule's {ports}")
    if path is not None:
        if entry.methods is not None and request.method not in entry.methods:
            found.append(f"the request's method is {request.method}, the rule's {', '.join(sorted(entry.methods))}")
        if not entry.covers_path(path):
            found.append(f"the request's path is {path}, the rule's {entry.rule.path if entry.rule else ''}")
    return found


def _wildcard(index: Index, request: EgressRequest) -> Miss | None:
    """A wildcard that stops one label short, or is asked for its apex."""
    for pattern in islice(index.wildcards_near(request.host), 4):
        entry = index.bucket_of(pattern).entries[0]
        apex = pattern.partition(".")[2] == request.host
        return Miss(entry.ref, f"{pattern} does not cover {'its own apex' if apex else 'more than one label'}")
    return None


def _similar(index: Index, request: EgressRequest) -> Miss | None:
    """A host that is spelt almost alike: a typing error, or somebody's imitation of it."""
    length = len(request.host)
    hosts = [h for h in islice(index.hosts(), _LOOKED_AT) if h and abs(len(h) - length) <= 2][:_COMPARED]
    close = get_close_matches(request.host, hosts, n=1, cutoff=0.75)
    if not close:
        return None
    return Miss(index.bucket_of(close[0]).entries[0].ref, f"the request's host is {request.host}, the rule's {close[0]}")


def _other_capability(grants: Grants, request: EgressRequest, path: str | None) -> Miss | None:
    """The same destination under another capability, or listed without the capability being allowed."""
    listed = grants.package.lists.get(request.capability)
    if listed is not None and request.capability not in grants.package.allow:
        index = Index(listed[:_LOOKED_AT])
        for entry in index.matching(request.scheme, request.host, request.port, request.method, path):
            return Miss(entry.ref, f"it covers the request, but the package's allow: lacks {request.capability}")
    for capability, held in grants.lists.items():
        if capability != request.capability and isinstance(held, Index):
            for bucket in held.buckets(request.host):
                return Miss(bucket.entries[0].ref, f"it is a {KEYS[capability]} rule; this needs {request.capability}")
    return None
