"""The runtime directory: made, checked, locked, and emptied at the end; the sockets in it.

Lives here: ownership and mode checks, the lock that makes a second daemon impossible, binding, clean-up. May not live
here: what is spoken on the sockets.

Everything in it is ours alone: directory 0700, files and sockets 0600, but for public certificates. A directory that
somebody else made or can enter is refused, never repaired: what lies in it already may have been put there.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import socket
import stat
from pathlib import Path
from typing import Final

from outpass.errors import StartError

MAX_SOCKET_PATH: Final = 107
"""Bytes of a socket's path: sun_path of unix(7), without the final NUL."""

_BACKLOG: Final = 4_096  # a shim connects with a deadline, and to such a connect a full backlog is an error
MINT: Final = "mint/sock"
"""In a directory of its own: jails show the directory, so that the socket of the next daemon appears in it."""
_SOCKETS: Final = ("control.sock", MINT, "admin.sock")
_FILES: Final = ("ca.pem", "bundle.pem", "upstream.pem")


class RuntimeDir:
    """A locked runtime directory. Raises StartError from the constructor; `clean` gives it back."""

    def __init__(self, path: Path, *, remove: bool = False) -> None:
        """`remove`: delete the directory itself at the end too (it was made for us)."""
        self.path = Path(os.path.abspath(path))  # before anything may change directory; symlinks are refused below
        self._remove = remove
        longest = os.fsencode(self.path / "control.sock")
        if len(longest) > MAX_SOCKET_PATH:
            raise StartError(
                f"the runtime directory's path is too long for sockets ({len(longest)} bytes)",
                "set OUTPASS_RUNTIME to a shorter one",
            )
        self._make()
        self._check()
        self._lock = self._take_lock()
        self.maps = self.path / "maps"
        for directory in (self.maps, self.path / "mint"):  # made once: the jails of a daemon before show these very directories
            directory.mkdir(mode=0o700, exist_ok=True)
        self._trust: list[Path] = []
        self._lasting = False

    def _make(self) -> None:
        try:
            self.path.mkdir(mode=0o700, parents=True)
        except FileExistsError:
            pass  # `_check` says what it thinks of it
        except OSError as e:
            raise StartError(f"cannot make the runtime directory {self.path}: {e.strerror}") from None

    def _check(self) -> None:
        info = self.path.lstat()
        if not stat.S_ISDIR(info.st_mode):
            raise StartError(f"the runtime directory {self.path} is not a directory", "a symbolic link is not followed")
        if info.st_uid != os.geteuid():
            raise StartError(f"the runtime directory {self.path} belongs to uid {info.st_uid}, not to you")
        if info.st_mode & 0o077:
            raise StartError(
                f"others may enter the runtime directory {self.path} (mode {stat.S_IMODE(info.st_mode):04o})",
                f"chmod 700 {self.path}, after a look at what is in it",
            )

    def _take_lock(self) -> int:
        fd = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            raise StartError(
                f"a daemon is already running in {self.path}", "stop it first, or choose another --runtime"
            ) from None
        return fd

    def bind(self, name: str, kind: socket.SocketKind) -> socket.socket:
        """A listening Unix socket `name` (0600). A dead daemon's socket is removed, anything else in the way is not."""
        path = self.path / name
        self._clear_stale(path, kind)
        sock = socket.socket(socket.AF_UNIX, kind)
        try:
            previous = os.umask(0o177)  # the socket is never wider than 0600, not even before a chmod
            try:
                sock.bind(os.fspath(path))
            finally:
                os.umask(previous)
            sock.listen(_BACKLOG)
        except OSError as e:
            sock.close()
            raise StartError(f"cannot listen on {path}: {e.strerror}") from None
        return sock

    def _clear_stale(self, path: Path, kind: socket.SocketKind) -> None:
        try:
            info = path.lstat()
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(info.st_mode) or info.st_uid != os.geteuid():
            raise StartError(f"{path} is in the way and is not a socket of ours", "look at it, then remove it")
        with socket.socket(socket.AF_UNIX, kind) as probe:
            probe.settimeout(2)
            answer = probe.connect_ex(os.fspath(path))
        if answer == errno.ECONNREFUSED:
            path.unlink()
            return
        raise StartError(f"a daemon is already answering on {path}", "stop it first, or choose another --runtime")

    def write(self, name: str, content: bytes, *, public: bool = False) -> Path:
        """Write a file in one step: a reader sees the old content or the new, never half.

        `public`: 0644, not 0600. The directory keeps others out; but root's jail shows the file alone, and who becomes another
        user inside must be able to read whom to trust.
        """
        path = self.path / name
        draft = path.with_name(f".{name}.new")
        draft.unlink(missing_ok=True)
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(fd, "wb") as file:
            if public:
                os.fchmod(fd, 0o644)
            file.write(content)
        draft.rename(path)
        return path

    def new_trust(self) -> Path:
        """A directory, to be made, for what jails show as the system's trust; another each time: running jails show the last."""
        number = 0
        while (path := self.path / (f"trust-{number}" if number else "trust")).exists() or path in self._trust:
            number += 1
        self._trust.append(path)
        return path

    def clear(self) -> None:
        """Remove what a daemon before left, when nobody goes on with it."""
        for trust in self.path.glob("trust*"):
            shutil.rmtree(trust, ignore_errors=True)
        for file in self.maps.iterdir():
            file.unlink(missing_ok=True)

    def outlast(self) -> None:
        """`clean` will leave what the programs of open jails read: another daemon goes on with them."""
        self._lasting = True

    def clean(self) -> None:
        """Remove what we made. Errors are not worth failing for: the next start clears what is left."""
        if not self._lasting:
            self._clean_files()
        for name in _SOCKETS if self._lasting else (*_SOCKETS, *_FILES):
            try:
                (self.path / name).unlink(missing_ok=True)
            except OSError:
                pass
        if not self._lasting:
            with contextlib.suppress(OSError):
                (self.path / "mint").rmdir()
        if self._remove:
            # NOTE: the lock file stays in a directory that lives on. Removing it would let one daemon lock the old file and
            # a second one the new.
            try:
                (self.path / "lock").unlink()
                self.path.rmdir()
            except OSError:
                pass
        os.close(self._lock)

    def _clean_files(self) -> None:
        shutil.rmtree(self.maps, ignore_errors=True)
        for trust in self._trust:
            shutil.rmtree(trust, ignore_errors=True)
