"""A gate in reserve: a process that has imported everything, was told nothing, and takes the place of one that ends.

Lives here: when it is started, taken, given up. May not live here: what a gate is told (gates.py), one that
serves (supervise.py).

It is there before it is needed because imports are nearly all of a gate's start, and a busy machine makes seconds of them. It
has no key, no listener, no ledger: its control socket is all that it holds. A process of its own and not a fork of one that
is ready: whoever made a gate crash may be after its memory layout, and the next one has another.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from outpass.broker.spawn import Child, end

AFTER_S: Final = 10.0
"""Seconds for which the gate must have served first: short runs pay nothing for it."""


class Spare:
    """At most one. All methods run on the event loop."""

    def __init__(self, start: Callable[[], Child] | None) -> None:
        """`start` starts one; None: there is never any."""
        self._start = start
        self._child: Child | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def pid(self) -> int | None:
        """Of the one that waits now."""
        return self._child.process.pid if self._child else None

    def prepare(self) -> None:
        """Have one in a while, if there is none."""
        if self._start is not None and self._child is None and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(AFTER_S, self._make)

    def take(self) -> Child | None:
        """The one that waits, for the caller to speak to and to end; None when there is none."""
        self._cancel()
        child, self._child = self._child, None
        if child is None:
            return None
        asyncio.get_running_loop().remove_reader(child.control)
        if child.process.poll() is None:
            return child
        child.control.close()
        return None

    def stop(self) -> None:
        """End it, and have none any more."""
        self._start = None
        child = self.take()
        if child is not None:
            child.control.close()
            end(child.process, at_once=True)

    def _make(self) -> None:
        self._timer = None
        if self._start is None:
            return
        try:
            self._child = self._start()
        except OSError:
            return  # the next gate is started when it is needed, and what is wrong is said then
        asyncio.get_running_loop().add_reader(self._child.control, self._heard)

    def _heard(self) -> None:
        """It has ended, or speaks before it was spoken to: it is none. Another comes when a gate is replaced."""
        child = self.take()
        if child is not None:
            child.control.close()
            end(child.process, at_once=True)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
