"""What this machine and this user are like, as far as a jail depends on it.

Lives here: reading /proc, looking which paths exist, descriptors that must not be handed on. May not live here: what follows
from it (recipe.py), trying anything out (probe.py).
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from outpass.errors import StartError
from outpass.jail import places, syscalls
from outpass.jail.recipe import Host

MAPPED_IDS: Final = 65536
"""Ids that root's jail knows: as many as any distribution hands out."""
MAX_SEARCH: Final = 64
_CAP_SETUID: Final = 7
_CAP_SYS_ADMIN: Final = 21
_EMPTY_IN_PROC: Final = ("/proc/sys/fs/binfmt_misc",)
_NETFILTER: Final = 12
_EFFECTIVE: Final = "CapEff:"
_JVMS: Final = ("/usr/lib/jvm", "/opt/java", "/Library/Java")


def identity_map(lines: str, limit: int = MAPPED_IDS) -> str:
    """From a process's own uid_map or gid_map, the map that gives a child namespace the same ids below `limit`."""
    ranges = []
    for line in lines.splitlines():
        first, _, count = map(int, line.split())
        if first < limit:
            ranges.append(f"{first} {first} {min(count, limit - first)}")
    return "\n".join(ranges)


def proc_is_whole(mountinfo: str) -> bool:
    """Whether nothing covers parts of /proc: else the kernel refuses a fresh one ("mount too revealing")."""
    points = [line.split()[4] for line in mountinfo.splitlines()]
    return not any(p.startswith("/proc/") and p not in _EMPTY_IN_PROC for p in points)


def socket_paths(table: str) -> list[str]:
    """Absolute paths in /proc/net/unix: bound sockets, not only listening ones (datagram sockets are never marked so)."""
    found = []
    for line in table.splitlines()[1:]:
        fields = line.split(maxsplit=7)
        if len(fields) == 8 and fields[7].startswith("/"):
            found.append(fields[7])
    return sorted(set(found))


def _sockets() -> tuple[str, ...]:
    found = []
    for path in socket_paths(_read("/proc/net/unix")):
        try:
            if stat.S_ISSOCK(os.lstat(path).st_mode):
                found.append(os.path.realpath(path))
        except OSError:  # gone, or not for us: then not for CMD either
            pass
    return tuple(sorted(set(found)))


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""


def _capabilities() -> int:
    lines = _read("/proc/self/status").splitlines()
    return next((int(line.removeprefix(_EFFECTIVE), 16) for line in lines if line.startswith(_EFFECTIVE)), 0)


def java_stores(env: Mapping[str, str]) -> list[str]:
    """Trust stores of the Javas that are installed, by their canonical paths."""
    homes = [env["JAVA_HOME"]] if env.get("JAVA_HOME") else []
    for parent in _JVMS:
        try:
            homes += [f"{parent}/{name}" for name in sorted(os.listdir(parent))]
        except OSError:
            pass
    stores = {os.path.realpath(os.path.join(home, places.JAVA_STORE)) for home in homes}
    return sorted(s for s in stores if os.path.isfile(s))


def look(env: Mapping[str, str]) -> Host:
    """This machine, now. Costs about half a millisecond; changes nothing."""
    uid, gid = os.geteuid(), os.getegid()
    capabilities = _capabilities()
    privileged = uid == 0 and bool(capabilities >> _CAP_SETUID & 1) and bool(capabilities >> _CAP_SYS_ADMIN & 1)
    present = [p for p in places.CANDIDATES if os.path.exists(p)] + java_stores(env)
    real = {p: os.path.realpath(p) for p in present}
    return Host(
        uid=uid,
        gid=gid,
        privileged=privileged,
        uids=identity_map(_read("/proc/self/uid_map")) if privileged else f"{uid} {uid} 1",
        gids=identity_map(_read("/proc/self/gid_map")) if privileged else f"{gid} {gid} 1",
        machine=os.uname().machine,
        ipv6=os.path.exists("/proc/net/if_inet6"),
        landlock=syscalls.landlock_abi(),
        fresh_proc=proc_is_whole(_read("/proc/self/mountinfo")),
        sockets=_sockets(),
        present=frozenset(present),
        real={p: r for p, r in real.items() if p != r},
    )


def search_list(env: Mapping[str, str], path: str = "/etc/resolv.conf") -> list[str]:
    """Domains that the C library appends to short names: $LOCALDOMAIN, else the last `search` or `domain` (resolv.conf(5))."""
    found: list[str] = []
    for line in _read(path).splitlines():
        word, *rest = line.split() or [""]
        if word in ("search", "domain"):
            found = rest[:MAX_SEARCH] if word == "search" else rest[:1]
    return env["LOCALDOMAIN"].split()[:MAX_SEARCH] if "LOCALDOMAIN" in env else found


def check_descriptors(keep: Sequence[int]) -> None:
    """Raises StartError for a descriptor of CMD's that would be a way around the jail.

    A TCP socket can be disconnected and connected anew in the network namespace it came from, a datagram socket sends
    wherever it is told, and a directory opened outside shows what the veils hide. A connected or listening Unix stream
    leads to its one peer and stays allowed: systemd's journal and Node's pipes are such.
    """
    for fd in (0, 1, 2, *keep):
        try:
            mode = os.fstat(fd).st_mode
        except OSError:
            if fd in keep:
                raise StartError(f"--keep-fd {fd}: there is no such descriptor") from None
            continue
        name = {0: "standard input", 1: "standard output", 2: "standard error"}.get(fd, f"--keep-fd {fd}")
        if stat.S_ISDIR(mode):
            raise StartError(f"{name} is a directory, which would show what the jail hides", "redirect it from or to a file")
        if stat.S_ISSOCK(mode) and not _harmless(fd):
            raise StartError(f"{name} is a socket that leads out of the jail", "put a pipe between: cat | outpass run … | cat")


def _harmless(fd: int) -> bool:
    with socket.socket(fileno=os.dup(fd)) as sock:
        return sock.family == socket.AF_UNIX and sock.type in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET) and _has_end(sock)


def _has_end(sock: socket.socket) -> bool:
    """Connected or listening: neither can be connected anew."""
    if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return True
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


def netlink_is_filtered() -> bool:
    """Whether a filter of system calls lies around us that refuses nftables: every kernel has AF_NETLINK itself.

    The jail's own is such, with `--allow-userns` too: a nested jail then has no transparent listener and no table of sockets.
    """
    try:
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETFILTER).close()
    except OSError as bad:
        return bad.errno == errno.EAFNOSUPPORT
    return False


def canonical(paths: Iterable[str]) -> tuple[str, ...]:
    """Each once, without symbolic links, in order."""
    return tuple(dict.fromkeys(os.path.realpath(p) for p in paths if p))
