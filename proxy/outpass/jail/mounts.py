"""Carrying out the steps that change what files CMD sees.

Lives here: mount(2) in the jail's own mount namespace. May not live here: which paths (recipe.py, places.py).
Nothing is ever unmounted: the namespace ends with its last process.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

from outpass.jail import syscalls
from outpass.jail.steps import Bind, Freeze, Keep, Mask, MinimalDevices, Veil
from outpass.jail.veils import below

_NO_TRICKS: Final = syscalls.MS_NOSUID | syscalls.MS_NODEV
_GONE: Final = (errno.ENOENT, errno.EACCES, errno.ENOTDIR, errno.ELOOP)
"""A path that vanished since it was looked at, or that this user cannot reach: then CMD cannot either."""


def detach() -> None:
    """Mounts made here stay here. Slave, not private: the host's automounter must still be able to answer us."""
    syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_SLAVE)


def veil(step: Veil) -> None:
    """An empty file system over `step.path`, and what it keeps put back at its place."""
    held = [(keep, _hold(keep)) for keep in step.keeps]
    try:
        syscalls.mount("tmpfs", step.path, "tmpfs", _NO_TRICKS, f"mode={step.mode:o}")
        for path, mode in step.folders:
            _folder(path, step.path, mode)
        for path, content in step.files:
            _file(path, step.path, content)
        for keep, fd in held:
            if fd is not None:
                _put_back(keep, fd, step.path)
        if step.read_only:
            syscalls.set_read_only(step.path, True)
    finally:
        for _, fd in held:
            if fd is not None:
                os.close(fd)


def _hold(keep: Keep) -> int | None:
    """A handle on what is to be kept, taken before the veil hangs. None where it may be missing, and is."""
    try:
        return os.open(keep.path, os.O_PATH | os.O_CLOEXEC)
    except OSError as bad:
        if bad.errno == errno.ENOENT and not keep.needed:
            return None
        raise


def _put_back(keep: Keep, fd: int, veiled: str) -> None:
    if stat.S_ISDIR(os.fstat(fd).st_mode):
        _folder(keep.path, veiled, 0o755)
    else:
        _file(keep.path, veiled, "")
    syscalls.mount(f"/proc/self/fd/{fd}", keep.path, None, syscalls.MS_BIND | syscalls.MS_REC)
    if keep.read_only:
        syscalls.set_read_only(keep.path, True, recursive=True)


def _folder(path: str, root: str, mode: int) -> None:
    if path == root:
        return
    parent = os.path.dirname(path)
    if below(parent, root) and not os.path.isdir(parent):
        _folder(parent, root, 0o755)
    if not os.path.isdir(path):
        os.mkdir(path)
        os.chmod(path, mode)  # whatever the umask is


def _file(path: str, root: str, content: str) -> None:
    if os.path.lexists(path):  # below a directory that is kept and in place
        return
    _folder(os.path.dirname(path), root, 0o755)
    with open(path, "x") as file:
        file.write(content)
    os.chmod(path, 0o644)


def mask(step: Mask) -> None:
    """/dev/null over one file or socket."""
    try:
        syscalls.mount("/dev/null", step.path, None, syscalls.MS_BIND)
    except OSError as bad:
        if bad.errno not in _GONE:
            raise


def bind(step: Bind) -> None:
    """`source` at `target`."""
    try:
        syscalls.mount(step.source, step.target, None, syscalls.MS_BIND | syscalls.MS_REC)
    except OSError as bad:
        if step.needed or bad.errno not in _GONE:
            raise
        return
    if step.read_only:
        syscalls.set_read_only(step.target, True, recursive=True)


def freeze(step: Freeze) -> None:
    """Everything read-only but `step.writable`, each of which becomes a mount of its own."""
    for path in step.writable:
        syscalls.mount(path, path, None, syscalls.MS_BIND | syscalls.MS_REC)
    syscalls.set_read_only("/", True, recursive=True)
    for path in step.writable:
        syscalls.set_read_only(path, False)


def minimal_devices(step: MinimalDevices) -> None:
    """A new /dev, built aside and moved into place. Nodes are bound, not made: no namespace lets us make any."""
    aside = "/tmp"  # noqa: S108 any directory: the new file system moves on to /dev
    syscalls.mount("tmpfs", aside, "tmpfs", syscalls.MS_NOSUID, "mode=755")
    for name in step.nodes:
        path = f"{aside}/{name}"
        with open(path, "x"):
            pass
        syscalls.mount(f"/dev/{name}", path, None, syscalls.MS_BIND)
    for name, mode in (("pts", 0o755), ("shm", 0o1777), ("mqueue", 0o1777)):
        os.mkdir(f"{aside}/{name}")
        os.chmod(f"{aside}/{name}", mode)
    options = "newinstance,ptmxmode=0666,mode=620"
    syscalls.mount("devpts", f"{aside}/pts", "devpts", syscalls.MS_NOSUID | syscalls.MS_NOEXEC, options)
    syscalls.mount("tmpfs", f"{aside}/shm", "tmpfs", _NO_TRICKS, "mode=1777")
    os.symlink("pts/ptmx", f"{aside}/ptmx")
    os.symlink("/proc/self/fd", f"{aside}/fd")
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        os.symlink(f"/proc/self/fd/{number}", f"{aside}/{name}")
    syscalls.mount(aside, "/dev", None, syscalls.MS_MOVE)


def fresh_proc() -> None:
    """/proc of the PID namespace that this process is in."""
    syscalls.mount("proc", "/proc", "proc", _NO_TRICKS | syscalls.MS_NOEXEC)
