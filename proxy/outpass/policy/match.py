"""Finds the rules that cover a destination, at a cost that does not grow with their number.

Lives here: indexes over rules (host → rules, suffix walk for wildcards, prefix walk for paths) and the glob matcher. May
not live here: what a match means (decide.py), parsing (pattern.py). Everything compares components, never URLs as strings.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from ipaddress import ip_address, ip_network
from typing import Final

from outpass.model import RuleRef
from outpass.policy import addresses
from outpass.policy.rules import Rule

_ANY, _PREFIX, _EXACT, _GLOB = range(4)
_SMALL: Final = 8
"""Up to so many rules of one host are looked at one by one (0.1 µs each); above it their paths are indexed."""


class Entry:
    """A rule ready to be compared; also a grant without a list (`rule` is None)."""

    __slots__ = ("_ref", "expires", "high", "intercept", "kind", "low", "methods", "parts", "path", "rule", "scheme")

    def __init__(self, rule: Rule | None, ref: RuleRef | None = None) -> None:
        self.rule = rule
        self._ref = ref
        self.scheme, self.low, self.high = (rule.scheme, rule.low, rule.high) if rule else ("", 0, 65535)
        self.methods = frozenset(rule.methods) if rule and rule.methods else None
        self.expires = rule.expires if rule else None
        self.intercept = rule.intercept if rule else True
        self.path = rule.path if rule else ""
        self.parts: tuple[str, ...] = ()
        if not self.path or self.path == "/**":
            self.kind = _ANY
        elif "*" not in self.path:
            self.kind = _EXACT
        elif "*" not in self.path[:-2] and self.path.endswith("/**"):
            self.kind, self.path = _PREFIX, self.path[:-2]
        else:
            self.kind, self.parts = _GLOB, tuple(self.path.split("/")[1:])

    @property
    def ref(self) -> RuleRef:
        """The rule as a decision names it; made once."""
        if self._ref is None:
            assert self.rule is not None
            self._ref = self.rule.ref
        return self._ref

    @property
    def whole_host(self) -> bool:
        """True when it covers every path and method of its hosts."""
        return self.kind == _ANY and self.methods is None

    def covers_path(self, path: str) -> bool:
        """Whether a normal path matches."""
        if self.kind == _PREFIX:
            return path.startswith(self.path)
        if self.kind == _EXACT:
            return path == self.path
        return self.kind == _ANY or segments(self.parts, path.split("/")[1:])


def segments(glob: tuple[str, ...], path: list[str]) -> bool:
    """A path glob against a path, both in segments. Linear per `**`: only the last one is ever retried, so no blow-up.

    A trailing `**` stands for one segment or more (which may be empty: `/v1/**` covers `/v1/` but not `/v1`); one in the
    middle for none or more.
    """
    if glob[-1] == "**":
        glob = (*glob[:-1], "*?", "**")
    g = p = 0
    star = retry = -1
    while p < len(path):
        if g < len(glob) and glob[g] == "**":
            star, retry, g = g, p, g + 1
        elif g < len(glob) and segment(glob[g], path[p]):
            g, p = g + 1, p + 1
        elif star >= 0:
            retry += 1
            g, p = star + 1, retry
        else:
            return False
    return all(part == "**" for part in glob[g:])


def segment(glob: str, text: str) -> bool:
    """One segment: `*` stands for any run of characters, alone for at least one. Linear, as each literal is found once."""
    if glob == "*?":  # internal: any one segment, also an empty one
        return True
    if "*" not in glob:
        return glob == text
    if glob == "*":
        return text != ""
    head, *middle, tail = glob.split("*")
    if len(text) < len(head) + len(tail) or not text.startswith(head) or not text.endswith(tail):
        return False
    at, end = len(head), len(text) - len(tail)
    for part in middle:
        found = text.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True


class Anywhere:
    """A capability without a list: any destination, as far as rules are concerned (addresses are still judged)."""

    __slots__ = ("entry",)

    def __init__(self, ref: RuleRef) -> None:
        self.entry = Entry(None, ref)

    def find(self, scheme: str, host: str, port: int, method: str | None, path: str | None, now: float) -> Entry:
        """As Index.find."""
        return self.entry

    def matching(self, scheme: str, host: str, port: int, method: str | None, path: str | None) -> Iterator[Entry]:
        """As Index.matching."""
        yield self.entry


class Bucket:
    """All rules of one host pattern."""

    __slots__ = ("entries", "large")

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.entries = [Entry(rule) for rule in rules]
        self.large = Paths(self.entries) if len(self.entries) > _SMALL else None

    def near(self, scheme: str, port: int, path: str | None) -> Iterable[Entry]:
        """Entries that may cover it: all of a small bucket, those on the path's way down in a large one."""
        return self.entries if self.large is None else self.large.near(scheme, port, path)


class Paths:
    """A large bucket's entries by port, then by the literal start of their path."""

    __slots__ = ("_by_port", "_ranges")

    def __init__(self, entries: list[Entry]) -> None:
        self._ranges = [e for e in entries if e.low != e.high]
        self._by_port: dict[tuple[str, int], tuple[dict[str, list[Entry]], list[Entry], int]] = {}
        for entry in entries:
            if entry.low != entry.high:
                continue
            tree, every, depth = self._by_port.get((entry.scheme, entry.low), ({}, [], 0))
            start = _literal_start(entry)
            tree.setdefault(start, []).append(entry)
            every.append(entry)
            self._by_port[entry.scheme, entry.low] = (tree, every, max(depth, start.count("/")))

    def near(self, scheme: str, port: int, path: str | None) -> Iterator[Entry]:
        """Entries whose literal start is the path or a directory above it."""
        yield from self._ranges
        found = self._by_port.get((scheme, port))
        if found is None:
            return
        tree, every, depth = found
        if path is None:
            yield from every
            return
        at = -1
        for _ in range(depth):  # no deeper than any rule, however many slashes a request brings
            at = path.find("/", at + 1)
            if at < 0:
                break
            yield from tree.get(path[: at + 1], ())
        if not path.endswith("/"):
            yield from tree.get(path, ())


def _literal_start(entry: Entry) -> str:
    """The path itself, or the directory above the first wildcard."""
    if entry.kind == _ANY:
        return "/"
    if entry.kind != _GLOB:
        return entry.path
    literal = []
    for part in entry.parts:
        if "*" in part:
            break
        literal.append(part)
    return "/" + "".join(f"{part}/" for part in literal)


class Index:
    """One destination list, by host. Buckets ripen on first use, so that compiling is one dict entry a rule."""

    __slots__ = ("_deep", "_exact", "_nets", "_one")

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._exact: dict[str, Rule | list[Rule] | Bucket] = {}
        self._one: dict[str, Rule | list[Rule] | Bucket] = {}
        self._deep: dict[str, Rule | list[Rule] | Bucket] = {}
        self._nets: dict[tuple[int, int], dict[int, Rule | list[Rule] | Bucket]] = {}
        for rule in rules:
            host = rule.host
            if host[:1] == "*":
                table, key = (self._deep, host[3:]) if host[1] == "*" else (self._one, host[2:])
                _add(table, key, rule)
            elif "/" in host:
                net = ip_network(host)
                _add(self._nets.setdefault((net.version, net.prefixlen), {}), int(net.network_address), rule)
            else:
                _add(self._exact, host, rule)

    def find(self, scheme: str, host: str, port: int, method: str | None, path: str | None, now: float) -> Entry | None:
        """The first live rule that covers it; with path None, that could cover some path and method of that host."""
        # NOTE: the first bucket's loop stands here once more, unrolled from `matching`: generators cost 0.5 µs of the budget.
        bucket = self._exact.get(host)
        if bucket is not None:
            if type(bucket) is not Bucket:
                bucket = _ripe(self._exact, host)
            for entry in bucket.entries if bucket.large is None else bucket.large.near(scheme, port, path):
                if entry.scheme != scheme or port < entry.low or port > entry.high:
                    continue
                if path is not None:
                    if entry.methods is not None and method not in entry.methods:
                        continue
                    if entry.kind and not entry.covers_path(path):
                        continue
                if entry.expires is None or now < entry.expires:
                    return entry
        if self._one or self._deep or self._nets or "" in self._exact:
            for entry in self.matching(scheme, host, port, method, path):
                if entry.expires is None or now < entry.expires:
                    return entry
        return None

    def matching(self, scheme: str, host: str, port: int, method: str | None, path: str | None) -> Iterator[Entry]:
        """Every rule that covers it, expired ones included."""
        for bucket in self.buckets(host):
            for entry in bucket.near(scheme, port, path):
                if entry.scheme != scheme or port < entry.low or port > entry.high:
                    continue
                if path is None or ((entry.methods is None or method in entry.methods) and entry.covers_path(path)):
                    yield entry

    def buckets(self, host: str) -> Iterator[Bucket]:
        """The rules whose host pattern covers a host, nearest pattern first."""
        if host in self._exact:
            yield _ripe(self._exact, host)
        parent = host.partition(".")[2]
        if parent in self._one:
            yield _ripe(self._one, parent)
        if self._deep:
            while parent:
                if parent in self._deep:
                    yield _ripe(self._deep, parent)
                parent = parent.partition(".")[2]
        if self._nets and addresses.is_literal(host):
            address = ip_address(host)
            for version, length in self._nets:
                key = int(address) >> (address.max_prefixlen - length) << (address.max_prefixlen - length)
                if version == address.version and key in self._nets[version, length]:
                    yield _ripe(self._nets[version, length], key)
        if host and "" in self._exact:
            yield _ripe(self._exact, "")

    def wildcards_near(self, host: str) -> Iterator[str]:
        """Wildcards that name a parent of the host, or the host itself: the ones a person may have meant."""
        name = host
        while name:
            if name in self._one:
                yield f"*.{name}"
            if name in self._deep:
                yield f"**.{name}"
            name = name.partition(".")[2]

    def bucket_of(self, pattern: str) -> Bucket:
        """The rules of a host pattern as written. Raises KeyError."""
        if pattern.startswith("**."):
            return _ripe(self._deep, pattern[3:])
        return _ripe(self._one, pattern[2:]) if pattern.startswith("*.") else _ripe(self._exact, pattern)

    def hosts(self) -> Iterator[str]:
        """The hosts that are named without a wildcard."""
        return iter(self._exact)


def _add[K](table: dict[K, Rule | list[Rule] | Bucket], key: K, rule: Rule) -> None:
    there = table.get(key)
    if there is None:
        table[key] = rule
    elif type(there) is list:
        there.append(rule)
    else:
        assert isinstance(there, Rule)
        table[key] = [there, rule]


def _ripe[K](table: dict[K, Rule | list[Rule] | Bucket], key: K) -> Bucket:
    found = table[key]
    if isinstance(found, Bucket):
        return found
    ripe = table[key] = Bucket(found if type(found) is list else [found])  # type: ignore[list-item]  # a lone Rule is a tuple
    return ripe


@lru_cache(maxsize=4096)
def within(network: str, address: str) -> bool:
    """Whether an address lies in a network, both canonical."""
    net, addr = ip_network(network), ip_address(address)
    return addr.version == net.version and addr in net
