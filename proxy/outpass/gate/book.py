"""What the synthetic addresses of one jail stand for, as the broker said.

Lives here: the book, and reading a line of it. May not live here: giving addresses out (the broker is the one allocator).
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from typing import Any, Final, NamedTuple

from outpass.policy import names

SYNTHETIC: Final = IPv4Network("198.18.0.0/15")
"""RFC 2544 gives it to benchmarks, so nothing that a jail means to reach is there."""
TOUCH_S: Final = 30.0
"""Seconds between two notes to the broker that one address is in use."""


class Line(NamedTuple):
    """One address. With a chain it was given to that chain of that session; without, to anybody in the jail."""

    address: str
    name: str
    """Canonical name, or a literal address that a chain wants to reach."""
    sid: str | None
    chain: tuple[str, ...]
    versions: tuple[str | None, ...]


def synthetic(address: str) -> bool:
    """Whether a canonical address is of the range."""
    return "." in address and ":" not in address and IPv4Address(address) in SYNTHETIC


class Book:
    """Grows and shrinks by the broker's word only, so it is as bounded as the broker's table."""

    def __init__(self) -> None:
        self._lines: dict[str, Line] = {}
        self._touched: dict[str, float] = {}

    def note(self, entries: list[Any], drop: list[Any]) -> None:
        """Take the broker's lines, and forget those that it dropped. Raises ValueError, TypeError for what is no line."""
        for address in drop:
            self._lines.pop(str(address), None)
            self._touched.pop(str(address), None)
        for address, name, sid, chain, versions in entries:
            if not synthetic(address):
                raise ValueError(f"{address!r} is not a synthetic address")
            self._lines[address] = Line(address, names.host(name), sid, tuple(chain), tuple(versions))

    def line(self, address: str) -> Line | None:
        """What an address stands for."""
        return self._lines.get(address)

    def touch(self, address: str, now: float) -> bool:
        """Note that an address is used at `now`; True when the broker should hear of it."""
        if now - self._touched.get(address, -TOUCH_S) < TOUCH_S:
            return False
        self._touched[address] = now
        return True
