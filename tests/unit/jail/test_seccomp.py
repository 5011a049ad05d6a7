"""The system call filter, run by a small interpreter of classic BPF."""

from __future__ import annotations

import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpass.jail import seccomp

ALLOW = "allow"


def judge(program: bytes, number: int, arguments: tuple[int, ...] = (), arch: int = 0xC000003E) -> str:
    """What the filter says of one call: `allow`, or the name of an errno."""
    data = struct.pack("<IIQ6Q", number & 0xFFFFFFFF, arch, 0, *(arguments + (0,) * 6)[:6])
    code = list(struct.iter_unpack("<HBBI", program))
    accumulator = at = 0
    for _ in range(len(code)):
        operation, yes, no, value = code[at]
        at += 1
        match operation:
            case 0x20:
                accumulator = struct.unpack_from("<I", data, value)[0]
            case 0x54:
                accumulator &= value
            case 0x15:
                at += yes if accumulator == value else no
            case 0x35:
                at += yes if accumulator >= value else no
            case 0x45:
                at += yes if accumulator & value else no
            case 0x06:
                return ALLOW if value == 0x7FFF0000 else errno.errorcode[value & 0xFFFF] if value >> 16 == 5 else hex(value)
            case _:
                raise AssertionError(f"instruction {operation:#x}")
    raise AssertionError("the filter runs off its end")


def named(name: str, *arguments: int, machine: str = "x86_64", userns: bool = False) -> str:
    table = seccomp.MACHINES[machine]
    return judge(seccomp.program(machine, userns), table.calls[name], arguments, table.audit)


UNIX, INET, INET6, NETLINK, ALG, VSOCK, PACKET, XDP = 1, 2, 10, 16, 38, 40, 17, 44
STREAM, DGRAM, RAW, SEQPACKET = 1, 2, 3, 5
CLOEXEC, NONBLOCK = 0o2000000, 0o4000
REFUSED, MISSING, NO_FAMILY = "EPERM", "ENOSYS", "EAFNOSUPPORT"

CASES = [
    ("TCP", "socket", (INET, STREAM, 0), ALLOW),
    ("TCP by its number, with flags", "socket", (INET, STREAM | CLOEXEC | NONBLOCK, 6), ALLOW),
    ("TCP over IPv6", "socket", (INET6, STREAM, 6), ALLOW),
    ("UDP", "socket", (INET, DGRAM | CLOEXEC, 17), ALLOW),
    ("Unix sockets of every type", "socket", (UNIX, SEQPACKET, 0), ALLOW),
    ("routes and addresses", "socket", (NETLINK, RAW, 0), ALLOW),
    ("no other netlink", "socket", (NETLINK, RAW, 12), NO_FAMILY),
    ("no ICMP", "socket", (INET, DGRAM, 1), NO_FAMILY),
    ("no ICMPv6", "socket", (INET6, DGRAM, 58), NO_FAMILY),
    ("no MPTCP", "socket", (INET, STREAM, 262), NO_FAMILY),
    ("no SCTP", "socket", (INET, STREAM, 132), NO_FAMILY),
    ("no raw sockets", "socket", (INET, RAW, 6), NO_FAMILY),
    ("no raw sockets with flags", "socket", (INET, RAW | CLOEXEC, 255), NO_FAMILY),
    ("no old packet sockets", "socket", (INET, 10, 3), NO_FAMILY),
    ("no packets", "socket", (PACKET, RAW, 0), NO_FAMILY),
    ("no vsock", "socket", (VSOCK, STREAM, 0), NO_FAMILY),
    ("no crypto sockets", "socket", (ALG, SEQPACKET, 0), NO_FAMILY),
    ("no XDP", "socket", (XDP, RAW, 0), NO_FAMILY),
    ("the high half of an argument changes nothing (CVE-2019-10063)", "socket", (VSOCK | 1 << 32, STREAM, 0), NO_FAMILY),
    ("pairs of Unix sockets", "socketpair", (UNIX, STREAM, 0), ALLOW),
    ("no other pairs", "socketpair", (30, STREAM, 0), NO_FAMILY),
    ("io_uring is not there", "io_uring_setup", (), MISSING),
    ("no mounts", "mount", (), REFUSED),
    ("no joining of namespaces", "setns", (), REFUSED),
    ("no descriptors of others", "pidfd_getfd", (), REFUSED),
    ("no memory of others", "process_vm_writev", (), REFUSED),
    ("no keys", "keyctl", (), REFUSED),
    ("no bpf", "bpf", (), REFUSED),
    ("terminal settings", "ioctl", (0, 0x5401), ALLOW),
    ("no typing into the terminal", "ioctl", (0, 0x5412), REFUSED),
    ("no typing, whatever the high half says", "ioctl", (0, 0x5412 | 1 << 40), REFUSED),
    ("no pasting into the console", "ioctl", (0, 0x541C), REFUSED),
    ("fork", "clone", (0x1200011,), ALLOW),
    ("threads", "clone", (0x3D0F00,), ALLOW),
    ("no new namespaces by clone", "clone", (0x10000000 | 17,), REFUSED),
    ("none by unshare", "unshare", (0x10000000,), REFUSED),
    ("clone3 is not there, so that libc uses clone", "clone3", (), MISSING),
]


@pytest.mark.parametrize("machine", sorted(seccomp.MACHINES))
@pytest.mark.parametrize(("sentence", "name", "arguments", "verdict"), CASES)
def test_calls_by_name(machine: str, sentence: str, name: str, arguments: tuple[int, ...], verdict: str) -> None:
    assert named(name, *arguments, machine=machine) == verdict, sentence


@pytest.mark.parametrize("machine", sorted(seccomp.MACHINES))
@pytest.mark.parametrize("name", ["unshare", "clone3", "mount", "umount2", "pivot_root", "setns", "mount_setattr"])
def test_nested_sandboxes_work_where_they_are_allowed(machine: str, name: str) -> None:
    assert named(name, 0x10000000, machine=machine, userns=True) == ALLOW


@pytest.mark.parametrize("name", ["socket", "bpf", "keyctl", "open_tree", "io_uring_setup"])
def test_allowing_user_namespaces_allows_nothing_else(name: str) -> None:
    assert named(name, VSOCK, STREAM, userns=True) != ALLOW


@pytest.mark.parametrize(
    ("sentence", "number", "arch"),
    [
        ("i386", 102, 0x40000003),
        ("32-bit arm", 281, 0x40000028),
        ("aarch64 on x86-64", 198, 0xC00000B7),
        ("x32, whose numbers have bit 30", 0x40000000 | 41, 0xC000003E),
        ("a call younger than the table", seccomp.NEWEST + 1, 0xC000003E),
        ("number -1", -1, 0xC000003E),
    ],
)
def test_doors_that_nobody_looked_at_are_closed(sentence: str, number: int, arch: int) -> None:
    assert judge(seccomp.program("x86_64"), number, (), arch) == MISSING, sentence


@given(st.integers(0, 2**32 - 1), st.tuples(*[st.integers(0, 2**64 - 1)] * 6), st.booleans())
def test_every_call_gets_an_answer(number: int, arguments: tuple[int, ...], userns: bool) -> None:
    """Invariant: the filter ends in allow, EPERM, ENOSYS or EAFNOSUPPORT for every number and arguments."""
    for machine, table in seccomp.MACHINES.items():
        answer = judge(seccomp.program(machine, userns), number, arguments, table.audit)
        assert answer in {ALLOW, REFUSED, MISSING, NO_FAMILY}


@given(st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1))
def test_no_socket_is_made_outside_the_families(family: int, kind: int, protocol: int) -> None:
    """Invariant: what socket(2) may make is Unix, TCP, UDP or route netlink; nothing else."""
    if named("socket", family, kind, protocol) == ALLOW:
        assert (
            family == UNIX
            or (family == NETLINK and protocol == 0)
            or (family in (INET, INET6) and kind & 0xF in (STREAM, DGRAM) and protocol in (0, 6, 17))
        )


def test_jumps_fit_and_the_program_is_short() -> None:
    for machine in seccomp.MACHINES:
        assert len(seccomp.program(machine)) // 8 < 160


def test_the_numbers_are_those_of_this_machines_headers() -> None:
    """Where the C headers are installed; the other machine's were checked against asm-generic/unistd.h in the same way."""
    import re
    from pathlib import Path

    for machine, path in (
        ("x86_64", "/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
        ("aarch64", "/usr/include/asm-generic/unistd.h"),
    ):
        header = Path(path)
        if not header.exists():
            pytest.skip(f"{path} is not installed")
        known = {n: int(v) for n, v in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", header.read_text())}
        calls = seccomp.MACHINES[machine].calls
        assert {n: known[n] for n in calls if n in known} == {n: v for n, v in calls.items() if n in known}
        assert len([n for n in calls if n in known]) > 30
