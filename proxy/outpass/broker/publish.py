"""Published ports: may a jail's port be reached from outside of it, and for how long.

Lives here: asking decide() for whoever may listen, the record of it, the leash. May not live here: carrying bytes (jail/),
listening inside of a jail, which is nobody's affair.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from outpass.broker.chain import recorded
from outpass.broker.jails import Jail
from outpass.errors import StartError
from outpass.model import Decision
from outpass.policy import names, reach
from outpass.policy.explain import explain
from outpass.reasons import ENTRIES, Reason

MAX_PORTS: Final = 64
EXPIRE_S: Final = 5.0
"""Seconds by which a published port may outlive the rule that allowed it, when the rule expires (a reload ends it at once)."""


class Port(NamedTuple):
    """One published port: the address it is reachable at outside, and its number inside."""

    address: str
    inside: int


class Published:
    """What a jail publishes. The launcher's relay lives as long as the leash is held."""

    def __init__(self, ports: tuple[Port, ...], leash: socket.socket) -> None:
        self.ports = ports
        self.inside = frozenset(port.inside for port in ports)
        self._leash = leash

    @property
    def held(self) -> bool:
        """Whether the relay still lives."""
        return self._leash.fileno() >= 0

    def let_go(self) -> None:
        """Ends the relay, and every connection that it carries."""
        self._leash.close()


def read(body: Mapping[str, Any]) -> tuple[Port, ...]:
    """The ports of a `jail.publish`, checked strictly: it comes from our own launcher. Raises StartError."""
    listed = body.get("ports")
    if not isinstance(listed, list) or not 0 < len(listed) <= MAX_PORTS:
        raise _odd()
    found = []
    for item in listed:
        if not isinstance(item, list) or len(item) != 2:
            raise _odd()
        address, inside = item
        if not isinstance(address, str) or type(inside) is not int or not 0 < inside < 65536:
            raise _odd()
        try:
            found.append(Port(names.host(address), inside))
        except ValueError:
            raise _odd() from None
    return tuple(found)


def _odd() -> StartError:
    return StartError("the launcher's list of published ports makes no sense", "are run and daemon of one version?")


def judge(jail: Jail, ports: tuple[Port, ...], now: float) -> list[Decision]:
    """A decision for each port: who listens is not known yet, so anybody who may will do. Rights end at the jail's own."""
    compiled = jail.force.compiled
    return [reach.listening(compiled, port.address, port.inside, now=now, tier=jail.tier) for port in ports]


def grant(
    jail: Jail, ports: tuple[Port, ...], leash: socket.socket, now: float, take: Callable[[dict[str, Any]], bool]
) -> Published:
    """Takes the leash. Raises StartError, with the line to add, for the first port that nobody may listen on."""
    try:
        for port, decision in zip(ports, judge(jail, ports, now), strict=True):
            _tell(jail, decision, now, take)
            if not decision.allowed:
                raise _refusal(port, decision)
    except BaseException:
        leash.close()
        raise
    return Published(ports, leash)


def recheck(jail: Jail, now: float, take: Callable[[dict[str, Any]], bool]) -> list[Port]:
    """After a reload, and from time to time: lets go of the leash when a port lost its right; returns those that did."""
    if jail.published is None or not jail.published.held:
        return []
    lost = []
    for port, decision in zip(jail.published.ports, judge(jail, jail.published.ports, now), strict=True):
        if not decision.allowed:
            lost.append(port)
            _tell(jail, decision, now, take)
    if lost:
        jail.published.let_go()
    return lost


def _refusal(port: Port, decision: Decision) -> StartError:
    where = names.format_authority(port.address, port.inside)
    what = ENTRIES[decision.reason].sentence if decision.reason is not Reason.NO_CAPABILITY else "no package may listen there"
    hint = f"to allow it, add for the package that listens:\n{decision.add}" if decision.add else explain(decision).detail
    return StartError(f"--publish {where}: {what} (network:listen)", hint)


def _tell(jail: Jail, decision: Decision, now: float, take: Callable[[dict[str, Any]], bool]) -> None:
    written = recorded(decision, jail=jail.id, sid=None, now=now)
    if not take(written) and decision.allowed:
        raise StartError(ENTRIES[Reason.AUDIT_UNAVAILABLE].sentence, ENTRIES[Reason.AUDIT_UNAVAILABLE].hint)
