"""Carries bytes between the event loop and the handler of a connection, without a stream and a task in between.

Lives here: reading into one buffer, the end of a connection, when the kernel wants no more. May not live here: what the bytes
are, who may send them (handler.py).

A StreamReader costs a future, a wake-up and a second turn of the loop for every packet: a tenth of the gate's CPU.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from outpass.gate.waking import PAUSE_S, Waking

CHUNK: Final = 1 << 19
"""Bytes that one turn of the loop reads from one connection at most."""
PIECE: Final = 1 << 16
"""Bytes for which a large body wakes the loop (waking.py)."""


class Pump(asyncio.BufferedProtocol):
    """One connection; takes over from the stream protocol under which it was opened."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        received: Callable[[bytes], None],
        writable: Callable[[], None],
    ) -> None:
        """`received` is given what comes; `writable` is called when `full` ends."""
        self.full = False
        """Whether more waits for the kernel than it should; nobody ought to produce more."""
        self.ended: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        """Done when nothing more comes; True when the connection is lost both ways."""
        self._held = False
        self._received = received
        self._writable = writable
        self._transport: asyncio.Transport = writer.transport  # type: ignore[assignment]
        # The stream's protocol still learns what becomes of the connection, so that `writer` works as ever.
        self._stream: asyncio.StreamReaderProtocol = self._transport.get_protocol()  # type: ignore[assignment]
        self._reader = reader
        self._waking = Waking(self._transport.get_extra_info("socket"), PIECE)
        self._looks: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Take over; what the stream has read already is received now."""
        if self._transport.is_closing():
            self._end(True)
            return
        self._transport.set_protocol(self)
        buffered: bytearray = self._reader._buffer  # type: ignore[attr-defined]
        already, at_eof = bytes(buffered), self._reader._eof  # type: ignore[attr-defined]
        buffered.clear()
        self._transport.resume_reading()  # the stream stops at twice its limit
        if already:
            self._received(already)
        if at_eof:
            self._end(False)

    def hold(self) -> None:
        """Read no more until `release`."""
        if not self._held:
            self._held = True
            self._waking.calm()  # whoever takes the socket over from here must be woken for anything
            self._transport.pause_reading()

    def release(self) -> None:
        """Read on."""
        if self._held:
            self._held = False
            self._transport.resume_reading()

    @property
    def held(self) -> bool:
        """Whether `hold` is in force."""
        return self._held

    # --- called by the event loop ------------------------------------------------------------------------------------

    def get_buffer(self, sizehint: int) -> bytearray:
        """One buffer serves every connection: it is filled and emptied within one callback of the loop."""
        return _BUFFER

    def buffer_updated(self, nbytes: int) -> None:
        """`nbytes` came."""
        self._received(bytes(_VIEW[:nbytes]))
        if not self._held and self._waking.brought(nbytes) and self._looks is None:
            self._looks = asyncio.get_running_loop().call_later(PAUSE_S, self._look)

    def _look(self) -> None:
        self._looks = asyncio.get_running_loop().call_later(PAUSE_S, self._look) if self._waking.look() else None

    def eof_received(self) -> bool:
        """The peer sends no more; it may still read."""
        self._end(False)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing goes either way any more."""
        self._stream.connection_lost(exc)
        self._end(True)
        self.resume_writing()

    def pause_writing(self) -> None:
        """More than 64 KiB wait for the kernel."""
        self.full = True
        self._stream.pause_writing()

    def resume_writing(self) -> None:
        """Few do."""
        if self.full:
            self.full = False
            self._stream.resume_writing()
            self._writable()

    def _end(self, lost: bool) -> None:
        if self._looks is not None:
            self._looks.cancel()
            self._looks = None
        if not self.ended.done():
            self.ended.set_result(lost)


_BUFFER: Final = bytearray(CHUNK)
_VIEW: Final = memoryview(_BUFFER)
