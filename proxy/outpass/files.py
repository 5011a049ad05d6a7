"""Reads policies from disk: the file that was named, what it includes, presets, and the allowlist of the command line.

Lives here: bytes to Documents, includes, discovery. May not live here: what a policy means (policy/), YAML (yamldoc.py), who
is trusted (trust.py), where indexes are (indexes.py). Environment is an argument; nothing here reads os.environ.
"""

from __future__ import annotations

import errno
import gc
import hashlib
import os
import stat
import time
from collections.abc import Mapping as Environment
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Final

from outpass import indexes, yamldoc
from outpass import trust as trusted
from outpass.errors import Fault, Place, PolicyError, UsageError
from outpass.policy import layer, lint, schema, wire
from outpass.policy.document import Document, Items, Mapping, Mark
from outpass.policy.rules import Policy

__all__ = ["Loaded", "Source", "discover", "load", "trust", "trust_of"]

NAMES: Final = ("outpass.yaml", ".outpass.yaml")
ALLOW: Final = "--allow"
"""The name of the command line's allowlist in faults and decisions; its line is the option's number."""
_MAX_FILES: Final = 64
_WITHOUT_FILE: Final = ("preset:http-clients", "preset:sdk-cores", "preset:instruments")


@dataclass(frozen=True)
class Source:
    """Where a policy comes from: a file, options, or both (they unite). `mode` overrides what the file says."""

    file: Path | None
    allow: tuple[str, ...] = ()
    """`[PKG=]URL` as on the command line; without PKG for any code."""
    deny_all: bool = False
    mode: str | None = None
    digest: str | None = None
    """What `trust_of` said of the file: another content is not taken. None: whatever the file holds by now."""
    above: Path | None = None
    """The operator's: its mode wins over all, its ceilings and denies hold too, and it grants nothing."""


@dataclass(frozen=True)
class Loaded:
    """A policy in force, what it was read from, and what `check` warns about."""

    policy: Policy
    digest: str
    files: tuple[Path, ...]
    warnings: tuple[Fault, ...]


def load(source: Source, *, env: Environment[str, str], now: float | None = None) -> Loaded:
    """The policy of a source. `now` (Unix time; default the clock) is for warnings about expiry only.

    Raises PolicyError with every fault at file:line:column, UsageError for options that exclude each other.
    """
    if source.deny_all and (source.file is not None or source.allow):
        raise UsageError("--deny-all leaves nothing for a policy or --allow to say", "use one of them")
    if source.file is None and not source.allow and not source.deny_all:
        raise UsageError("there is no policy", "name one with --policy FILE, or use --allow URL or --deny-all")
    if source.mode not in {None, "enforce", "audit"}:
        raise UsageError(f"{source.mode!r} is not a mode", "enforce or audit")
    collecting = gc.isenabled()
    gc.disable()  # a load makes a million objects that all stay; looking for cycles among them doubles its time
    try:
        return _load(source, env, time.time() if now is None else now)
    finally:
        if collecting:
            gc.enable()


def _load(source: Source, env: Environment[str, str], now: float) -> Loaded:
    reading = _Reading(env)
    if source.file is not None:
        reading.file(source.file, None)
    if source.allow or source.deny_all:
        reading.allowlist(source.allow)
    reading.programs()
    if source.digest not in (None, reading.hashed.hexdigest()):
        raise UsageError(f"{source.file} changed after it was found trusted", f"read it, then: outpass trust {source.file}")
    if reading.faults:
        raise PolicyError(tuple(reading.faults))
    policy = schema.parse(reading.documents)
    if source.mode is not None:
        policy = replace(policy, mode=source.mode)
    read = list(reading.read)
    if source.above is not None:
        policy = _beneath(policy, source.above, env, read)
    warnings = (*reading.warnings, *lint.warnings(policy, now=now))
    return Loaded(policy, wire.digest(policy), tuple(read), warnings)


def above(path: Path, *, env: Environment[str, str]) -> None:
    """Whether a file can be an operator's policy: raises PolicyError when it cannot."""
    _beneath(Policy(), path, env, [])


def _beneath(policy: Policy, path: Path, env: Environment[str, str], read: list[Path]) -> Policy:
    reading = _Reading(env)
    reading.file(path, None)
    if reading.faults:
        raise PolicyError(tuple(reading.faults))
    top = schema.parse(reading.documents)
    read += reading.read
    said = any(isinstance(d.root, Mapping) and "mode" in d.root for d in reading.documents)
    return layer.beneath(policy, top, top.mode if said else "")


def discover(cwd: Path) -> Path | None:
    """The project's policy: outpass.yaml or .outpass.yaml in `cwd` or above it, no further than the repository's root.

    Outside a repository only `cwd` itself counts: /tmp and /home belong to others as well.
    """
    cwd = Path(os.path.abspath(cwd))
    top = next((d for d in (cwd, *cwd.parents) if (d / ".git").exists()), cwd)
    for directory in (cwd, *cwd.parents):
        for name in NAMES:
            if (directory / name).is_file():
                return directory / name
        if directory == top:
            return None
    return None


def gather(path: Path, *, env: Environment[str, str]) -> tuple[tuple[Path, ...], str]:
    """Every file that a policy is made of, and one SHA-256 (hex) over their names and contents. Raises PolicyError."""
    reading = _Reading(env)
    reading.file(path, None)
    if reading.faults:
        raise PolicyError(tuple(reading.faults))
    return tuple(reading.read), reading.hashed.hexdigest()


def trust_of(path: Path, *, env: Environment[str, str]) -> str | None:
    """The digest under which exactly this file, with exactly what it includes, was trusted. Broken or unreadable: None.

    Whoever loads the file afterwards says it (Source.digest): between the two, somebody may write.
    """
    try:
        digest = gather(path, env=env)[1]
        return digest if trusted.recorded(path, env=env) == digest else None
    except (PolicyError, UsageError):
        return None


def trust(path: Path, *, env: Environment[str, str]) -> str:
    """Trusts a policy as it is now and returns the digest (SHA-256, hex) over it and all that it includes.

    Raises PolicyError when it has faults, UsageError when the store cannot be written.
    """
    digest = gather(path, env=env)[1]
    load(Source(path, digest=digest), env=env)
    trusted.record(path, digest, env=env)
    return digest


@dataclass
class _Reading:
    """One load: the documents in order (root first), and what was read for them."""

    env: Environment[str, str]
    documents: list[Document] = field(default_factory=list)
    read: list[Path] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    warnings: list[Fault] = field(default_factory=list)
    hashed: hashlib._Hash = field(default_factory=hashlib.sha256)
    open: list[Path] = field(default_factory=list)
    """The files that are being included, outermost first."""
    presets: set[str] = field(default_factory=set)

    def file(self, path: Path, asked: Place | None) -> None:
        """Reads a file and what it includes; `asked` is the include line that named it."""
        real = Path(os.path.realpath(path))
        if real in self.open:
            way = " → ".join(p.name for p in [*self.open[self.open.index(real) :], real])
            self.faults.append(Fault(asked or Place(str(path), 1), f"include goes in a circle: {way}", "remove one of them"))
            return
        if real in self.read:
            return
        if len(self.read) >= _MAX_FILES:
            self.faults.append(Fault(asked or Place(str(path), 1), f"a policy is made of more than {_MAX_FILES} files"))
            return
        try:
            raw = _bytes(path)
        except OSError as problem:
            said = (problem.strerror or str(problem)).lower()
            place = asked or Place(str(path), 1)
            self.faults.append(
                Fault(place, f"{path} cannot be read: {said}" if asked else f"cannot be read: {said}", "check the path")
            )
            return
        self.read.append(real)
        self.hashed.update(f"{real}\0{len(raw)}\0".encode("utf-8", "surrogateescape") + raw)
        self.open.append(real)
        self._document(str(path), raw, path.parent)
        self.open.pop()

    def _document(self, name: str, raw: bytes, directory: Path) -> None:
        try:
            document = yamldoc.document(name, raw)
        except PolicyError as problem:
            self.faults.extend(problem.faults)
            return
        if document.file.startswith("preset:"):
            self._indexes(document)
        self.documents.append(document)
        included = document.root.get("include") if isinstance(document.root, Mapping) else None
        for index, item in enumerate(included if isinstance(included, Items) else ()):
            if isinstance(item, str):  # anything else is the schema's to complain about
                self._include(item, document.place(("include", index)), directory)

    def _include(self, item: str, place: Place, directory: Path) -> None:
        if not item.startswith("preset:"):
            if item.startswith("~"):
                self.faults.append(Fault(place, f"{item!r}: ~ is not expanded here", "write the path relative to this file"))
                return
            self.file(directory / item, place)
            return
        if item in self.presets:
            return
        name = item.removeprefix("preset:")
        found = {p.name.removesuffix(".yaml"): p for p in (policies() / "presets").iterdir() if p.name.endswith(".yaml")}
        if name not in found:
            self.faults.append(Fault(place, f"there is no preset {name!r}", f"known presets: {', '.join(sorted(found))}"))
            return
        self.presets.add(item)
        self._document(item, found[name].read_bytes(), Path())

    def _indexes(self, document: Document) -> None:
        """Puts the operator's own indexes where a preset says `index:TOOL`."""
        packages = document.root.get("packages") if isinstance(document.root, Mapping) else None
        for name, entry in packages.items() if isinstance(packages, Mapping) else ():
            listed = entry.get("http") if isinstance(entry, Mapping) else None
            if not isinstance(entry, Mapping) or not isinstance(listed, Items):
                continue
            entry["http"] = filled = Items()
            for item, at in zip(listed, listed.items_at, strict=True):
                if not (isinstance(item, str) and item.startswith("index:")):
                    filled.put(item, at)
                    continue
                found = indexes.rules(item.removeprefix("index:"), env=self.env)
                for rule in found.rules:
                    filled.put(_marked(rule, at), at)
                place = document.place(("packages", name), key=True)
                self.warnings += [Fault(place, problem) for problem in found.problems]

    def programs(self) -> None:
        """Whoever names a program means its helpers too (git is also git-remote-http): what these are grants nothing."""
        for document in self.documents:
            packages = document.root.get("packages") if isinstance(document.root, Mapping) else None
            if any(str(name).startswith("exe:") for name in (packages if isinstance(packages, Mapping) else ())):
                self._include("preset:programs", document.place(("packages",), key=True), Path())
                return

    def allowlist(self, allow: tuple[str, ...]) -> None:
        """The command line's allowlist as a document; without a file it brings the presets that name HTTP libraries."""
        root, packages = Mapping(), Mapping()
        root.put("version", 1, Mark(1, 1), Mark(1, 1))
        for number, text in enumerate(allow, 1):
            head, equals, tail = text.partition("=")
            package, url = (head, tail) if equals and "://" not in head else ("*", text)
            at = Mark(number, 1)
            entry = packages.get(package)
            if not isinstance(entry, Mapping):
                entry = Mapping()
                entry.put("allow", _marked(["network:http"], at), at, at)
                entry.put("http", Items(), at, at)
                packages.put(package, entry, at, at)
            urls = entry["http"]
            assert isinstance(urls, Items)
            urls.put(url, at)
        root.put("packages", packages, Mark(1, 1), Mark(1, 1))
        self.documents.append(Document(ALLOW, root))
        for preset in _WITHOUT_FILE if len(self.documents) == 1 else ():
            self._include(preset, Place(ALLOW, 1), Path())


def _marked(value: object, at: Mark) -> object:
    """Plain data as if it all stood at one place."""
    if isinstance(value, dict):
        mapping = Mapping()
        for key, inner in value.items():
            mapping.put(key, _marked(inner, at), at, at)
        return mapping
    if isinstance(value, list):
        items = Items()
        for inner in value:
            items.put(_marked(inner, at), at)
        return items
    return value


def _bytes(path: Path) -> bytes:
    """At most one byte more than a policy may have. OSError for what is no regular file.

    A pipe would be waited for, without end, by the daemon that reads policies for everybody; and it cannot be read again.
    """
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        return file.read(yamldoc.MAX_BYTES + 1)


def policies() -> Path:
    """The shipped policies: beside the code in a wheel, at the top of the checkout in an editable install."""
    inside = Path(str(resources.files("outpass"))) / "policies"
    return inside if inside.is_dir() else Path(__file__).resolve().parents[2] / "policies"
