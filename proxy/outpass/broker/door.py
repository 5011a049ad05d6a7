"""The door to the operator's API: there from the start, with aiohttp behind it only when somebody comes.

Lives here: when app.py is imported. May not live here: routes (app.py), the socket's name and mode (rundir.py).

aiohttp takes a quarter of a second of CPU to import. Nobody who waits for a jail should wait for that, and most runs end without
ever having been asked anything.
"""

from __future__ import annotations

import asyncio
import importlib
import socket
from typing import TYPE_CHECKING, Any

from outpass.broker import say

if TYPE_CHECKING:
    from outpass.broker.daemon import Daemon


class Door:
    """Over one listening socket, which is closed with it."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._runner: Any = None

    async def open(self, daemon: Daemon) -> None:
        """Serve. Whatever the import raises."""
        room = await asyncio.to_thread(importlib.import_module, "outpass.broker.app")
        self._runner = await room.start(daemon, self._listener)

    async def open_when_asked(self, daemon: Daemon) -> None:
        """Serve from the first connection on, which waits in the socket's queue until then."""
        asked = asyncio.Event()
        self._listener.setblocking(False)
        asyncio.get_running_loop().add_reader(self._listener, asked.set)
        await asked.wait()
        self._unwatch()
        try:
            await self.open(daemon)
        except Exception as e:  # this run goes on; who asks is refused, not kept waiting
            say.error(f"the operator's API cannot be served: {e!r}")
            self._listener.close()

    async def close(self) -> None:
        """End what is served."""
        self._unwatch()
        if self._runner is not None:
            await self._runner.cleanup()
        self._listener.close()

    def _unwatch(self) -> None:
        if self._listener.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._listener)
