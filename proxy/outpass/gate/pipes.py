"""Pipes for bytes that are between two sockets: borrowed for as long as there are any, and at most a part of all descriptors.

Lives here: making, keeping and counting them. May not live here: who gets one when there is none (relay.py).

Peers that read nothing keep theirs. Without a bound a jail that fills its tunnels both ways would take the descriptors of every
other jail, and in the end those of the reserve, without which the broker is not heard (descriptors.py).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
from typing import Final

from outpass.gate.descriptors import RESERVE, of_reserve

CHUNK: Final = 1 << 20
"""Bytes that a pipe holds; the kernel's limit for an ordinary user."""
_KEPT: Final = 64
_PART: Final = 12
"""A pipe is two descriptors, so all of them are at most a sixth."""

Pipe = tuple[int, int]
"""Where it is read, where it is written."""


class Pipes:
    """All of a relay's. Used in its thread."""

    def __init__(self) -> None:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        bounded = soft != resource.RLIM_INFINITY
        self._most = max((soft - min(RESERVE, soft // 2)) // _PART, 2) if bounded else 1 << 20
        self._made = 0
        self._idle: list[Pipe] = []

    def borrow(self) -> Pipe | None:
        """An empty one; None: there are as many as there may be."""
        if self._idle:
            return self._idle.pop()
        if self._made >= self._most:
            return None
        try:
            pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:  # no descriptor, or no memory
            return None
        self._made += 1
        if of_reserve(max(pipe)):
            self.drop(pipe)
            return None
        with contextlib.suppress(OSError):
            fcntl.fcntl(pipe[1], fcntl.F_SETPIPE_SZ, CHUNK)
        return pipe

    def give_back(self, pipe: Pipe) -> None:
        """Take an empty one."""
        if len(self._idle) < _KEPT:
            self._idle.append(pipe)
        else:
            self.drop(pipe)

    def drop(self, pipe: Pipe) -> None:
        """Close one, with what is in it."""
        self._made -= 1
        os.close(pipe[0])
        os.close(pipe[1])
