"""The one allocator of synthetic addresses: which name, and whose, an address of 198.18.0.0/15 stands for in one jail.

Lives here: giving addresses out, keeping them, taking them back. May not live here: who may have one (resolve.py), telling the
gate (supervise.py). Asked from two threads (the switchboard's and the loop's), so each method takes one lock, briefly.

An address that was given out may be remembered anywhere: by a resolver's cache, a connection pool, a JVM for its whole life. So
addresses are given in order round the whole range, and one is dropped only when nobody asked for it or connected to it for a
while and the table is full. The range holds eight times what the table does: a dropped address leads nowhere for a long time
before it leads anywhere else.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any, Final, NamedTuple

FIRST: Final = int(IPv4Address("198.18.0.1"))
LAST: Final = int(IPv4Address("198.19.255.254"))
MAX_LIVE: Final = 16_384
"""Addresses of one jail at a time."""
MAX_OF_SESSION: Final = 4_096
"""Of which one session may hold so many: the others go on."""
QUARANTINE_S: Final = 600.0
"""Seconds without use after which an address may be dropped; ten times the TTL of the gate's answers."""

type Links = tuple[tuple[str, str | None], ...]
"""(name, version) of a chain, nearest first."""


class Full(Exception):
    """No address can be given now: all are in use."""


class Key(NamedTuple):
    """What an address stands for. Without a session and a chain: for whoever in the jail looks the name up."""

    sid: str | None
    links: Links
    name: str


@dataclass(slots=True)
class Entry:
    """One address."""

    address: str
    key: Key
    used: float
    told: bool = False
    """The gate knows it."""

    def as_line(self) -> list[Any]:
        """As control carries it: address, name, session, chain, versions."""
        sid, links, name = self.key
        return [self.address, name, sid, [link[0] for link in links], [link[1] for link in links]]


class Addresses:
    """The addresses of one jail."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock`: seconds, of any origin, that never go back."""
        self._clock = clock
        self._lock = threading.Lock()
        self._by_key: OrderedDict[Key, Entry] = OrderedDict()
        """The longest unused first."""
        self._by_address: dict[str, Entry] = {}
        self._of_session: Counter[str | None] = Counter()
        self._next = FIRST

    def give(self, key: Key) -> tuple[Entry, tuple[str, ...]]:
        """The address of `key`, and the addresses that were dropped to make room for it. Raises Full."""
        with self._lock:
            found = self._by_key.get(key)
            if found is not None:
                self._use(found)
                return found, ()
            dropped = self._room(key)
            entry = Entry(self._free(), key, self._clock())
            self._by_key[key] = self._by_address[entry.address] = entry
            self._of_session[key.sid] += 1
            return entry, dropped

    def restore(self, lines: Iterable[Sequence[Any]]) -> None:
        """Take over what the daemon before gave out (`Entry.as_line`, in that order): programs still remember it."""
        with self._lock:
            for address, name, sid, chain, versions in lines:
                key = Key(sid, tuple(zip(chain, versions, strict=True)), name)
                self._by_key[key] = self._by_address[address] = Entry(address, key, self._clock(), told=True)
                self._of_session[sid] += 1
                number = int(IPv4Address(address))
                self._next = FIRST if number >= LAST else number + 1

    def touch(self, address: str) -> None:
        """Somebody connected to an address."""
        with self._lock:
            entry = self._by_address.get(address)
            if entry is not None:
                self._use(entry)

    def name_of(self, address: str) -> str | None:
        """What an address stands for, whoever has it."""
        with self._lock:
            entry = self._by_address.get(address)
            return None if entry is None else entry.key.name

    def told(self, entry: Entry) -> None:
        """The gate knows it from now on."""
        with self._lock:
            entry.told = True

    def lines(self) -> list[list[Any]]:
        """All of them, for a gate that knows none."""
        with self._lock:
            return [entry.as_line() for entry in self._by_key.values()]

    def __len__(self) -> int:
        return len(self._by_key)

    def _use(self, entry: Entry) -> None:
        entry.used = self._clock()
        self._by_key.move_to_end(entry.key)

    def _room(self, key: Key) -> tuple[str, ...]:
        if key.sid is not None and self._of_session[key.sid] >= MAX_OF_SESSION:
            oldest = next(e for e in self._by_key.values() if e.key.sid == key.sid)
        elif len(self._by_key) >= MAX_LIVE:
            oldest = next(iter(self._by_key.values()))
        else:
            return ()
        if self._clock() - oldest.used < QUARANTINE_S:
            raise Full
        del self._by_key[oldest.key], self._by_address[oldest.address]
        self._of_session[oldest.key.sid] -= 1
        if not self._of_session[oldest.key.sid]:
            del self._of_session[oldest.key.sid]
        return (oldest.address,)

    def _free(self) -> str:
        while True:
            number = self._next
            self._next = FIRST if number >= LAST else number + 1
            if number & 0xFF in (0, 0xFF):  # some programs take these for a network or a broadcast
                continue
            address = str(IPv4Address(number))
            if address not in self._by_address:
                return address
