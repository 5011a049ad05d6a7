"""What an address is, and which address counts when one is inside another."""

from __future__ import annotations

import pytest

from outpass.policy import addresses


@pytest.mark.parametrize(
    "text, kind, counts",
    [
        ("93.184.215.14", "public", "93.184.215.14"),
        ("2606:2800:21f::1", "public", "2606:2800:21f::1"),
        ("10.0.0.1", "private", "10.0.0.1"),
        ("172.31.255.255", "private", "172.31.255.255"),
        ("172.32.0.1", "public", "172.32.0.1"),
        ("100.64.0.1", "private", "100.64.0.1"),
        ("198.18.0.1", "private", "198.18.0.1"),
        ("fd12::1", "private", "fd12::1"),
        ("127.255.255.255", "loopback", "127.255.255.255"),
        ("0.0.0.0", "loopback", "0.0.0.0"),
        ("::", "loopback", "::"),
        ("::1", "loopback", "::1"),
        ("169.254.169.254", "metadata", "169.254.169.254"),
        ("169.254.0.1", "metadata", "169.254.0.1"),
        ("168.63.129.16", "metadata", "168.63.129.16"),
        ("fe80::1", "metadata", "fe80::1"),
        ("fd00:ec2::254", "metadata", "fd00:ec2::254"),
        ("224.0.0.1", "reserved", "224.0.0.1"),
        ("255.255.255.255", "reserved", "255.255.255.255"),
        ("ff02::1", "reserved", "ff02::1"),
        ("4000::1", "reserved", "4000::1"),
        ("::ffff:10.0.0.1", "private", "10.0.0.1"),
        ("::ffff:0:10.0.0.1", "private", "10.0.0.1"),
        ("::10.0.0.1", "private", "10.0.0.1"),
        ("64:ff9b::10.0.0.1", "private", "10.0.0.1"),
        ("64:ff9b:1::10.0.0.1", "private", "10.0.0.1"),
        ("2002:a00:1::", "private", "10.0.0.1"),
        ("2001:0:4136:e378:8000:63bf:f5ff:fffe", "private", "10.0.0.1"),
        ("64:ff9b::93.184.215.14", "public", "93.184.215.14"),
    ],
)
def test_kinds(text: str, kind: str, counts: str) -> None:
    found, address = addresses.classify(text)
    assert (found.value, str(address)) == (kind, counts)


@pytest.mark.parametrize(
    ("host", "literal"), [("10.0.0.1", True), ("::1", True), ("a.example1", False), ("db", False), ("v4.x", False)]
)
def test_literals_are_told_from_names(host: str, literal: bool) -> None:
    assert addresses.is_literal(host) is literal


@pytest.mark.parametrize("text", ["10.0.0.0/8", "192.168.1.0/24", "10.1.2.3/32", "10.1.2.3", "fd00::/8"])
def test_private_networks_may_be_given_leave(text: str) -> None:
    assert addresses.private_network(text)


@pytest.mark.parametrize(
    "text, message",
    [
        ("127.0.0.0/8", "not inside a private range"),
        ("169.254.169.254/32", "not inside a private range"),
        ("0.0.0.0/0", "not inside a private range"),
        ("10.0.0.0/7", "not inside a private range"),
        ("8.8.8.8", "not inside a private range"),
        ("::/0", "not inside a private range"),
        ("10.0.0.1/8", "write '10.0.0.0/8'"),
        ("intranet", "not a network"),
    ],
)
def test_other_networks_may_not(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        addresses.private_network(text)
