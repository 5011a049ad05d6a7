"""The system call filter, as bytes: what no program in a jail may ask of the kernel.

Lives here: the tables of system calls and the assembler of the filter. Pure. May not live here: loading it (syscalls.py).

What is refused and why:
  * another machine's calls (i386, x32, arm) and calls younger than this table: ENOSYS. They are doors that nobody looked at
    (moby#39415, codex#10814); the C library falls back to the older call.
  * io_uring: ENOSYS. It opens and connects sockets without socket(2) and connect(2) ever being seen (birdcage#32).
  * sockets of families that no network namespace contains (vsock leads to the hypervisor, CVE-2024-50264), raw and packet
    sockets, and protocols that nft does not see as TCP: EAFNOSUPPORT, which programs take as "not built in".
  * new user namespaces: EPERM. With one comes every capability, and the kernel's whole attack surface with it.
  * mounts, keys, modules, other processes' memory and descriptors: EPERM. Typing into the terminal (TIOCSTI): EPERM.
ptrace stays allowed: the user namespace already keeps it in the jail, and debuggers are everyday tools.
"""

from __future__ import annotations

import errno
import functools
import struct
from typing import Final, NamedTuple

ALLOW: Final = 0x7FFF_0000
_ERRNO: Final = 0x0005_0000

NEWEST: Final = 469
"""file_setattr, Linux 6.17: the youngest call that was looked at. Numbers are common to all machines from 424 on."""

_COMMON: Final = {
    "io_uring_setup": 425,
    "io_uring_enter": 426,
    "io_uring_register": 427,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "fspick": 433,
    "clone3": 435,
    "pidfd_getfd": 438,
    "mount_setattr": 442,
    "quotactl_fd": 443,
    "open_tree_attr": 467,
}


class Machine(NamedTuple):
    """One architecture: its audit number (linux/audit.h) and its numbers of the calls that the filter names."""

    audit: int
    calls: dict[str, int]


def _machine(audit: int, **calls: int) -> Machine:
    return Machine(audit, {**_COMMON, **calls})


MACHINES: Final = {
    "x86_64": _machine(
        0xC000_003E,
        ioctl=16,
        socket=41,
        socketpair=53,
        clone=56,
        uselib=134,
        modify_ldt=154,
        pivot_root=155,
        acct=163,
        mount=165,
        umount2=166,
        swapon=167,
        swapoff=168,
        reboot=169,
        iopl=172,
        ioperm=173,
        init_module=175,
        delete_module=176,
        quotactl=179,
        nfsservctl=180,
        lookup_dcookie=212,
        kexec_load=246,
        add_key=248,
        request_key=249,
        keyctl=250,
        unshare=272,
        perf_event_open=298,
        fanotify_init=300,
        open_by_handle_at=304,
        setns=308,
        process_vm_readv=310,
        process_vm_writev=311,
        kcmp=312,
        finit_module=313,
        kexec_file_load=320,
        bpf=321,
        userfaultfd=323,
    ),
    "aarch64": _machine(
        0xC000_00B7,
        lookup_dcookie=18,
        ioctl=29,
        umount2=39,
        mount=40,
        pivot_root=41,
        nfsservctl=42,
        quotactl=60,
        acct=89,
        unshare=97,
        kexec_load=104,
        init_module=105,
        delete_module=106,
        reboot=142,
        socket=198,
        socketpair=199,
        add_key=217,
        request_key=218,
        keyctl=219,
        clone=220,
        swapon=224,
        swapoff=225,
        perf_event_open=241,
        fanotify_init=262,
        open_by_handle_at=265,
        setns=268,
        process_vm_readv=270,
        process_vm_writev=271,
        kcmp=272,
        finit_module=273,
        bpf=280,
        userfaultfd=282,
        kexec_file_load=294,
    ),
}

_MISSING: Final = ("io_uring_setup", "io_uring_enter", "io_uring_register")
"""Answered with ENOSYS: programs then use the older interface."""

_ARGUMENTS: Final = ("ioctl", "socket", "socketpair", "clone", "clone3", "unshare")
"""Judged by their arguments, or only where user namespaces are not allowed; all other named calls are refused outright."""

_NESTING: Final = ("mount", "umount2", "pivot_root", "setns", "mount_setattr")
"""What a nested sandbox (bwrap, Chrome, outpass itself) needs besides user namespaces. Without capabilities they do nothing,
and a nested namespace cannot lift the masks: they are locked together (mount_namespaces(7))."""

_CLONE_NEW: Final = 0x7E02_0000
"""CLONE_NEWNS, CGROUP, UTS, IPC, USER, PID, NET."""
_TIOCSTI: Final = 0x5412
_TIOCLINUX: Final = 0x541C
_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK = 1, 2, 10, 16
_STREAM, _DGRAM, _TYPE_MASK = 1, 2, 0xF
_NETLINK_ROUTE: Final = 0
_PROTOCOLS: Final = (0, 6, 17)
"""Default, TCP, UDP: not ICMP, not MPTCP (262), not SCTP, not UDP-Lite."""

_LD, _AND, _JEQ, _JGE, _JSET, _RET = 0x20, 0x54, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCH, _ARGS = 0, 4, 16
"""Offsets in struct seccomp_data. Arguments are 64 bits; the kernel takes those looked at as 32 (CVE-2019-10063), so the
low word, which comes first on both machines, is what counts."""


class _Assembler:
    """Classic BPF with forward labels; a jump without a label goes to the next instruction."""

    def __init__(self) -> None:
        self.code: list[tuple[int, str, str, int]] = []
        self.labels: dict[str, int] = {}

    def put(self, code: int, value: int, then: str = "", otherwise: str = "") -> None:
        self.code.append((code, then, otherwise, value))

    def argument(self, index: int) -> None:
        self.put(_LD, _ARGS + 8 * index)

    def label(self, name: str) -> None:
        self.labels[name] = len(self.code)

    def bytes(self) -> bytes:
        out = bytearray()
        for at, (code, then, otherwise, value) in enumerate(self.code):
            yes, no = (self.labels[name] - at - 1 if name else 0 for name in (then, otherwise))
            out += struct.pack("=HBBI", code, yes, no, value)
        return bytes(out)


@functools.cache
def program(machine: str, allow_userns: bool = False) -> bytes:
    """The filter for `machine` (a key of MACHINES), 8 bytes an instruction. KeyError for a machine without a table."""
    audit, calls = MACHINES[machine]
    asm = _Assembler()
    asm.put(_LD, _ARCH)
    asm.put(_JEQ, audit, "", "missing")
    asm.put(_LD, _NUMBER)
    asm.put(_JGE, NEWEST + 1, "missing")  # x32 numbers have bit 30 set, so they end here as well
    for name in _MISSING:
        asm.put(_JEQ, calls[name], "missing")
    for name, number in calls.items():
        if name not in _MISSING and name not in _ARGUMENTS and not (allow_userns and name in _NESTING):
            asm.put(_JEQ, number, "refused")
    for name in ("ioctl", "socketpair", "socket"):
        asm.put(_JEQ, calls[name], name)
    if not allow_userns:
        # the flags of clone3 are in memory, where no filter can look; without it libc uses clone
        asm.put(_JEQ, calls["clone3"], "missing")
        asm.put(_JEQ, calls["unshare"], "refused")
        asm.put(_JEQ, calls["clone"], "clone")
    asm.put(_RET, ALLOW)
    _endings(asm)
    _by_arguments(asm)
    return asm.bytes()


def _endings(asm: _Assembler) -> None:
    for label, number in (("missing", errno.ENOSYS), ("refused", errno.EPERM)):
        asm.label(label)
        asm.put(_RET, _ERRNO | number)


def _by_arguments(asm: _Assembler) -> None:
    """The blocks that look at arguments. Jumps go forward only, so each block ends in returns of its own."""

    def end(name: str) -> None:
        asm.label(f"{name}-fine")
        asm.put(_RET, ALLOW)
        asm.label(f"{name}-no")

    asm.label("clone")
    asm.argument(0)
    asm.put(_JSET, _CLONE_NEW, "clone-no", "clone-fine")
    end("clone")
    asm.put(_RET, _ERRNO | errno.EPERM)
    asm.label("ioctl")
    asm.argument(1)
    asm.put(_JEQ, _TIOCSTI, "ioctl-no")
    asm.put(_JEQ, _TIOCLINUX, "ioctl-no", "ioctl-fine")
    end("ioctl")
    asm.put(_RET, _ERRNO | errno.EPERM)
    asm.label("socketpair")
    asm.argument(0)
    asm.put(_JEQ, _AF_UNIX, "pair-fine", "pair-no")
    end("pair")
    asm.put(_RET, _ERRNO | errno.EAFNOSUPPORT)
    asm.label("socket")
    asm.argument(0)
    asm.put(_JEQ, _AF_UNIX, "socket-fine")
    asm.put(_JEQ, _AF_INET, "inet")
    asm.put(_JEQ, _AF_INET6, "inet")
    asm.put(_JEQ, _AF_NETLINK, "netlink", "socket-no")
    asm.label("netlink")  # getaddrinfo and if_nameindex ask for addresses; without capabilities it only answers
    asm.argument(2)
    asm.put(_JEQ, _NETLINK_ROUTE, "socket-fine", "socket-no")
    asm.label("inet")
    asm.argument(1)
    asm.put(_AND, _TYPE_MASK)
    asm.put(_JEQ, _STREAM, "protocol")
    asm.put(_JEQ, _DGRAM, "protocol", "socket-no")
    asm.label("protocol")
    asm.argument(2)
    for number in _PROTOCOLS:
        asm.put(_JEQ, number, "socket-fine")
    asm.put(_JEQ, _PROTOCOLS[0], "socket-fine", "socket-no")
    end("socket")
    asm.put(_RET, _ERRNO | errno.EAFNOSUPPORT)
