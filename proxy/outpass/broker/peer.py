"""Kernel facts about the process at the other end of a socket: who it is, still is, and descends from.

Lives here: peer credentials, pidfds, /proc/PID/stat and exe, the walk to a process's ancestors. May not live here: what
follows from the facts (session.py), anything that the process says about itself.

A pid alone names nobody: it is reused. A process is (pid, start time), checked again after use while a pidfd pins it; a
program image is that plus the executable and the addresses at which the kernel put its code and stack, which exec
changes (start times do not) and fork does not.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
from typing import Final, NamedTuple

SO_PEERPIDFD: Final = 77
"""Linux 6.5: a pidfd of the process that connected, without the race of pid → pidfd. Python has no name for it."""
MAX_ANCESTORS: Final = 128
"""Processes that the walk looks at; a deeper tree counts as not descended from anybody."""

_UCRED: Final = struct.Struct("3i")
CREDENTIALS_SPACE: Final = socket.CMSG_SPACE(_UCRED.size)
"""Bytes of ancillary data that one SCM_CREDENTIALS message takes."""


class Credentials(NamedTuple):
    """As the kernel gives them, in our pid and user namespace."""

    pid: int
    uid: int
    gid: int


class Image(NamedTuple):
    """One program as loaded: equal after fork, different after exec (address randomisation makes that certain)."""

    device: int
    inode: int
    code: int
    """Address of the program text; 0 or 1 where the kernel does not tell us."""
    stack: int
    """Address of the stack's bottom; as above."""


class Process(NamedTuple):
    """What /proc says about one process at one moment."""

    pid: int
    ppid: int
    start: int
    """Clock ticks after boot; never changes over exec."""
    code: int
    stack: int

    @property
    def key(self) -> tuple[int, int]:
        """Names this process and no other, past or future."""
        return self.pid, self.start


def peer_credentials(sock: socket.socket) -> Credentials:
    """Of the process that connected (SO_PEERCRED), as it was at that moment."""
    return Credentials(*_UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)))


def unpack_credentials(content: bytes) -> Credentials:
    """Of the process that sent one message (SCM_CREDENTIALS)."""
    return Credentials(*_UCRED.unpack_from(content))


def peer_pidfd(sock: socket.socket, pid: int) -> int:
    """A pidfd (close-on-exec) of the process that connected. ProcessLookupError when it is gone, but only before Linux
    6.16: later kernels give one of the dead process, so `still_alive` is what counts.

    Kernels before 6.5 only give the pid: then the caller's `still_alive` and start time checks after this are what
    closes the race, and a process that died between connect and now is refused by them.
    """
    try:
        return sock.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD)
    except OSError as e:
        if e.errno in (errno.ENOPROTOOPT, errno.EOPNOTSUPP):
            return os.pidfd_open(pid)
        if e.errno in (errno.ESRCH, errno.EINVAL, errno.ENODATA):  # reaped; the number differs by kernel version
            raise ProcessLookupError(errno.ESRCH, "the process has ended") from None
        raise


def still_alive(pidfd: int) -> bool:
    """Whether the process of `pidfd` has not ended yet (a zombie has)."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return not poll.poll(0)


def read_process(pid: int, proc: str = "/proc") -> Process:
    """The process with this pid now. ProcessLookupError when there is none."""
    try:
        fd = os.open(f"{proc}/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise ProcessLookupError(errno.ESRCH, "the process has ended") from None
    try:
        text = os.read(fd, 4096)  # ESRCH when it ends between open and read
    finally:
        os.close(fd)
    # The name in field 2 may hold spaces and parentheses of its own, so everything is counted from the last one.
    fields = text[text.rindex(b")") + 2 :].split()
    return Process(pid, int(fields[1]), int(fields[19]), int(fields[23]), int(fields[25]))


def read_image(process: Process, proc: str = "/proc") -> Image:
    """The program that `process` runs. ProcessLookupError when it is gone, PermissionError when it hides itself."""
    try:
        exe = os.stat(f"{proc}/{process.pid}/exe")
    except FileNotFoundError:
        raise ProcessLookupError(errno.ESRCH, "the process has ended") from None
    return Image(exe.st_dev, exe.st_ino, process.code, process.stack)


def read_exe(pid: int, proc: str = "/proc") -> str:
    """Path of the program of `pid`, for people; empty when it cannot be read."""
    try:
        return os.readlink(f"{proc}/{pid}/exe")
    except OSError:
        return ""


def ancestors(process: Process, proc: str = "/proc") -> list[Process]:
    """Parents of `process`, nearest first, as far as every step holds.

    A parent that started after its child is another process under a reused pid: the walk ends there. It also ends at
    pid 0 (another namespace, or the top) and after MAX_ANCESTORS.
    """
    found: list[Process] = []
    child = process
    while child.ppid > 0 and len(found) < MAX_ANCESTORS:
        try:
            parent = read_process(child.ppid, proc)
        except (ProcessLookupError, PermissionError):
            break
        if parent.start > child.start:
            break
        found.append(parent)
        child = parent
    return found
