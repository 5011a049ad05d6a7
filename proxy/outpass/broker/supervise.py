"""One gate as a child process, and those that come after it: started, spoken to, watched, replaced.

Lives here: the wire of proxy/README.md, "Control: broker → gate", and what happens when a gate ends or hangs. May not live
here: what a gate is told (gates.py), what its records are for (ears.py).

A gate that dies takes nothing with it but its connections: listeners, CA, ledger and policies are here, and a new gate gets
the same. A gate that hangs is killed: it holds listeners, and connections that it accepts would wait for nothing. One
that keeps ending is started again more and more slowly: whoever makes it crash may be after its memory layout, and each
new gate is another try.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, Final, Protocol

from outpass.broker.packets import Channel, Packet, close_fds
from outpass.broker.spawn import Child, end
from outpass.errors import OutpassError, StartError

READY_S: Final = 30.0
"""Seconds that a gate may take to get ready (0.6 is usual; a cold disk under load takes long)."""
ANSWER_S: Final = 15.0
"""Seconds that a gate may take to answer; closing a jail's connections takes up to 5."""
DRAIN_S: Final = 8.0
"""Seconds that a gate may take to finish what is live (5) and end."""
BEAT_S: Final = 1.0
"""Seconds between two questions whether the gate still turns."""
MISSED: Final = 15
"""Beats, not seconds, without an answer at which a gate counts as hung: a machine that slept misses one beat, not all. A
policy of 100 000 rules keeps a gate busy for one or two."""
CALM_S: Final = 60.0
"""Seconds that a gate must last for its end not to count as one of a series."""
SLOWEST_S: Final = 30.0
"""Seconds before the next gate at most, when they keep ending."""


class GateLost(OutpassError):
    """The gate ended before it answered."""


class Duties(Protocol):
    """What a post needs of whoever has the gates."""

    def start(self, post: Post) -> tuple[dict[str, Any], Sequence[int]]:
        """The start message, and its descriptors (kept by their owner)."""

    def spawn(self) -> Child:
        """The next gate. OSError when it cannot be started."""

    async def settle(self, post: Post) -> None:
        """Tell a gate that is ready everything that it must know before it serves. Raises GateLost, StartError."""

    def heard(self, post: Post, body: dict[str, Any]) -> None:
        """Records and questions of a gate."""

    def changed(self) -> None:
        """A post went up or down."""

    def lost(self, how: str, again_s: float) -> None:
        """A gate that had been ready has ended, and there is another in `again_s` seconds."""

    def hopeless(self, why: str) -> None:
        """There never was a gate at this post, and there will be none."""


class Post:
    """Where one gate serves at a time. All methods run on the event loop."""

    def __init__(self, duties: Duties) -> None:
        self._duties = duties
        self._child: Child | None = None
        self._channel: Channel | None = None
        self._pending: dict[int, asyncio.Future[None]] = {}
        self._seq = 0
        self._was_ready = False
        self._gone = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._stopping = False
        self._since = 0.0
        self._series = 0
        """Gates that ended one after the other, each within CALM_S."""
        self._beating: int | None = None
        """The question that is not answered yet."""
        self._missed = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self.up = False
        """It serves: it is ready and was told everything."""
        self.has: set[str] = set()
        """Jails that the gate which is here now was given."""

    @property
    def pid(self) -> int | None:
        """Of the gate that is here now."""
        return self._child.process.pid if self._child else None

    def adopt(self, child: Child) -> None:
        """Take a gate that was just started and send it what it needs."""
        self._child = child
        self._gone.clear()
        self._channel = Channel(child.control, self._packet, lambda why: self.lose(child, why))
        self._wait(READY_S, lambda: self.lose(child, f"it was not ready after {READY_S:.0f} s"))
        self._channel.send(*self._duties.start(self))

    def tell(self, body: dict[str, Any], fds: Sequence[int] = ()) -> None:
        """Send what needs no answer."""
        if self._channel is not None:
            self._channel.send(body, fds)

    async def call(self, body: dict[str, Any], fds: Sequence[int] = ()) -> None:
        """Send, before anything else runs, and wait for the ack. StartError for a nack or silence, GateLost for its end."""
        if self._channel is None or self._channel.closed:
            raise GateLost("there is no gate")
        self._seq += 1
        seq = self._seq
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pending[seq] = answer
        try:
            self._channel.send({**body, "seq": seq}, fds)
            await asyncio.wait_for(answer, ANSWER_S)
        except TimeoutError:
            raise StartError(f"the gate did not answer within {ANSWER_S:.0f} s") from None
        finally:
            self._pending.pop(seq, None)

    async def stop(self) -> None:
        """Let the gate finish what is under way, and end it."""
        self._stopping = True
        self.up = False
        self._wait(None)
        child = self._child
        if child is not None:
            self._seq += 1
            self.tell({"op": "drain", "seq": self._seq})
            try:
                # Its end is the end of the channel, so that all of its records are here by then.
                await asyncio.wait_for(self._gone.wait(), DRAIN_S)
            except TimeoutError:
                pass
            await asyncio.to_thread(end, child.process)
        if self._channel is not None:
            self._channel.close()

    # -- the wire ----------------------------------------------------------------------------------------------------

    def _packet(self, packet: Packet) -> None:
        close_fds(packet.fds)
        body = packet.body
        match body.get("op"):
            case "ack" | "nack" as op:
                self._answered(body, op == "ack")
            case "ready":
                self._wait(None)
                self._run(self._settle())
            case _:
                self._duties.heard(self, body)

    def _answered(self, body: dict[str, Any], well: bool) -> None:
        if body.get("seq") == self._beating:
            self._beating, self._missed = None, 0
            return
        answer = self._pending.get(body.get("seq", -1))
        if answer is None or answer.done():
            return
        if well:
            answer.set_result(None)
        else:
            answer.set_exception(StartError(f"the gate refused: {body.get('error')}"))

    async def _settle(self) -> None:
        child = self._child
        if child is None:
            return
        try:
            await self._duties.settle(self)
        except GateLost:
            return  # the next one is told
        except OutpassError as e:
            self.lose(child, f"it refused what the one before it had: {e.message}")
            return
        if child is not self._child or self._stopping:
            return
        self._was_ready = self.up = True
        self._since = asyncio.get_running_loop().time()
        self._beating, self._missed = None, 0
        self._wait(BEAT_S, self._beat)
        self._duties.changed()

    def _beat(self) -> None:
        child = self._child
        if child is None:
            return
        if self._beating is None:
            self._seq += 1
            self._beating = self._seq
            self.tell({"op": "beat", "seq": self._seq})
        elif (missed := self._missed + 1) >= MISSED:
            self.lose(child, f"it did not answer for {MISSED * BEAT_S:.0f} s", hung=True)
            return
        else:
            self._missed = missed
        self._wait(BEAT_S, self._beat)

    def _wait(self, seconds: float | None, then: Any = None) -> None:
        """`then`, in a while, and nothing that was to come before."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else asyncio.get_running_loop().call_later(seconds, then)

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- the end of a gate -------------------------------------------------------------------------------------------

    def lose(self, child: Child, why: str, *, hung: bool = False) -> None:
        """`child` is over, or must be; the next one is started."""
        if child is not self._child:
            return
        self._gone.set()
        self.up = False
        self.has.clear()
        self._child = None
        self._wait(None)
        if self._channel is not None:
            self._channel.close()
        # Before the next one accepts on the same listeners, this one must be gone for certain.
        end(child.process, at_once=hung)
        for answer in list(self._pending.values()):
            if not answer.done():
                answer.set_exception(GateLost(f"the gate ended: {why}"))
        self._duties.changed()
        if self._stopping:
            return
        code = child.process.returncode
        how = f"hung, {why}" if hung else f"ended ({f'signal {-code}' if code < 0 else f'exit code {code}'})"
        if not self._was_ready:
            self._duties.hopeless(f"the gate did not start ({how.removeprefix('ended (').removesuffix(')')})")
            return
        self._again(how)

    def _again(self, how: str) -> None:
        calm = self._since and asyncio.get_running_loop().time() - self._since > CALM_S
        self._since = 0.0
        self._series = 1 if calm else self._series + 1
        delay = 0.0 if self._series < 3 else min(0.25 * 2 ** (self._series - 3), SLOWEST_S)
        self._duties.lost(how, delay)
        if delay:
            self._wait(delay, self._next)
        else:
            self._next()

    def _next(self) -> None:
        try:
            child = self._duties.spawn()
        except OSError as e:
            self._again(f"cannot be started ({e.strerror})")
            return
        self.adopt(child)
