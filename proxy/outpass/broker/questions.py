"""What a gate asks the broker, and what the broker has a gate know first: addresses for names, programs behind connections.

Lives here: reading a question, having it answered, the order of telling. May not live here: the table (synthetic.py), /proc
(native.py), the wire (supervise.py). A gate parses hostile traffic, so its word is checked for shape.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from outpass.broker import say
from outpass.broker.claims import Claims, Ends
from outpass.broker.gates import Gates, Reply
from outpass.broker.jails import Jail, Jails
from outpass.broker.native import Asked, Finder
from outpass.broker.synthetic import Entry, Full, Key
from outpass.broker.view import End
from outpass.errors import OutpassError
from outpass.policy import names

MAX_SEARCHES: Final = 4
"""Walks over /proc at a time, of different jails."""


class Questions:
    """Answers the gates' questions; on the event loop."""

    def __init__(self, jails: Jails, gates: Gates, finder: Finder, claims: Claims) -> None:
        self._claims = claims
        self._jails = jails
        self._gates = gates
        self._finder = finder
        self._searches = asyncio.Semaphore(MAX_SEARCHES)
        self._waiting: dict[str, list[tuple[Any, Asked, Reply]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def asked(self, body: dict[str, Any], reply: Reply) -> None:
        """One question, or note, of a gate; `reply` answers that gate."""
        jail = self._jails.by_id.get(str(body.get("jail")))
        seq = body.get("seq")
        if body.get("op") == "used":
            if jail is not None:
                jail.addresses.touch(str(body.get("address")))
            return
        if jail is None or jail.closing:
            reply({"seq": seq, "error": "there is no such jail"})
        elif body.get("op") == "name":
            self._run(self._name(jail, seq, body.get("name"), reply))
        else:
            self._who(jail, seq, body, reply)

    def tell(self, jail: Jail, entry: Entry, dropped: tuple[str, ...], known: Callable[[bool], None]) -> None:
        """Have the gate know an address; `known` hears whether it does."""

        async def work() -> None:
            try:
                await self._gates.address(jail, entry, dropped)
            except OutpassError as e:
                say.warning(f"the gate was not told of an address: {e.message}")
                known(False)
            else:
                known(True)

        self._run(work())

    async def _name(self, jail: Jail, seq: Any, name: Any, reply: Reply) -> None:
        """Every gate must know the address before the one that asks: the connection to it may come to any of them."""
        try:
            entry, dropped = jail.addresses.give(Key(None, (), names.host(str(name))))
            if dropped or not entry.told:
                await self._gates.address(jail, entry, dropped)
        except (ValueError, Full, OutpassError) as e:
            reply({"seq": seq, "error": str(e) or "every address is in use"})
            return
        reply({"seq": seq, "address": entry.address})

    def _who(self, jail: Jail, seq: Any, body: dict[str, Any], reply: Reply) -> None:
        """With a `sid` the question is first whether the connection is that session's, to which the address was given."""
        owner = body.get("sid")
        try:
            one = Asked(_end(body.get("client")), _end(body.get("server")), None if owner is None else str(owner))
        except (TypeError, ValueError) as e:
            say.error(f"cannot look for a program in {jail.id}: {e!r}")
            reply({"seq": seq})
            return
        if one.owner is not None and (sid := self._claims.ask(Ends(jail.id, one.client, one.server))) is not None:
            reply({"seq": seq, **_said(one, sid)})
            return
        waiting = self._waiting.get(jail.id)
        if waiting is not None:
            waiting.append((seq, one, reply))
            return
        self._waiting[jail.id] = [(seq, one, reply)]
        self._run(self._search(jail))

    async def _search(self, jail: Jail) -> None:
        """One walk at a time for a jail; whoever asks meanwhile is answered by the next, all together."""
        while asked := self._waiting[jail.id]:
            try:
                async with self._searches:
                    asked, self._waiting[jail.id] = self._waiting[jail.id], []
                    found = await asyncio.to_thread(self._finder.find, jail, [one for _, one, _ in asked])
            except Exception as e:  # no answer would only be a slower no
                say.error(f"cannot look for programs in {jail.id}: {e!r}")
                found = [{} for _ in asked]
            for (seq, one, reply), answer in zip(asked, found, strict=True):
                sid = None if one.owner is None else self._claims.settle(Ends(jail.id, one.client, one.server))
                reply({"seq": seq, **(answer if sid is None else _said(one, sid))})
        del self._waiting[jail.id]

    def _run(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _said(asked: Asked, sid: str) -> dict[str, Any]:
    """The answer where session `sid` said that the connection is its own."""
    return {"sid": sid, "own": True} if sid == asked.owner else {"sid": sid}


def _end(value: Any) -> End:
    host, port = value
    return names.host(str(host)), int(port)
