"""The meaning of a checked file's entries: names normalised, patterns parsed, each rule with its line.

Lives here: Reader, which walks one file's packages, lists and ceiling and notes every fault. May not live here: the shape
(shape.py), combining files (layer.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from outpass.errors import Fault
from outpass.model import Capability
from outpass.policy import addresses, limits, names, pattern, suffixes
from outpass.policy import programs as aliases
from outpass.policy.document import Document
from outpass.policy.rules import LISTS, Ceiling, Package, Rule
from outpass.policy.shape import CeilingEntry, DenyLists, LimitsEntry, PackageEntry, Shape

Path = tuple[str | int, ...]

SHORTHANDS: Final[dict[str, frozenset[str]]] = {
    "network:all": frozenset(Capability),
    "network:web": frozenset({Capability.HTTP.value, Capability.FETCH.value}),
}
_WHERE: Final = {"http": "url", "fetch": "url", "socket": "to", "dns": "name", "listen": "at"}
_GLOB: Final = re.compile(r"[a-z0-9*](?:[a-z0-9*.-]*[a-z0-9*])?")


class Reader:
    """Turns one file's checked entries into rules; faults go to the list it was given, in file order."""

    def __init__(self, document: Document, faults: list[Fault]) -> None:
        self._document = document
        self._faults = faults

    def packages(self, entries: Mapping[str, PackageEntry]) -> dict[str, Package]:
        """All packages of the file, by normal name."""
        found: dict[str, Package] = {}
        written: dict[str, str] = {}
        for key, entry in entries.items():
            path: Path = ("packages", key)
            name = self._name(key, path)
            if name is None:
                continue
            if name in written:
                self._fault(path, f"{key!r} is the same package as {written[name]!r} above", "write one entry", key=True)
                continue
            written[name] = key
            found[name] = self._package(name, entry, path)
        return found

    def _package(self, name: str, entry: PackageEntry, path: Path) -> Package:
        self._check_versions(name, entry.versions, path)
        mode = entry.mode if "mode" in entry.model_fields_set else ""
        if mode and name == names.ANY:
            self._fault((*path, "mode"), "'*' is every package at once, so it has no mode of its own", "set mode: at the top")
        return Package(
            name=name,
            file=self._document.file,
            line=self._document.place(path, key=True).line,
            allow=frozenset[str]().union(*(SHORTHANDS.get(c, frozenset({c})) for c in entry.allow)),
            lists=self._lists(entry, path, granting=True),
            deny=self._lists(entry.deny, (*path, "deny"), granting=False),
            versions=entry.versions,
            mode=mode,
            limits=self._limits(entry.limits, path),
        )

    def ceiling(self, entry: CeilingEntry) -> Ceiling:
        """The file's ceiling. Its lists only narrow, so a wildcard in one may be as wide as it likes."""
        line = self._document.place(("ceiling",), key=True).line
        return Ceiling(self._document.file, line, self._lists(entry, ("ceiling",), granting=False))

    def transparent(self, listed: Sequence[str]) -> tuple[str, ...]:
        """Packages that are never charged: only real ones, since skipping `app` would skip the end of every chain."""
        found = []
        for index, text in enumerate(listed):
            name = self._name(text, ("transparent", index))
            if name in {names.APP, names.ANY, names.UNATTRIBUTED} or (name or "").startswith("exe:"):
                self._fault(("transparent", index), f"{text!r} is not a package, so it cannot be transparent")
            elif name:
                found.append(name)
        return tuple(found)

    def instruments(self, listed: Sequence[str]) -> tuple[str, ...]:
        """Globs over normal package names."""
        found = []
        for index, text in enumerate(listed):
            normal = re.sub(r"[-_.]+", "-", text).lower()
            if not _GLOB.fullmatch(normal) or not normal.strip("*-"):
                self._fault(("instruments", index), f"{text!r} is not a package or a glob such as opentelemetry-*")
                continue
            found.append(normal)
        return tuple(found)

    def programs(self, entries: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
        """Aliases by NAME, each a list of globs."""
        found = {}
        for name, globs in entries.items():
            if not aliases.NAME.fullmatch(name):
                self._fault(("programs", name), f"{name!r} is not a program's name", "write it without exe:, as git:", key=True)
            good = []
            for index, text in enumerate(globs):
                try:
                    good.append(aliases.alias(text))
                except ValueError as problem:
                    self._fault(("programs", name, index), str(problem), "for example /usr/lib/git-core/*-http")
            found[name] = tuple(good)
        return found

    def _lists(
        self, holder: PackageEntry | DenyLists | CeilingEntry, path: Path, *, granting: bool
    ) -> dict[str, tuple[Rule, ...]]:
        found = {}
        for key in LISTS:
            if key in holder.model_fields_set:
                items: list[str | int | Shape] = getattr(holder, key)
                rules = [self._rule(key, item, (*path, key, i), granting) for i, item in enumerate(items)]
                found[LISTS[key]] = tuple(r for r in rules if r is not None)
        return found

    def _rule(self, key: str, item: str | int | Shape, path: Path, granting: bool) -> Rule | None:
        place = self._document.place(path)
        said: dict[str, Any] = item.model_dump(exclude_unset=True) if isinstance(item, Shape) else {_WHERE[key]: item}
        where = (*path, _WHERE[key]) if isinstance(item, Shape) else path
        try:
            parsed = pattern.PARSERS[key](str(said.pop(_WHERE[key])))
            if said.get("methods"):
                parsed = self._with_methods(parsed, said["methods"])
            if granting:
                self._check_width(parsed.host, bool(said.get("multi_tenant")), where)
        except pattern.PatternError as problem:
            self._fault(where, str(problem), problem.hint)
            return None
        if said.get("intercept") is False and (parsed.scheme != "https" or parsed.path != pattern.ANY_PATH or parsed.methods):
            self._fault(
                (*path, "intercept"),
                "intercept: false means that the tunnel is not looked into, so the rule can name no path and no method",
                f"write https://{parsed.host}/ without methods, or leave intercept: out",
            )
        return Rule(
            file=place.file, line=place.line, scheme=parsed.scheme, host=parsed.host, low=parsed.low, high=parsed.high,
            path=parsed.path, methods=parsed.methods, via=self._via(said.get("via", ()), path),
            private=self._private(said.get("private", ()), path), expires=self._expires(said.get("expires", ""), path),
            intercept=said.get("intercept", True), multi_tenant=said.get("multi_tenant", False),
            owner=said.get("owner", ""), why=said.get("why", ""),
            limits=self._limits(getattr(item, "limits", None), path),
        )  # fmt: skip

    def _with_methods(self, parsed: pattern.Pattern, listed: Sequence[str]) -> pattern.Pattern:
        if parsed.methods:
            raise pattern.PatternError("methods stand in the url and in methods:", "write them in methods: only")
        return parsed._replace(methods=tuple(pattern.method(m) for m in listed))

    def _check_width(self, host: str, multi_tenant: bool, path: Path) -> None:
        width = suffixes.width(host)
        if width is suffixes.Width.PUBLIC:
            self._fault(path, f"{host!r} covers a public suffix: anybody can register a name below it", "name the domain")
        elif width is suffixes.Width.MULTI_TENANT and not multi_tenant:
            self._fault(
                path,
                f"{host!r} covers hosts of different owners",
                "name the host, or add multi_tenant: true if everyone there is meant",
            )

    def _via(self, listed: Sequence[str], path: Path) -> tuple[str, ...]:
        found = [self._name(text, (*path, "via", i)) for i, text in enumerate(listed)]
        for index, name in enumerate(found):
            if name == names.ANY:
                self._fault((*path, "via", index), "'*' in via: would excuse any caller", "name the frameworks")
        return tuple(name for name in found if name)

    def _private(self, listed: Sequence[str], path: Path) -> tuple[str, ...]:
        found = []
        for index, text in enumerate(listed):
            try:
                found.append(str(addresses.private_network(text)))
            except ValueError as problem:
                hint = "loopback, link-local and metadata addresses open only to a rule that names the address itself"
                self._fault((*path, "private", index), str(problem), hint)
        return tuple(found)

    def _expires(self, text: str, path: Path) -> float | None:
        if not text:
            return None
        try:
            if re.fullmatch(r"\d{4}-\d\d-\d\d", text):
                day = datetime.combine(date.fromisoformat(text), datetime.min.time(), UTC)
                return (day + timedelta(days=1)).timestamp()
            moment = datetime.fromisoformat(text)
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            self._fault((*path, "expires"), f"{text!r} is not a date", "write it as 2027-06-30 or 2027-06-30T12:00:00+00:00")
            return None

    def _limits(self, entry: LimitsEntry | None, path: Path) -> limits.Limits:
        if entry is None:
            return limits.NONE
        found: dict[str, limits.Rate] = {}
        for key in entry.model_fields_set:
            value = getattr(entry, key)
            try:
                found[key] = limits.rps(value) if key == "rps" else limits.size(value)
            except ValueError as problem:
                hint = "for example rps: 20, or 0.1 for one in ten seconds" if key == "rps" else "for example 2MiB/min"
                self._fault((*path, "limits", key), str(problem), hint)
        return limits.Limits(**found)

    def _check_versions(self, name: str, text: str, path: Path) -> None:
        if not text:
            return
        if name in {names.APP, names.ANY, names.UNATTRIBUTED} or name.startswith("exe:"):
            self._fault((*path, "versions"), f"{name!r} has no version", "remove versions:", key=True)
            return
        try:
            SpecifierSet(text)
        except InvalidSpecifier:
            hint = f"write =={text}" if re.fullmatch(r"[0-9][0-9.]*", text) else "write PEP 440 specifiers, for example >=11,<13"
            self._fault((*path, "versions"), f"{text!r} is not a version range", hint)

    def _name(self, text: str, path: Path) -> str | None:
        try:
            return names.package(text)
        except ValueError as problem:
            hint = "rights go to packages that can be shown to ask" if text[:1] in {"?", "!"} else ""
            self._fault(path, str(problem), hint, key=path[0] == "packages" and len(path) == 2)
            return None

    def _fault(self, path: Path, message: str, hint: str = "", *, key: bool = False) -> None:
        self._faults.append(self._document.fault(path, message, hint, key=key))
