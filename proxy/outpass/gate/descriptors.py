"""Keeps file descriptors free for the broker, whatever the jails open.

Lives here: how many are kept, and whether a connection took one of them. May not live here: what is done about it.

A packet of the broker's that finds no room for its descriptors is cut short by the kernel, and a gate that cannot hear the
broker ends (control.py): one jail with enough connections would end the gate for all.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
from typing import Final

RESERVE: Final = 512
"""Descriptors that no connection may keep: 64 for a packet, and what listeners accept until the first refusal takes effect."""

WANTED: Final = 65_536
"""Descriptors that a gate asks for: 10 000 opaque tunnels of one jail are 20 000, and at most two thirds of the room."""


def ask_for_more() -> None:
    """Raise this process's limit to WANTED, or to what is allowed.

    Two descriptors a connection; the soft limit of 1024 is for programs that use select(2). Beyond the hard limit only root may
    (CAP_SYS_RESOURCE), and nobody beyond fs.nr_open.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < WANTED:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (WANTED, WANTED))
            return
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def scarce(writer: asyncio.StreamWriter) -> bool:
    """Whether the connection took a descriptor of the reserve, so must go."""
    return of_reserve(writer.get_extra_info("socket").fileno())


def of_reserve(descriptor: int) -> bool:
    """Whether a descriptor is of the reserve: the kernel gives the lowest that is free."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return limit != resource.RLIM_INFINITY and descriptor >= limit - min(RESERVE, limit // 2)
