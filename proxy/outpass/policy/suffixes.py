"""Which wildcard is too wide, by the public suffix list: `*.co.uk` is everybody, `*.github.io` is anybody.

Lives here: the one question asked of the list. May not live here: host grammar (pattern.py), the list itself (it comes with
the publicsuffixlist library, dated by its version, and is read once).
"""

from __future__ import annotations

from enum import Enum, auto
from functools import lru_cache
from typing import Final

from publicsuffixlist import PublicSuffixList

# RFC 6761, 6762, 8375, 9476 and ICANN's .internal, with the names that private networks use: not on the list, and not public.
_PRIVATE_TLDS: Final = frozenset(
    (
        "internal",
        "local",
        "localdomain",
        "localhost",
        "test",
        "example",
        "invalid",
        "home",
        "lan",
        "corp",
        "intranet",
        "private",
        "alt",
    )
)


class Width(Enum):
    """How much a wildcard `*.base` or `**.base` covers."""

    OWN = auto()
    """Names below one registrable domain, or below a private top-level name."""
    UNKNOWN_TLD = auto()
    """The base is one label that the list does not know: perhaps internal, perhaps a new public top-level domain."""
    MULTI_TENANT = auto()
    """Names of different owners, handed out by one provider (the list's private section)."""
    PUBLIC = auto()
    """Names that anybody can register."""


@lru_cache(maxsize=1)
def _lists() -> tuple[PublicSuffixList, PublicSuffixList, frozenset[str]]:
    everything = PublicSuffixList(accept_unknown=False)
    registries = PublicSuffixList(accept_unknown=False, only_icann=True)
    # NOTE: the library has no public way to walk its entries; without them `**.amazonaws.com` would pass as one owner's.
    entries = everything._publicsuffix - registries._publicsuffix
    parents = {parent for entry in entries for parent in _parents(entry.lstrip("!").removeprefix("*."))}
    return everything, registries, frozenset(parents)


def _parents(name: str) -> list[str]:
    labels = name.split(".")
    return [".".join(labels[i:]) for i in range(1, len(labels))]


def width(pattern: str) -> Width:
    """How wide a host pattern in normal form is; a pattern without wildcard is always OWN."""
    stars, _, base = pattern.partition(".")
    if stars not in {"*", "**"}:
        return Width.OWN
    everything, registries, parents = _lists()
    if registries.publicsuffix(base) == base or registries.publicsuffix(f"x.{base}") == f"x.{base}":
        return Width.PUBLIC
    if everything.publicsuffix(base) == base or everything.publicsuffix(f"x.{base}") == f"x.{base}":
        return Width.MULTI_TENANT
    if stars == "**" and base in parents:
        return Width.MULTI_TENANT
    if "." not in base and base not in _PRIVATE_TLDS:
        return Width.UNKNOWN_TLD
    return Width.OWN
