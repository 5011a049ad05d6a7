"""What the jail's network namespace is told: loopback up, every address local, TCP led to the gate's listener.

Lives here: the bytes of rtnetlink and nfnetlink messages, and sending them. May not live here: which of them are wanted.
Written by hand: importing pyroute2 costs 180 ms of every launch, libnftables 2–10 ms, these bytes 0.5 ms.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from typing import Final

_F_REQUEST: Final = 1
_F_ACK: Final = 4
_F_EXCLUSIVE: Final = 0x200
_F_CREATE: Final = 0x400
_F_APPEND: Final = 0x800
_ERROR: Final = 2

_SIOCGIFFLAGS: Final = 0x8913
_SIOCSIFFLAGS: Final = 0x8914
_IFF_UP: Final = 1

_RTM_NEWROUTE: Final = 24
_LO: Final = 1
"""Index of `lo`: always 1 in a new network namespace."""

_SOCK_DIAG: Final = 4
_NETFILTER: Final = 12
_NFT: Final = 0xA00
_NFT_TABLE: Final = _NFT
_NFT_CHAIN: Final = _NFT | 3
_NFT_RULE: Final = _NFT | 6
_NFT_SUBSYSTEM: Final = 10
_BATCH_BEGIN: Final = 0x10
_BATCH_END: Final = 0x11
_NESTED: Final = 0x8000
_PREROUTING: Final = 0
_PRIORITY_MANGLE: Final = -150
_REGISTER: Final = 1
"""NFT_REG_1. Register 0 is the verdict."""
_L4PROTO: Final = 16
_TCP: Final = 6
_ACCEPT: Final = 1

DUMMY: Final = "192.0.0.8"
"""The IPv4 dummy address (RFC 7600)."""
_SIOCSIFADDR: Final = 0x8916
FAMILIES: Final = {"ip4": socket.AF_INET, "ip6": socket.AF_INET6}


def loopback_up() -> None:
    """`ip link set lo up`, with an address that is not loopback's.

    Without one, resolvers that heed AI_ADDRCONFIG (RFC 3493, section 6.1) take the machine for one without IPv4: glibc then
    answers requests for IPv4 addresses with "name or service not known", and asks nobody.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        answer = fcntl.ioctl(sock, _SIOCGIFFLAGS, struct.pack("16sH14x", b"lo", 0))
        flags: int = struct.unpack_from("H", answer, 16)[0]
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | _IFF_UP))
        address = struct.pack("16sH2x4s8x", b"lo:1", socket.AF_INET, socket.inet_aton(DUMMY))
        fcntl.ioctl(sock, _SIOCSIFADDR, address)


def route_message(family: str) -> bytes:
    """`ip route add local 0.0.0.0/0 dev lo` or `ip -6 route add local ::/0 dev lo`, as one rtnetlink message."""
    number = FAMILIES[family]
    scope = 254 if family == "ip4" else 0  # RT_SCOPE_HOST; v6 knows no scopes
    # family, dst_len, src_len, tos, table local (255), protocol boot (3), scope, type local (2), flags
    body = struct.pack("=BBBBBBBBI", number, 0, 0, 0, 255, 3, scope, 2, 0) + struct.pack("=HHI", 8, 4, _LO)
    flags = _F_REQUEST | _F_ACK | _F_CREATE | _F_EXCLUSIVE
    return struct.pack("=IHHII", 16 + len(body), _RTM_NEWROUTE, flags, 1, 0) + body


def add_route(family: str) -> None:
    """Make every address of `family` local. Raises OSError with the kernel's errno."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as sock:
        sock.settimeout(5)
        sock.send(route_message(family))
        _acknowledged(sock, 1)


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def _nest(kind: int, *attributes: bytes) -> bytes:
    return _attribute(kind | _NESTED, b"".join(attributes))


def _be32(value: int) -> bytes:
    return struct.pack(">I", value & 0xFFFF_FFFF)


def _name(text: str) -> bytes:
    return text.encode() + b"\0"


def _expression(name: str, *attributes: bytes) -> bytes:
    return _nest(1, _attribute(1, _name(name)), _nest(2, *attributes))


def _equals(value: bytes) -> bytes:
    return _expression("cmp", _attribute(1, _be32(_REGISTER)), _attribute(2, _be32(0)), _nest(3, _attribute(1, value)))


def _spare_loopback(family: str) -> bytes:
    """`ip daddr 127.0.0.0/8 accept` or `ip6 daddr ::1 accept`: loopback is the jail's own."""
    offset, value = (16, b"\x7f") if family == "ip4" else (24, b"\0" * 15 + b"\1")
    network_header = _attribute(2, _be32(1))
    where = (network_header, _attribute(3, _be32(offset)), _attribute(4, _be32(len(value))))
    load = _expression("payload", _attribute(1, _be32(_REGISTER)), *where)
    accept = _expression("immediate", _attribute(1, _be32(0)), _nest(2, _nest(2, _attribute(1, _be32(_ACCEPT)))))
    return load + _equals(value) + accept


def _lead_tcp(family: str, port: int) -> bytes:
    """`meta l4proto tcp tproxy to :PORT`."""
    load = _expression("meta", _attribute(2, _be32(_L4PROTO)), _attribute(1, _be32(_REGISTER)))
    put_port = _expression("immediate", _attribute(1, _be32(_REGISTER)), _nest(2, _attribute(1, struct.pack(">H", port))))
    lead = _expression("tproxy", _attribute(1, _be32(FAMILIES[family])), _attribute(3, _be32(_REGISTER)))
    return load + _equals(bytes([_TCP])) + put_port + lead


def intercept_batch(port: int, families: tuple[str, ...]) -> bytes:
    """The whole rule set as one nfnetlink transaction: a table, a chain and two rules a family, four acknowledgements."""
    messages: list[bytes] = []

    def add(kind: int, flags: int, family: int, body: bytes, resource: int = 0) -> None:
        head = struct.pack("=IHHII", 20 + len(body), kind, flags | _F_REQUEST, len(messages) + 1, 0)
        messages.append(head + struct.pack(">BBH", family, 0, resource) + body)

    table, chain = _attribute(1, _name("outpass")), _name("pre")
    hook = _nest(4, _attribute(1, _be32(_PREROUTING)), _attribute(2, _be32(_PRIORITY_MANGLE)))
    add(_BATCH_BEGIN, 0, 0, b"", _NFT_SUBSYSTEM)
    for family in families:
        number = int(FAMILIES[family])
        add(_NFT_TABLE, _F_CREATE | _F_ACK, number, table)
        add(_NFT_CHAIN, _F_CREATE | _F_ACK, number, table + _attribute(3, chain) + hook + _attribute(7, _name("filter")))
        for rule in (_spare_loopback(family), _lead_tcp(family, port)):
            flags = _F_CREATE | _F_APPEND | _F_ACK
            add(_NFT_RULE, flags, number, table + _attribute(2, chain) + _nest(4, rule))
    add(_BATCH_END, 0, 0, b"", _NFT_SUBSYSTEM)
    return b"".join(messages)


def intercept(port: int, families: tuple[str, ...]) -> None:
    """Lead all TCP but loopback's to `port` (needs a listener there with IP_TRANSPARENT). Raises OSError."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETFILTER) as sock:
        sock.settimeout(5)
        sock.bind((0, 0))
        sock.send(intercept_batch(port, families))
        _acknowledged(sock, 4 * len(families))


def socket_table() -> socket.socket:
    """What answers questions about the sockets of this network namespace, wherever it is held (sock_diag(7))."""
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG)


def errors_in(packet: bytes) -> Iterator[int]:
    """The errno of each acknowledgement in a netlink packet; 0 is success."""
    at = 0
    while at + 20 <= len(packet):
        length, kind = struct.unpack_from("=IH", packet, at)
        if kind == _ERROR:
            yield -struct.unpack_from("=i", packet, at + 16)[0]
        at += max((length + 3) & ~3, 16)


def _acknowledged(sock: socket.socket, count: int) -> None:
    while count > 0:
        for number in errors_in(sock.recv(65536)):
            if number:
                raise OSError(number, os.strerror(number), "netlink")
            count -= 1
