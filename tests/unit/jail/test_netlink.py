"""The bytes that are sent to the kernel, read back by a parser of the test's own."""

from __future__ import annotations

import socket
import struct

import pytest

from outpass.jail import netlink


def messages(packet: bytes) -> list[tuple[int, int, bytes]]:
    """(type, flags, body) of each netlink message."""
    found, at = [], 0
    while at < len(packet):
        length, kind, flags = struct.unpack_from("=IHH", packet, at)
        found.append((kind, flags, packet[at + 16 : at + length]))
        at += (length + 3) & ~3
    return found


def attributes(data: bytes) -> list[tuple[int, bytes]]:
    found, at = [], 0
    while at < len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        found.append((kind & 0x3FFF, data[at + 4 : at + length]))
        at += (length + 3) & ~3
    return found


@pytest.mark.parametrize(("family", "number", "scope"), [("ip4", socket.AF_INET, 254), ("ip6", socket.AF_INET6, 0)])
def test_a_route_makes_the_whole_family_local_to_loopback(family: str, number: int, scope: int) -> None:
    [(kind, flags, body)] = messages(netlink.route_message(family))
    assert (kind, flags) == (24, 1 | 4 | 0x400 | 0x200), "new route: request, ack, create, exclusive"
    assert tuple(body[:8]) == (number, 0, 0, 0, 255, 3, scope, 2), "any destination, table local, type local"
    assert attributes(body[12:]) == [(4, struct.pack("=I", 1))], "out by lo"


@pytest.mark.parametrize("families", [("ip4",), ("ip4", "ip6")])
def test_the_rules_are_one_transaction(families: tuple[str, ...]) -> None:
    found = messages(netlink.intercept_batch(61999, families))
    kinds = [kind for kind, _, _ in found]
    assert kinds == [0x10, *[0xA00, 0xA03, 0xA06, 0xA06] * len(families), 0x11]
    assert sum(bool(flags & 4) for _, flags, _ in found) == 4 * len(families), "four acknowledgements a family"


def expressions(body: bytes) -> list[str]:
    rule = dict(attributes(body[4:]))
    listed = [dict(attributes(content)) for _, content in attributes(rule[4])]
    return [one[1].rstrip(b"\0").decode() for one in listed]


def test_loopback_is_spared_before_tcp_is_led_away() -> None:
    rules = [body for kind, _, body in messages(netlink.intercept_batch(61999, ("ip4", "ip6"))) if kind == 0xA06]
    assert [expressions(body) for body in rules] == [
        ["payload", "cmp", "immediate"],
        ["meta", "cmp", "immediate", "tproxy"],
    ] * 2
    assert b"\x7f" in rules[0] and b"\0" * 15 + b"\1" in rules[2], "127/8 and ::1"
    assert all(struct.pack(">H", 61999) in rules[n] for n in (1, 3))


@pytest.mark.parametrize(
    ("sentence", "packet", "expected"),
    [
        ("success", struct.pack("=IHHIIi", 36, 2, 0, 1, 0, 0) + b"\0" * 16, [0]),
        ("an errno", struct.pack("=IHHIIi", 36, 2, 0, 1, 0, -17) + b"\0" * 16, [17]),
        ("two in one packet", (struct.pack("=IHHIIi", 36, 2, 0, 1, 0, -1) + b"\0" * 16) * 2, [1, 1]),
        ("other messages are skipped", struct.pack("=IHHIIi", 20, 3, 0, 1, 0, -5), []),
        ("a length of nothing does not loop", struct.pack("=IHHIIi", 0, 3, 0, 1, 0, 0), []),
        ("nothing", b"", []),
    ],
)
def test_acknowledgements(sentence: str, packet: bytes, expected: list[int]) -> None:
    assert list(netlink.errors_in(packet)) == expected, sentence
