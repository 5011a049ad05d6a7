"""The system calls that Python has no name for.

Lives here: ctypes, numbers of system calls and constants of the kernel's headers. May not live here: when and in which
order they are called. Every wrapper raises OSError with the call's errno.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from typing import Final

from outpass.errors import StartError

NAMESPACES: Final = {
    "user": 0x1000_0000,
    "net": 0x4000_0000,
    "mount": 0x0002_0000,
    "ipc": 0x0800_0000,
    "pid": 0x2000_0000,
}
"""CLONE_NEW* of linux/sched.h."""

MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MS_NOEXEC: Final = 8
MS_BIND: Final = 4096
MS_MOVE: Final = 8192
MS_REC: Final = 16384
MS_SLAVE: Final = 1 << 19

PR_SET_PDEATHSIG: Final = 1
PR_SET_DUMPABLE: Final = 4
PR_CAPBSET_DROP: Final = 24
PR_SET_SECUREBITS: Final = 28
PR_SET_NO_NEW_PRIVS: Final = 38
PR_CAP_AMBIENT: Final = 47
PR_CAP_AMBIENT_CLEAR_ALL: Final = 4

_MOUNT_SETATTR: Final = 442
_LANDLOCK: Final = (444, 446)
_CLOSE_RANGE: Final = 436
"""Added after system call numbers were unified: the same on every machine."""
_SECCOMP: Final = {"x86_64": 317, "aarch64": 277}

_AT_FDCWD: Final = -100
_AT_RECURSIVE: Final = 0x8000
_MOUNT_ATTR_RDONLY: Final = 1
_CAPABILITY_VERSION_3: Final = 0x2008_0522
_LANDLOCK_SCOPES: Final = 0b11
"""Abstract Unix sockets and signals: Landlock ABI 6, Linux 6.12."""
_CLOSE_RANGE_CLOEXEC: Final = 4

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.prctl.argtypes = (ctypes.c_int, *[ctypes.c_ulong] * 4)


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result


def _path(path: str | None) -> bytes | None:
    return None if path is None else os.fsencode(path)


def unshare(flags: int) -> None:
    """unshare(2). EINVAL when the process has threads and `flags` asks for a user namespace."""
    _checked(_libc.unshare(flags), "unshare")


def mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    """mount(2)."""
    done = _libc.mount(_path(source), _path(target), _path(kind), ctypes.c_ulong(flags), _path(data))
    _checked(done, f"mount {target}")


def set_read_only(path: str, read_only: bool, *, recursive: bool = False) -> None:
    """mount_setattr(2), Linux 5.12: only this attribute changes, so attributes locked from outside are no obstacle."""
    bit = _MOUNT_ATTR_RDONLY
    attributes = struct.pack("=QQQQ", bit if read_only else 0, 0 if read_only else bit, 0, 0)
    flags = _AT_RECURSIVE if recursive else 0
    size = ctypes.c_size_t(len(attributes))
    _checked(_libc.syscall(_MOUNT_SETATTR, _AT_FDCWD, _path(path), flags, attributes, size), f"mount_setattr {path}")


def disconnect(fd: int) -> None:
    """connect(2) to no address: a datagram socket takes packets of everybody again."""
    address = struct.pack("=H14x", socket.AF_UNSPEC)
    _checked(_libc.connect(fd, address, len(address)), "connect to nothing")


def prctl(option: int, *arguments: int) -> int:
    """prctl(2)."""
    return _checked(_libc.prctl(option, *(*arguments, 0, 0, 0, 0)[:4]), f"prctl {option}")


def capset(effective: int) -> None:
    """capset(2) of this process: `effective` is also the permitted set; nothing is inheritable. A bit mask."""
    low, high = effective & 0xFFFF_FFFF, effective >> 32
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    _checked(_libc.capset(header, struct.pack("=6I", low, low, 0, high, high, 0)), "capset")


def landlock_abi() -> int:
    """The kernel's Landlock version; 0 where it is not built in or not switched on."""
    version = _libc.syscall(_LANDLOCK[0], None, ctypes.c_size_t(0), ctypes.c_uint(1))
    return max(int(version), 0)


def landlock_scope() -> None:
    """Scope signals and abstract Unix sockets to this process and its descendants. Needs no_new_privs, ABI 6."""
    attributes = struct.pack("=QQQ", 0, 0, _LANDLOCK_SCOPES)
    size = ctypes.c_size_t(len(attributes))
    ruleset = _checked(_libc.syscall(_LANDLOCK[0], attributes, size, ctypes.c_uint(0)), "landlock_create_ruleset")
    try:
        _checked(_libc.syscall(_LANDLOCK[1], ruleset, ctypes.c_uint(0)), "landlock_restrict_self")
    finally:
        os.close(ruleset)


def seccomp(program: bytes, machine: str) -> None:
    """Load a classic BPF filter (8 bytes an instruction). Needs no_new_privs."""
    if machine not in _SECCOMP:
        raise StartError(f"there is no system call table for {machine}", "outpass has one for x86_64 and aarch64")
    code = ctypes.create_string_buffer(program, len(program))
    head = ctypes.create_string_buffer(struct.pack("@HP", len(program) // 8, ctypes.addressof(code)))
    _checked(_libc.syscall(_SECCOMP[machine], ctypes.c_uint(1), ctypes.c_uint(0), head), "seccomp")


def close_on_exec(first: int, last: int) -> None:
    """close_range(2) with CLOSE_RANGE_CLOEXEC, Linux 5.11: every descriptor of first…last."""
    if first <= last:
        _checked(_libc.syscall(_CLOSE_RANGE, ctypes.c_uint(first), ctypes.c_uint(last), _CLOSE_RANGE_CLOEXEC), "close_range")
