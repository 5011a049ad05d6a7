"""The jails that the gate serves: the policy in force for each, its listeners, and its live connections.

Lives here: what belongs to one jail. May not live here: accepting (listeners.py), deciding about a request (addon.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol

from outpass.gate.book import Book
from outpass.model import Decision, EgressRequest
from outpass.policy.limits import Held
from outpass.policy.turn import Turn

MAX_UNDECIDED: Final = 1_024
Decide = Callable[[EgressRequest], Decision]
Reach = Callable[[str], Decision | None]
"""For a canonical host: the decision by which somebody in the jail may reach it in some way, if anybody may."""

Holding = Callable[[EgressRequest], tuple[Held, ...]]
"""For a request that was allowed: the limits that hold for it."""


class Rules(NamedTuple):
    """A policy, ready to be asked."""

    decide: Decide
    reach: Reach
    holding: Holding
    digest: str


class Server(Protocol):
    """Something that accepts, and can stop (asyncio.Server, and our own)."""

    def close(self) -> None:
        """Accept nothing more."""


class Live(Protocol):
    """A connection of a jail."""

    @property
    def idle(self) -> bool:
        """Nothing is under way, so that closing loses nothing."""

    @property
    def unseen(self) -> bool:
        """It is carried without being looked into, which is a right of its own."""

    def requests(self) -> Iterable[EgressRequest]:
        """What is under way on it, as it was decided."""

    def holders(self) -> Iterable[str | None]:
        """Sessions whose passes it lives by."""

    @property
    def close(self) -> Callable[[], None]:
        """Ends it, whatever is under way."""


@dataclass(eq=False, slots=True)
class Jail:
    """One jail. It is known by the listener that accepted, which is a fact of the kernel and not a claim."""

    id: str
    tier: str
    """A `model.Tier` value: who vouches for what the jail keeps in."""
    kind: str
    decide: Decide
    reach: Reach = lambda _: None
    holding: Holding = lambda _: ()
    servers: list[Server] = field(default_factory=list)
    clients: set[Live] = field(default_factory=set)
    search: tuple[str, ...] = ()
    """Domains that resolvers in the jail append to short names, canonical."""
    removed: bool = False
    revoked: set[str] = field(default_factory=set)
    """Sessions that the operator revoked: what was being decided or dialled for one of them when he did is not opened."""
    book: Book = field(default_factory=Book)
    undecided: int = 0
    """Raw connections that are being decided or dialled."""
    tunnels: int = 0
    """Opaque tunnels that are open."""
    native_gate: asyncio.Semaphore | None = None
    digest: str = ""
    """Of the policy in force; what is refused before policy is asked is recorded under it."""
    staged: tuple[int, Rules, Rules] | None = None
    """(turn, the policy that takes force with it, the one until then), between being handed a policy and the word to sweep."""

    def crowded(self) -> bool:
        """Whether as many raw connections are being decided or dialled as may be at a time; more wait."""
        return self.undecided >= MAX_UNDECIDED

    def stop_accepting(self) -> None:
        """Close the listeners (this process's descriptors of them)."""
        for server in self.servers:
            server.close()
        self.servers.clear()

    def close_clients(self) -> None:
        """End every connection, whatever is under way on it."""
        for client in list(self.clients):
            client.close()

    def sweep(self) -> int:
        """End what is under way by a right that has expired or was taken away; returns how many connections that were."""
        known: dict[EgressRequest, Decision] = {}  # ten thousand idle tunnels ask few different questions
        lost = [c for c in self.clients if any(not self._holds(c, r, known) for r in c.requests())]
        for client in lost:
            client.close()
        return len(lost)

    def revoke(self, sids: Collection[str]) -> None:
        """End every connection that lives by a pass of these sessions."""
        self.revoked.update(sids)
        for client in list(self.clients):
            if any(sid in sids for sid in client.holders()):
                client.close()

    def _holds(self, client: Live, request: EgressRequest, known: dict[EgressRequest, Decision]) -> bool:
        decision = known.get(request)
        if decision is None:
            decision = known[request] = self.decide(request)
        return decision.allowed and not (client.unseen and request.scheme != "tcp" and decision.intercept)

    def stage(self, at: int, turn: Turn, rules: Rules) -> None:
        """Decide by `rules` from the instant that `turn` is `at`; another policy that was staged and not used is dropped."""
        self.unstage()
        before = Rules(self.decide, self.reach, self.holding, self.digest)

        def in_force() -> Rules:
            return rules if turn.now >= at else before

        self.staged = at, rules, before
        self.decide = lambda request: in_force().decide(request)
        self.reach = lambda host: in_force().reach(host)
        self.holding = lambda request: in_force().holding(request)

    def unstage(self) -> None:
        """Drop a staged policy: it never takes force."""
        if self.staged is not None:
            _, _, before = self.staged
            self._use(before)

    def turned(self, turn: Turn) -> int:
        """Let go of the policy before, if the turn has come; returns how many connections that closed.

        A policy that takes a right away also ends what is under way by that right; the rest goes on undisturbed.
        """
        if self.staged is None or turn.now < self.staged[0]:
            return 0
        _, rules, _ = self.staged
        self._use(rules)
        return self.sweep()

    def _use(self, rules: Rules) -> None:
        self.staged = None
        self.decide, self.reach, self.holding, self.digest = rules


def over(jails: Iterable[Jail], message: Mapping[str, Any]) -> set[str]:
    """The sessions of a `session.end`; what lives by those that were revoked is ended."""
    sids = set(map(str, message["sids"]))
    for jail in jails if message.get("revoked") else ():
        jail.revoke(sids)
    return sids
