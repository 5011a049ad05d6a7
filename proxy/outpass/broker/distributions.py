"""What is installed in a directory: distributions, their files and versions, read from their metadata.

Lives here: dist-info, egg-info, RECORD, .pth, direct_url.json, editable finders. May not live here: who owns a file in the
end (names.py). No import machinery and no importlib.metadata: the directories belong to another process, and one broken
or hostile file in them must cost that file, not the map.
"""

from __future__ import annotations

import ast
import csv
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from outpass.policy import names as principals

type Fingerprint = str
"""Hex digest over everything that a map depends on."""

MAX_ENTRIES: Final = 20_000
"""Directory entries that are looked at in one site; a distribution beyond is owned by nobody."""
MAX_RECORD: Final = 16 << 20
"""Bytes of one RECORD; the largest known (a cloud SDK in one wheel) has 3 MB."""
MAX_RECORDS: Final = 64 << 20
"""Bytes of all lists of files for one map. A whole data-science installation has 10 MB; hard links could make it terabytes.
What is listed beyond is owned by nobody."""
MAX_SMALL: Final = 1 << 18
"""Bytes of .pth, METADATA head, direct_url.json, top_level.txt."""

_CODE: Final = (".py", ".pyc", ".so", ".pyd", ".pyw")
_NATIVE: Final = (".so", ".pyd")
_INFO: Final = re.compile(
    r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*?)(?:-(?P<version>[0-9][^-/]*)(?:-py[0-9.]+)?)?\.(?P<kind>dist|egg)-info"
)
_VERSION: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z.!+_-]{0,63}")
_MAPPING: Final = re.compile(r"^MAPPING(?:\s*:[^=]*)?\s*=\s*(\{.*\})\s*$", re.MULTILINE)


@dataclass(slots=True)
class Distribution:
    """One installed distribution, as its own metadata describes it."""

    name: str
    """As a chain names it (policy.names.distribution)."""
    version: str | None
    site: str
    """The directory that it was found in."""
    files: list[str] = field(default_factory=list)
    """Absolute paths of its code files."""
    editable: list[str] = field(default_factory=list)
    """Path prefixes, ending in a slash, whose files are its code."""
    native: bool = False
    """Ships compiled code, whose frames nobody sees."""
    listed: int = 0
    """Bytes of its list of files."""


def fingerprint(sites: Sequence[str], roots: Sequence[str]) -> Fingerprint:
    """Changes when an installation in `sites` may have changed: names, sizes and times of all metadata."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(repr((tuple(sites), tuple(roots))).encode("utf-8", "surrogateescape"))
    for site in sites:
        for entry in _scan(site):
            if entry.name.endswith("-info"):
                target = f"{entry.path}/RECORD"
            elif entry.name.endswith((".pth", ".egg-link")):
                target = entry.path
            else:
                continue
            try:
                info = os.stat(target)
            except OSError:
                digest.update(f"{entry.path}\0".encode("utf-8", "surrogateescape"))
                continue
            digest.update(f"{entry.path}\0{info.st_mtime_ns}\0{info.st_size}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def is_site(site: str, found: Sequence[Distribution]) -> bool:
    """Whether `site` is a directory that installers fill, where an unowned file is suspect."""
    return os.path.basename(site) in ("site-packages", "dist-packages") or any(d.site == site for d in found)


def find(sites: Sequence[str], roots: Sequence[str], max_files: int) -> list[Distribution]:
    """Every distribution in `sites`, with at most `max_files` files together."""
    found: list[Distribution] = []
    left = max_files
    budget = MAX_RECORDS
    for site in sites:
        for entry in _scan(site):
            match = _INFO.fullmatch(entry.name)
            if match is None or (match["kind"] == "egg" and site in roots):
                continue  # an egg-info in a root is the application's own (setup.py develop), not an installation
            distribution = _read(site, entry.path, match, min(MAX_RECORD, budget))
            if distribution is None:
                continue
            del distribution.files[left:]
            left -= len(distribution.files)
            budget -= distribution.listed
            distribution.editable = [p for p in distribution.editable if not _is_application(p, roots)]
            found.append(distribution)
        found += _egg_links(site, roots)
    return found


def _is_application(prefix: str, roots: Sequence[str]) -> bool:
    """Whether an editable install is the application itself, installed into its own environment.

    It is when its code lies directly in a root, or in the root's `src`. Other editables below a root stay packages of
    their own: a monorepo's library should not get the application's rights.
    """
    return any(prefix in (f"{root.rstrip('/')}/", f"{root.rstrip('/')}/src/") for root in roots)


def _scan(site: str) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(site) as entries:
            for number, entry in enumerate(entries):
                if number >= MAX_ENTRIES:
                    return
                if entry.name.endswith(("-info", ".pth", ".egg-link")):
                    yield entry
    except OSError:
        return


def _text(path: str, limit: int) -> str | None:
    """Content of a regular file of at most `limit` bytes; None for anything else. Never blocks on a FIFO or a device."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except (OSError, ValueError):
        return None
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode) or info.st_size > limit:
            return None
        with os.fdopen(fd, "rb", closefd=False) as file:
            return file.read(limit).decode("utf-8", "surrogateescape")
    except OSError:
        return None
    finally:
        os.close(fd)


def _read(site: str, info: str, match: re.Match[str], limit: int) -> Distribution | None:
    name, version = match["name"], match["version"]
    if version is None:
        head = _text(f"{info}/METADATA" if match["kind"] == "dist" else f"{info}/PKG-INFO", MAX_SMALL) or ""
        version = next((line[8:].strip() for line in head.splitlines()[:40] if line.startswith("Version:")), None)
    if version is not None and not _VERSION.fullmatch(version):
        version = None
    result = Distribution(principals.distribution(name), version, site)
    record = _text(f"{info}/RECORD", limit)
    if record is not None:
        result.listed = len(record)
        _from_record(result, record)
    elif (installed := _text(f"{info}/installed-files.txt", limit)) is not None:
        result.listed = len(installed)
        for line in installed.splitlines():
            _add(result, os.path.normpath(f"{info}/{line.strip()}"))
    else:
        _from_top_level(result, _text(f"{info}/top_level.txt", MAX_SMALL) or "")
    if not result.editable:
        _from_direct_url(result, _text(f"{info}/direct_url.json", MAX_SMALL))
    return result


def _add(result: Distribution, path: str) -> None:
    """One file of a distribution. Only below its site: a RECORD cannot claim files elsewhere (scripts, or by malice)."""
    if not path.startswith(result.site + "/"):
        return
    if path.endswith(_NATIVE) or ".so." in path:
        result.native = True
    if path.endswith(_CODE) and "/__pycache__/" not in path:
        result.files.append(path)


def _from_record(result: Distribution, record: str) -> None:
    """RECORD is CSV (PEP 376). A broken line costs itself."""
    lines = record.splitlines()
    for line in lines:
        if '"' not in line:
            path = line.partition(",")[0]
        else:
            try:
                path = next(csv.reader([line]), [""])[0]
            except (csv.Error, IndexError):
                continue
        if not path or "\0" in path:
            continue
        full = os.path.normpath(os.path.join(result.site, path)) if ".." in path or path[0] in "/." else f"{result.site}/{path}"
        if full.endswith(".pth"):
            _from_pth(result, full)
        elif "__editable__" in path and path.endswith("_finder.py"):
            _from_finder(result, full)
        _add(result, full)


def _from_top_level(result: Distribution, text: str) -> None:
    """Metadata without a list of files (Debian drops RECORD): the top-level names, as far as they exist."""
    for word in text.split():
        name = word.replace("/", ".").split(".")[0]
        if not name.isidentifier():
            continue
        package = f"{result.site}/{name}"
        if os.path.isfile(f"{package}/__init__.py"):
            result.files.append(f"{package}/__init__.py")
        elif os.path.isfile(f"{package}.py"):
            result.files.append(f"{package}.py")


def _from_pth(result: Distribution, path: str) -> None:
    """A .pth of the distribution's own: the directories that it adds are where its code is."""
    if not path.startswith(result.site + "/"):
        return
    for line in (_text(path, MAX_SMALL) or "").splitlines():
        directory = line.strip()
        if directory and not directory.startswith(("#", "import ", "import\t")):
            _editable(result, os.path.normpath(os.path.join(result.site, directory)))


def _from_finder(result: Distribution, path: str) -> None:
    """setuptools' editable finder: a module with `MAPPING = {"pkg": "/src/pkg"}`; read, never run."""
    match = _MAPPING.search(_text(path, MAX_SMALL) or "")
    try:
        mapping = ast.literal_eval(match[1]) if match else {}
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return
    targets: Iterable[Any] = mapping.values() if isinstance(mapping, dict) else ()
    for target in targets:
        if isinstance(target, str):
            # The package's parent is the directory that PEP 660 calls the source root.
            _editable(result, target if os.path.isdir(target) else f"{target}.py")


def _from_direct_url(result: Distribution, text: str | None) -> None:
    """direct_url.json (PEP 610) of an editable install whose .pth said nothing: the project's directory."""
    try:
        fields = json.loads(text) if text else {}
        url = fields["url"] if fields["dir_info"].get("editable") is True else ""
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return
    if isinstance(url, str) and url.startswith("file://"):
        _editable(result, os.path.normpath(unquote(urlsplit(url).path)))


def _editable(result: Distribution, path: str) -> None:
    """One prefix. Never the whole disk, and never a directory that holds the site itself."""
    if not path.startswith("/") or path.count("/") < 2 or "\0" in path:
        return
    for spelling in dict.fromkeys((path, os.path.realpath(path))):
        prefix = spelling if spelling.endswith(".py") else spelling + "/"
        if not f"{result.site}/".startswith(prefix) and prefix not in result.editable:
            result.editable.append(prefix)


def _egg_links(site: str, roots: Sequence[str]) -> list[Distribution]:
    """`NAME.egg-link` (setup.py develop): its first line is where the code is."""
    found = []
    for entry in _scan(site):
        if not entry.name.endswith(".egg-link"):
            continue
        name = entry.name.removesuffix(".egg-link")
        lines = (_text(entry.path, MAX_SMALL) or "").splitlines()
        if not lines or not _INFO.fullmatch(f"{name}.egg-info"):
            continue
        result = Distribution(principals.distribution(name), None, site)
        _editable(result, os.path.normpath(lines[0].strip()))
        result.editable = [p for p in result.editable if not _is_application(p, roots)]
        found.append(result)
    return found
