"""Memory that the broker shares with its gates, and memory in which it hands them something.

Lives here: making memfds, and their seals. May not live here: what is in them (passes/, policy.turn, policy.wire).
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
from typing import Any, Final

from outpass.broker.jails import InForce
from outpass.passes import ledger, quota
from outpass.policy import shares, turn, wire
from outpass.policy.turn import Turn

_SEAL_FUTURE_WRITE: Final = 0x10
"""fcntl(2), since Linux 5.1: mappings made from now on cannot be written; Python names it from 3.13 on."""
_FIXED: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW


def new_ledger() -> int:
    """Zeroed shared memory for passes.ledger, of a size that nobody can change."""
    fd = _sized("outpass-ledger", ledger.SIZE_BYTES)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _FIXED | fcntl.F_SEAL_SEAL)
    return fd


def new_quota() -> int:
    """Zeroed shared memory for passes.quota, of a size that nobody can change."""
    fd = _sized("outpass-quota", quota.SIZE_BYTES)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _FIXED | fcntl.F_SEAL_SEAL)
    return fd


def new_turn() -> tuple[int, Turn]:
    """Zeroed shared memory for policy.turn: its descriptor, which gives readers only, and the one view that can raise it."""
    fd = _sized("outpass-turn", turn.SIZE_BYTES)
    writable = Turn(mmap.mmap(fd, turn.SIZE_BYTES))
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _FIXED | _SEAL_FUTURE_WRITE | fcntl.F_SEAL_SEAL)
    return fd, writable


def new_shares() -> tuple[int, memoryview]:
    """Shared memory for gate.shared.Share, in which nobody has anything yet: its descriptor and its words."""
    fd = _sized("outpass-shares", shares.SIZE_BYTES)
    words = memoryview(mmap.mmap(fd, shares.SIZE_BYTES)).cast("Q")
    for n in range(shares.MOST):
        words[n] = shares.NOBODY
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _FIXED | fcntl.F_SEAL_SEAL)
    return fd, words


def of_policy(force: InForce) -> int:
    """A policy as a gate reads it."""
    return sealed("outpass-policy", wire.dump(force.policy))


def sealed(name: str, content: Any) -> int:
    """JSON in a memfd; sealed, so that what was checked is what is read."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with os.fdopen(os.dup(fd), "wb") as file:
            file.write(json.dumps(content, separators=(",", ":")).encode())
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _FIXED | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL)
        os.lseek(fd, 0, os.SEEK_SET)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _sized(name: str, size: int) -> int:
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    return fd
