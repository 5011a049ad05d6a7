"""What the next daemon must know to go on where this one ends, however it ends: a file in the runtime directory.

Lives here: the file, its lines, and the table that they make. May not live here: keys (keys.py), what a session or a jail is,
taking a jail over (resume.py).

One JSON object a line, appended as things happen, so that a daemon that is killed leaves it whole up to the last line. It says
which jails are open and who launched them, who has a session and what its chains end with, which sessions are over, and which
addresses stand for which names. Without it, a process could shed its spawner by waiting for a restart. 0600 in a directory
that no jail shows; it ends with the last jail. A machine that restarts has no use for it, so the kernel's boot id is in it.
"""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from outpass.broker import say

NAME: Final = "journal"
COMPACT_BYTES: Final = 4 << 20
"""A file that has grown by this, and to four times its size when it was last written whole, is written whole again."""
_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")


@dataclass(slots=True)
class Kept:
    """What is known of one jail."""

    launcher: tuple[int, int]
    """(pid, start) of `outpass run`; nobody else may go on with the jail."""
    opened: float
    processes: list[tuple[int, int]] = field(default_factory=list)
    """(pid, start) of what it registered."""
    netns: int | None = None
    sessions: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Session → Session.as_line of those that live."""
    ended: set[str] = field(default_factory=set)
    revoked: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Session that the operator revoked → its process."""
    addresses: dict[str, list[Any]] = field(default_factory=dict)
    """Address → Entry.as_line."""


class Journal:
    """The file, open for appending. Thread-safe. Without a path it keeps nothing: nobody follows a private daemon."""

    def __init__(self, path: Path | None) -> None:
        """Reads what a daemon before left (`keys`, `jails`); anything odd in it is as if there were nothing."""
        self._path = path
        self._lock = threading.Lock()
        self._fd: int | None = None
        self._size = self._whole = 0
        self._frozen = False
        self.keys: Mapping[str, str] | None = None
        """As Keys.kept."""
        self.jails: dict[str, Kept] = {}
        if path is not None:
            self._read(path)

    def begin(self, keys: Mapping[str, str]) -> None:
        """From now on it is written. Raises OSError."""
        with self._lock:
            self.keys = keys
            if self._path is not None:
                self._write_whole(self._path)

    def note(self, what: str, jail: str, *args: Any) -> None:
        """One thing that happened: a line, and its effect on the table."""
        with self._lock:
            if self._fd is None or self._frozen:
                return
            line = [what, jail, *args]
            self._apply(line)
            content = json.dumps(line, separators=(",", ":")).encode() + b"\n"
            try:
                _write(self._fd, content)
                self._size += len(content)
                if self._path is not None and self._size > max(4 * self._whole, self._whole + COMPACT_BYTES):
                    self._write_whole(self._path)
            except OSError as e:
                self._give_up(e)

    def freeze(self) -> None:
        """Nothing that happens from now on, while the daemon ends, is the end of a jail."""
        with self._lock:
            self._frozen = True

    def close(self) -> bool:
        """Whether somebody may go on: then the file stays, otherwise it is removed."""
        with self._lock:
            if self._fd is None:
                return False
            os.close(self._fd)
            self._fd = None
            if not self.jails and self._path is not None:
                self._path.unlink(missing_ok=True)
            return bool(self.jails)

    def _give_up(self, problem: OSError) -> None:
        """Half a story would let a process shed its spawner: better none, and programs that must be started again."""
        say.error(f"the journal cannot be written ({problem.strerror}): programs will not survive a restart of this daemon")
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    # -- the table ---------------------------------------------------------------------------------------------------

    def _apply(self, line: list[Any]) -> None:
        what, jail, *args = line
        if what == "jail":
            self.jails[jail] = Kept(tuple(args[0]), args[1])
        if jail not in self.jails:
            return
        kept = self.jails[jail]
        match what, args:
            case "close", _:
                del self.jails[jail]
            case "process", [pid, start, netns]:
                kept.processes.append((pid, start))
                kept.netns = netns
            case "session", [body]:
                kept.sessions[body["sid"]] = body
            case "end", [sid]:
                kept.sessions.pop(sid, None)
                kept.ended.add(sid)
            case "revoke", [sid, pid, start]:
                kept.sessions.pop(sid, None)
                kept.revoked[sid] = (pid, start)
                kept.ended.add(sid)
            case "address", [entry, dropped]:
                for address in dropped:
                    kept.addresses.pop(address, None)
                kept.addresses[entry[0]] = entry

    def _lines(self) -> Iterable[list[Any]]:
        for jail, kept in self.jails.items():
            yield ["jail", jail, kept.launcher, kept.opened]
            yield from (["process", jail, pid, start, kept.netns] for pid, start in kept.processes)
            yield from (["session", jail, body] for body in kept.sessions.values())
            yield from (["revoke", jail, sid, *process] for sid, process in kept.revoked.items())
            yield from (["end", jail, sid] for sid in kept.ended - kept.revoked.keys())
            yield from (["address", jail, entry, []] for entry in kept.addresses.values())

    # -- the file ----------------------------------------------------------------------------------------------------

    def _read(self, path: Path) -> None:
        try:
            info = path.lstat()
            if info.st_uid != os.geteuid() or info.st_mode & 0o177 or path.is_symlink():
                raise ValueError("it is not ours alone")
            first, *rest = path.read_bytes().split(b"\n")
            head = json.loads(first)
            if head["v"] != 1 or head["boot"] != _boot():
                return
            for line in rest[:-1]:  # the last is empty, or cut by a kill
                self._apply(json.loads(line))
            self.keys = head["keys"]
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError) as e:
            self.keys, self.jails = None, {}
            say.warning(f"what the daemon before left in {path} cannot be used ({e}); its programs must be started again")

    def _write_whole(self, path: Path) -> None:
        head = {"v": 1, "boot": _boot(), "keys": self.keys}
        content = b"".join(json.dumps(line, separators=(",", ":")).encode() + b"\n" for line in (head, *self._lines()))
        draft = path.with_name(f".{path.name}.new")
        draft.unlink(missing_ok=True)
        fd = os.open(draft, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            _write(fd, content)
            draft.rename(path)
        except BaseException:
            os.close(fd)
            raise
        if self._fd is not None:
            os.close(self._fd)
        self._fd, self._size, self._whole = fd, len(content), len(content)


def _write(fd: int, content: bytes) -> None:
    if os.write(fd, content) != len(content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _boot() -> str:
    return _BOOT.read_text(encoding="ascii").strip()
