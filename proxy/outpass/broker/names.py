"""Which file belongs to which distribution: the map that a shim charges code by (PROTOCOL.md, "The map file").

Lives here: ownership worked out from what finds say, the map's shape, its cache and its files. May not live here: reading
one installation's metadata (distributions.py), who may have a map (session.py).

The directories come from a process that may be hostile. So: everything is capped, nothing but regular files is read, and
the map only says what that process could find out by itself. It is *evidence* for honest code, sealed against files that
change later (`built`); it is no defence against a site-packages that was bad before the process started.
"""

from __future__ import annotations

import itertools
import json
import os
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from outpass.broker import distributions
from outpass.broker.distributions import Distribution, Fingerprint

MAX_PATHS: Final = 64
"""Directories of one process that are looked at; sys.path seldom has ten."""
MAX_FILES: Final = 1_000_000
"""Files that one map is made of; what is beyond is owned by nobody, so `?`."""
MAX_CACHED: Final = 32
"""Maps kept in memory, one per set of directories."""
MAX_KEPT_FILES: Final = 512
"""Map files kept on disk; a shim reads its map at once after its hello."""

CONFLICT: Final = "?"
"""Who owns a file that two distributions claim."""


class Layout(NamedTuple):
    """The map without its date: what it says as long as the installation does not change."""

    text: str
    """The JSON object after its `built` field, `"dirs":…}`."""
    versions: dict[str, str]
    """Version per distribution that has one."""


class Mapped(NamedTuple):
    """A map written for one process."""

    path: str
    versions: dict[str, str]
    """What the broker adds to chain entries. A name that is not in `names` cannot be a proven package of the process."""
    names: frozenset[str]


class Maps:
    """Makes and caches maps under `directory` (0700, ours). Thread-safe: hellos are answered from a pool of threads."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._layouts: dict[Fingerprint, tuple[Layout, frozenset[str]]] = {}
        self._written: list[Path] = []
        self._counter = itertools.count(1)
        self._start = os.urandom(4).hex()  # a daemon before may have left maps that are in use

    def make(self, paths: Sequence[str], roots: Sequence[str]) -> Mapped:
        """Write the map for a process with these import directories, dated now. OSError when it cannot be written.

        Dated anew for each process: a file that changed before this process asked is no reason to doubt it.
        """
        sites = existing(paths)
        key = distributions.fingerprint(sites, roots)
        with self._lock:
            cached = self._layouts.get(key)
        if cached is None:
            found = distributions.find(sites, roots, MAX_FILES)
            names = frozenset(d.name for d in found)
            cached = layout(sites, roots, found), names
            with self._lock:
                while len(self._layouts) >= MAX_CACHED:
                    del self._layouts[next(iter(self._layouts))]
                self._layouts[key] = cached
        content, names = cached
        return Mapped(str(self._write(key, content.text)), content.versions, names)

    def restore(self, path: str, paths: Sequence[str], roots: Sequence[str]) -> Mapped:
        """The map that a daemon before wrote for a process; where it is gone, a new one. OSError when there can be none."""
        try:
            content = json.loads(Path(path).read_bytes())
        except (OSError, ValueError):
            return self.make(paths, roots)
        owners = (*content["dirs"].values(), *content["files"].values(), *content["editable"].values(), *content["versions"])
        return Mapped(path, content["versions"], frozenset(owners) - {CONFLICT})

    def _write(self, key: Fingerprint, text: str) -> Path:
        path = self._directory / f"{key[:16]}-{self._start}-{next(self._counter)}.json"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(f'{{"v":1,"built":{time.time()!r},{text}')
        with self._lock:
            self._written.append(path)
            old = self._written[:-MAX_KEPT_FILES]
            del self._written[:-MAX_KEPT_FILES]
        for stale in old:
            stale.unlink(missing_ok=True)
        return path


def existing(paths: Iterable[str]) -> tuple[str, ...]:
    """The absolute directories among `paths`, in order, without repeats, each also in its resolved spelling.

    A module's file name has the spelling of the sys.path entry that it came from (lib64 → lib in many venvs), so both
    spellings must be found in the map.
    """
    kept: dict[str, None] = {}
    for path in itertools.islice(paths, MAX_PATHS):
        if not path.startswith("/") or "\0" in path:
            continue
        for spelling in (os.path.normpath(path), os.path.realpath(path)):
            if os.path.isdir(spelling):
                kept.setdefault(spelling)
    return tuple(kept)


def layout(sites: Sequence[str], roots: Sequence[str], found: Sequence[Distribution]) -> Layout:
    """Work out who owns what. Pure: `found` is what the directories held."""
    owners: dict[str, str] = {}
    for d in found:
        for file in d.files:
            # The same distribution seen twice (two spellings, two versions of metadata) is no conflict.
            owners[file] = d.name if owners.get(file, d.name) == d.name else CONFLICT
    directories, files = _fold(owners, frozenset(sites) | frozenset(roots))
    versions = _versions(found)
    body: dict[str, Any] = {
        "dirs": directories,
        "files": files,
        "editable": {prefix: d.name for d in found for prefix in d.editable},
        # A directory of the application's own that also holds distributions (pip install --target) is no site: what
        # nobody owns there is the application.
        "sites": [s for s in sites if distributions.is_site(s, found) and s not in roots],
        "versions": versions,
        "native": sorted({d.name for d in found if d.native}),
    }
    return Layout(json.dumps(body, separators=(",", ":"))[1:], versions)


def _versions(found: Sequence[Distribution]) -> dict[str, str]:
    """Version per name. The first directory wins, as on sys.path; two versions in one directory (a broken upgrade) are none.

    A package whose version is not known meets no `versions:` range, so doubt denies.
    """
    sites: dict[str, str] = {}
    versions: dict[str, str | None] = {}
    for d in found:
        if sites.setdefault(d.name, d.site) == d.site:
            versions[d.name] = d.version if versions.get(d.name, d.version) == d.version else None
    return {name: version for name, version in versions.items() if version is not None}


def _fold(owners: dict[str, str], tops: frozenset[str]) -> tuple[dict[str, str], dict[str, str]]:
    """(`dirs`, `files`): the fewest entries that say the same as `owners`.

    A directory whose files, all levels down, have one owner is that owner's, and the topmost such directory stands for
    those below. `tops` (site-packages itself, roots) belong to nobody, even with one distribution installed: a file that
    is dropped there is nobody's.
    """
    subtree: dict[str, str | None] = {}
    """Directory → its one owner; None: several."""
    for file, owner in owners.items():
        directory = os.path.dirname(file)
        while directory not in tops and len(directory) > 1:
            known = subtree.get(directory, owner)
            single = known if known == owner and owner != CONFLICT else None
            if directory in subtree and subtree[directory] == single:
                break  # then everything above has heard of it too
            subtree[directory] = single
            directory = os.path.dirname(directory)
    folded: dict[str, str] = {}
    for directory, single in subtree.items():
        if single is not None and subtree.get(os.path.dirname(directory)) is None:
            folded[directory] = single
    loose = {file: owner for file, owner in owners.items() if subtree.get(os.path.dirname(file)) is None}
    return folded, loose
