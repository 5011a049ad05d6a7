"""What an IP address is, however it is spelt: canonical text, the IPv4 address inside an IPv6 one, and its kind.

Lives here: numeric host spellings (WHATWG URL, "ends in a number"), embedded addresses, special-purpose ranges (RFC 6890).
May not live here: names (names.py), rules, resolving. Nothing here asks a resolver: text in, text or kind out.
"""

from __future__ import annotations

import re
from enum import StrEnum
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


class Kind(StrEnum):
    """What a connection to the address would reach."""

    PUBLIC = "public"
    PRIVATE = "private"
    LOOPBACK = "loopback"
    METADATA = "metadata"
    RESERVED = "reserved"


PRIVATE: Final[tuple[Network, ...]] = tuple(
    ip_network(n)
    # RFC 1918, RFC 6598 (shared space behind carriers and in clouds), RFC 2544 (benchmarking), RFC 4193, RFC 3879.
    for n in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "198.18.0.0/15", "fc00::/7", "fec0::/10")
)
# 169.254.169.254 and kin: every large cloud; fd00:ec2::254 is AWS over IPv6, 100.100.100.200 Alibaba, 168.63.129.16 the
# Azure host agent, 192.0.0.192 Oracle. They hand out credentials, so no range that holds them ever opens them.
METADATA: Final[tuple[Network, ...]] = tuple(
    ip_network(n)
    for n in ("169.254.0.0/16", "fe80::/10", "fd00:ec2::254/128", "fd20:ce::254/128", "100.100.100.200/32",
              "168.63.129.16/32", "192.0.0.192/32")
)  # fmt: skip
LOOPBACK: Final[tuple[Network, ...]] = tuple(
    # 0.0.0.0/8 and :: connect to this host on Linux, so they count as loopback.
    ip_network(n)
    for n in ("127.0.0.0/8", "::1/128", "0.0.0.0/8", "::/128")
)
RESERVED: Final[tuple[Network, ...]] = tuple(
    ip_network(n)
    for n in ("224.0.0.0/4", "240.0.0.0/4", "192.0.0.0/24", "192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24",
              "192.88.99.0/24", "ff00::/8", "100::/64", "2001:db8::/32", "3fff::/20", "5f00::/16")
)  # fmt: skip
_V6_GLOBAL: Final = IPv6Network("2000::/3")
_NAT64: Final = (IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/48"))
_SIXTOFOUR: Final = IPv6Network("2002::/16")
_COMPATIBLE: Final = IPv6Network("::/96")
_TRANSLATED: Final = IPv6Network("::ffff:0:0:0/96")
_TEREDO: Final = IPv6Network("2001::/32")
_NUMBER: Final = re.compile(r"[0-9]+|0[xX][0-9a-fA-F]*")


def numeric(text: str) -> bool:
    """True when the last label is a number, so that every URL parser would read the whole as IPv4 or refuse it."""
    return _NUMBER.fullmatch(text.rpartition(".")[2]) is not None


def parse_v4(text: str) -> IPv4Address:
    """One to four decimal, octal (0…) or hexadecimal (0x…) parts, as inet_aton(3) and browsers read them.

    Raises ValueError (lower-case message) when the text is not an address.
    """
    parts = text.split(".")
    if len(parts) > 4:
        raise ValueError(f"{text!r} ends in a number, so it would be an IPv4 address, but it has {len(parts)} parts")
    values = [_part(part, text) for part in parts]
    last = values.pop()
    if any(v > 255 for v in values) or last >= 256 ** (4 - len(values)):
        raise ValueError(f"{text!r} is not an IPv4 address: a part is too large")
    packed = sum(v << (8 * (3 - i)) for i, v in enumerate(values)) + last
    return IPv4Address(packed)


def _part(part: str, whole: str) -> int:
    if not _NUMBER.fullmatch(part):
        raise ValueError(f"{whole!r} ends in a number but is not an IPv4 address")
    if part[:2] in {"0x", "0X"}:
        return int(part[2:] or "0", 16)
    if len(part) > 1 and part[0] == "0":
        if not all(c in "01234567" for c in part):
            raise ValueError(f"{whole!r} is not an IPv4 address: {part!r} starts like octal but is not")
        return int(part, 8)
    return int(part)


def canonical(text: str) -> str:
    """The one spelling of an address: dotted decimal, or RFC 5952 without brackets; `::ffff:a.b.c.d` is `a.b.c.d`.

    Raises ValueError for anything else, zone ids included (they are of one machine and mean nothing in a policy).
    """
    if ":" in text:
        if "%" in text:
            raise ValueError(f"{text!r} has a zone id, which no rule can name")
        try:
            six = IPv6Address(text)
        except ValueError:
            raise ValueError(f"{text!r} is not an IPv6 address") from None
        return str(six.ipv4_mapped or six)
    return str(parse_v4(text))


def is_literal(host: str) -> bool:
    """True when a *canonical* host is an address and not a name."""
    return ":" in host or (host[-1:].isdigit() and numeric(host))


def embedded(address: Address) -> Address:
    """The IPv4 address that packets to it end at: mapped, compatible, NAT64 (RFC 6052, 8215), 6to4, else itself."""
    if isinstance(address, IPv4Address):
        return address
    low = IPv4Address(int(address) & 0xFFFFFFFF)
    if address.ipv4_mapped is not None or address in _TRANSLATED or any(address in n for n in _NAT64):
        return low
    if address in _SIXTOFOUR:
        return IPv4Address((int(address) >> 80) & 0xFFFFFFFF)
    if address in _COMPATIBLE and int(address) > 1:
        return low
    if address in _TEREDO:  # the client's IPv4 address, inverted (RFC 4380)
        return IPv4Address(int(low) ^ 0xFFFFFFFF)
    return address


@lru_cache(maxsize=8192)
def classify(text: str) -> tuple[Kind, Address]:
    """The kind of a canonical address, and the address that counts (what it embeds). Raises ValueError if it is none."""
    address = embedded(ip_address(text))
    for kind, nets in ((Kind.METADATA, METADATA), (Kind.LOOPBACK, LOOPBACK), (Kind.RESERVED, RESERVED), (Kind.PRIVATE, PRIVATE)):
        if any(address.version == n.version and address in n for n in nets):
            return kind, address
    if isinstance(address, IPv6Address) and address not in _V6_GLOBAL:
        return Kind.RESERVED, address
    return Kind.PUBLIC, address


def private_network(text: str) -> Network:
    """One entry of a rule's `private:` list. Raises ValueError unless it lies wholly inside a private range."""
    try:
        net = ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{text!r} is not a network such as 10.0.0.0/8") from None
    if str(net) != text and str(net) != f"{text}/{net.max_prefixlen}":
        raise ValueError(f"{text!r} has bits beyond its prefix; write {str(net)!r}")
    if not any(net.version == p.version and net.subnet_of(p) for p in PRIVATE):  # type: ignore[arg-type]  # versions are equal
        ranges = ", ".join(str(p) for p in PRIVATE)
        raise ValueError(f"{text!r} is not inside a private range ({ranges})")
    return net
