"""The gates: one or several processes that serve the same listeners, over one ledger, under the same policies.

Lives here: what all of them are told, and when something counts as told. May not live here: one gate's process (supervise.py).

Connections are shared by the kernel: every gate accepts on the same sockets, and while one is being replaced the others
serve; with a single gate, connections wait in the listeners' queues meanwhile. Nothing goes out without a gate.

A gate is told of a jail, an address or a policy either by the operation itself or, when it is new, by `settle`. Nothing awaits
between the look at who lacks it and the step that assumes that nobody does.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final

from outpass.broker import memory, say
from outpass.broker.jails import InForce, Jail
from outpass.broker.spare import Spare
from outpass.broker.spawn import Child
from outpass.broker.supervise import GateLost, Post
from outpass.broker.synthetic import Entry
from outpass.errors import StartError
from outpass.policy import shares

_SIDS: Final = 1_000
"""Sessions in one packet."""
_TRIES: Final = 3
"""Gates that may end over the same operation."""

type Reply = Callable[[dict[str, Any]], None]


class Gates:
    """All of them. All methods run on the event loop."""

    def __init__(
        self,
        *,
        start: dict[str, Any],
        spawn: Callable[[], Child],
        jails: Callable[[], Sequence[Jail]],
        on_record: Callable[[Any], None],
        on_lost: Callable[[str], None],
        on_question: Callable[[dict[str, Any], Reply], None] = lambda _, __: None,
        on_address: Callable[[Jail, Entry, Sequence[str]], None] = lambda *_: None,
        spare: Callable[[], Child] | None = None,
    ) -> None:
        """`start`: the start message. `jails()`: those that a new gate must be told of. `on_lost` hears how a gate ended.

        `on_question` hears what a gate asks, and how to answer that gate. `on_address`: which address all of them know, and
        which none does any more, before anybody in the jail is told. `spare` starts a gate that waits until it is needed.
        """
        self._start = start
        self._spawn = spawn
        self._spare = Spare(spare)
        self._jails = jails
        self._on_record = on_record
        self._on_lost = on_lost
        self._on_question = on_question
        self._on_address = on_address
        self._ledger = memory.new_ledger()
        self._turn_memory, self._turn = memory.new_turn()
        self._quota = memory.new_quota()
        self._shares_memory, self._shares = memory.new_shares()
        self._turning = asyncio.Lock()
        self._some_up = asyncio.Event()
        self._all_up = asyncio.Event()
        self._audit_failing = False
        self._ended: dict[str, set[str]] = {}
        """Jail → its sessions that are over: a gate that is replaced must not honour their passes again."""
        self._stopping = False
        self.posts: list[Post] = []
        self.failed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Resolves, with the reason, when there will be no gate."""

    @property
    def ready(self) -> bool:
        """Whether some gate is up and knows every jail."""
        return self._some_up.is_set()

    def adopt(self, children: Iterable[Child]) -> None:
        """Take gates that were just started."""
        started = list(children)
        self.posts = [Post(self) for _ in started]
        for post, child in zip(self.posts, started, strict=True):
            post.adopt(child)

    async def wait_ready(self) -> None:
        """Until a gate is up. Raises StartError when there will be none."""
        await self._until(self._some_up)

    async def wait_all(self) -> None:
        """Until every gate is up. Raises StartError when one does not start."""
        await self._until(self._all_up)

    # -- what the broker asks of them --------------------------------------------------------------------------------

    async def add(self, jail: Jail) -> None:
        """Hand a jail's listeners and policy to the gates. Raises StartError when they refuse them, and then none has it."""
        try:
            await self._everywhere(
                lambda post: post.up and jail.id not in post.has, lambda post: self._add(post, jail), wait=True
            )
        except BaseException:
            await self.remove(jail)
            raise

    async def change(self, changes: Sequence[tuple[Jail, InForce]]) -> None:
        """Put other policies in force, in all gates and all of these jails at one instant. StartError: nothing changed.

        A decision that begins after any gate has decided by one of the new policies is decided by the new ones (policy.turn).
        Returns when every gate has closed what the new ones do not allow.
        """
        async with self._turning:
            memories = [(jail, memory.of_policy(force)) for jail, force in changes]
            at = self._turn.now + 1
            told: set[tuple[int | None, str]] = set()

            def lacks(post: Post) -> bool:
                return any(jail.id in post.has and (post.pid, jail.id) not in told for jail, _ in changes)

            async def stage(post: Post) -> None:
                for jail, content in memories:
                    if jail.id in post.has:
                        await post.call({"op": "jail.policy", "jail": jail.id, "turn": at}, [content])
                        told.add((post.pid, jail.id))

            try:
                await self._everywhere(lacks, stage)
            except BaseException:
                for post in self.posts:
                    post.tell({"op": "policy.drop"})
                raise
            finally:
                for _, content in memories:
                    os.close(content)
            for jail, force in changes:  # first, so that a gate which starts now gets the new one
                jail.force = force
            self._turn.advance()
            await asyncio.gather(*(post.call({"op": "turn"}) for post in self.posts), return_exceptions=True)

    async def remove(self, jail: Jail) -> None:
        """Take a jail from the gates; returns when its last records are here. A gate that died has dropped it already."""
        having = [post for post in self.posts if jail.id in post.has]
        for post in having:
            post.has.discard(jail.id)
        done = await asyncio.gather(
            *(post.call({"op": "jail.remove", "jail": jail.id}) for post in having), return_exceptions=True
        )
        for problem in done:
            if isinstance(problem, StartError):
                say.warning(f"a gate did not close jail {jail.id}: {problem.message}")
        self._ended.pop(jail.id, None)

    async def address(self, jail: Jail, entry: Entry, dropped: Sequence[str]) -> None:
        """Have the gates know an address before anybody in the jail does. Raises StartError."""
        body = {"op": "address", "jail": jail.id, "entries": [entry.as_line()], "drop": list(dropped)}
        told: set[int | None] = set()

        async def call(post: Post) -> None:
            told.add(post.pid)
            await post.call(body)

        await self._everywhere(lambda post: jail.id in post.has and post.pid not in told, call)
        jail.addresses.told(entry)
        self._on_address(jail, entry, dropped)

    def end_session(self, jail: str, sid: str, revoked: bool = False) -> None:
        """Passes of this session are not honoured any more; when it was revoked, what lives by them is cut off."""
        self._ended.setdefault(jail, set()).add(sid)
        for post in self.posts:
            post.tell({"op": "session.end", "sids": [sid], "revoked": revoked})

    def over(self, jail: str, sids: Iterable[str]) -> None:
        """Sessions of a jail that ended before the gates knew it."""
        self._ended.setdefault(jail, set()).update(sids)
        listed = list(self._ended[jail])
        for post in self.posts:
            for n in range(0, len(listed), _SIDS):
                post.tell({"op": "session.end", "sids": listed[n : n + _SIDS]})

    def audit(self, failing: bool) -> None:
        """Whether decisions can be recorded."""
        self._audit_failing = failing
        for post in self.posts:
            post.tell(self._audit_state())

    def renew_ca(self, certificate: str) -> None:
        """Leaves from now on are signed under this certificate (PEM) of the same key."""
        self._start["ca_cert"] = certificate
        for post in self.posts:
            post.tell({"op": "ca", "ca_cert": certificate})

    async def stop(self) -> None:
        """Drain and end all of them."""
        self._stopping = True
        self.changed()
        self._spare.stop()
        await asyncio.gather(*(post.stop() for post in self.posts))
        os.close(self._ledger)
        os.close(self._quota)
        os.close(self._turn_memory)
        os.close(self._shares_memory)

    # -- what posts ask (supervise.Duties) ---------------------------------------------------------------------------

    def start(self, post: Post) -> tuple[dict[str, Any], Sequence[int]]:
        """As Duties."""
        told = {**self._start, "gate": self.posts.index(post), "gates": len(self.posts)}
        return told, (self._ledger, self._turn_memory, self._quota, self._shares_memory)

    def spawn(self) -> Child:
        """As Duties."""
        return self._spare.take() or self._spawn()

    async def settle(self, post: Post) -> None:
        """As Duties: a new gate gets what the others have."""
        over = [sid for sids in self._ended.values() for sid in sids]
        for n in range(0, len(over), _SIDS):
            post.tell({"op": "session.end", "sids": over[n : n + _SIDS]})
        while lacking := [jail for jail in self._jails() if jail.id not in post.has]:
            for jail in lacking:
                if not jail.closing:
                    await self._add(post, jail)
        if self._audit_failing:
            post.tell(self._audit_state())

    def heard(self, post: Post, body: dict[str, Any]) -> None:
        """As Duties."""
        match body.get("op"):
            case "audit":
                for record in body.get("records", ()):
                    self._on_record(record)
            case "name" | "who" | "used":
                self._on_question(body, lambda answer: post.tell({**answer, "op": "answer"}))

    def changed(self) -> None:
        """As Duties."""
        for number, post in enumerate(self.posts):
            if post.pid is None:  # one that is there writes its own, from before it is up
                self._shares[number] = shares.NOBODY
        up = [post.up and not self._stopping for post in self.posts]
        for event, holds in ((self._some_up, any(up)), (self._all_up, all(up))):
            event.set() if holds else event.clear()
        if all(up):
            self._spare.prepare()

    def lost(self, how: str, again_s: float) -> None:
        """As Duties."""
        then = f"the next one is started in {again_s:g} s, because they keep ending" if again_s else "another is started"
        rest = "the others serve meanwhile" if self.ready else "requests wait"
        say.warning(f"a gate {how}; {then}, {rest}")
        self._on_lost(how)

    def hopeless(self, why: str) -> None:
        """As Duties."""
        if not self.failed.done():
            self.failed.set_result(why)

    # -- to all ------------------------------------------------------------------------------------------------------

    async def _everywhere(
        self, lacks: Callable[[Post], bool], call: Callable[[Post], Awaitable[None]], *, wait: bool = False
    ) -> None:
        """`call` every gate that `lacks` something, until none does. With `wait`: and at least one is up.

        Raises StartError where one refuses. Nothing has run between the last look and the return.
        """
        ended = 0
        while True:
            if wait:
                await self.wait_ready()
            todo = [post for post in self.posts if lacks(post)]
            if not todo:
                return
            for problem in await asyncio.gather(*(call(post) for post in todo), return_exceptions=True):
                ended += isinstance(problem, GateLost)
                if isinstance(problem, BaseException) and (not isinstance(problem, GateLost) or ended > _TRIES):
                    raise problem

    async def _add(self, post: Post, jail: Jail) -> None:
        lines = jail.addresses.lines()
        body: dict[str, Any] = {
            "op": "jail.add",
            "jail": jail.id,
            "tier": jail.tier,
            "kind": jail.kind,
            "listeners": list(jail.kinds),
            "search": list(jail.search),
        }
        fds = [memory.of_policy(jail.force)]
        if lines:  # connections to addresses that were given out wait for the new gate, so it must know them first
            body["book"] = True
            fds.append(memory.sealed("outpass-book", lines))
        post.has.add(jail.id)
        try:
            await post.call(body, [*fds, *(s.fileno() for s in jail.listeners)])
        except BaseException:
            post.has.discard(jail.id)
            raise
        finally:
            for fd in fds:
                os.close(fd)

    def _audit_state(self) -> dict[str, Any]:
        return {"op": "audit", "state": "failing" if self._audit_failing else "ok"}

    async def _until(self, event: asyncio.Event) -> None:
        if self._stopping:
            raise StartError("the daemon is ending", "start the command again when there is another")
        waiter: asyncio.Future[Any] = asyncio.ensure_future(event.wait())
        try:
            await asyncio.wait([waiter, self.failed], return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiter.cancel()
        if self.failed.done():
            raise StartError(self.failed.result(), "the gate's own last words are above")
