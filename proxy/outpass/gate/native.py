"""Who is at the other end of a connection that carries no pass: the program, as the broker finds it by the client's socket.

Lives here: the question, and the asker that follows from the answer. May not live here: looking (broker), rights (policy/).
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, NamedTuple

from outpass.gate.jails import Jail
from outpass.gate.principal import UNATTRIBUTED, Asker
from outpass.gate.questions import Questions, Unanswered
from outpass.model import Capability

NO_JAIL: Final = "no-jail"
MAX_AT_ONCE: Final = 64
"""Connections of one jail that the broker looks for at a time: each costs it a walk over the jail's processes."""


class Native(NamedTuple):
    """What the broker found."""

    asker: Asker
    """`exe:NAME`, and the chain that spawned it; UNATTRIBUTED (that very object) where nothing is known for certain."""
    program: str | None
    """`exe:NAME` alone, for a connection that shows its spawn pass itself."""
    own: bool = False
    """The connection is of the session that was asked about."""
    sid: str | None = None
    """The session whose process holds the connection, where nothing says which package made it."""


NOBODY: Final = Native(UNATTRIBUTED, None)


async def of_client(questions: Questions, jail: Jail, ends: tuple[tuple[str, int], tuple[str, int]] | None) -> Native:
    """As `who`, for (client, listener). A Unix socket has no ends that could be looked for, and without a jail a client may be
    any program of the machine."""
    return NOBODY if ends is None or jail.kind == NO_JAIL else await who(questions, jail, *ends)


async def who(
    questions: Questions, jail: Jail, client: tuple[str, int], server: tuple[str, int], owner: str | None = None
) -> Native:
    """The program that holds the TCP connection from `client` to `server`, as the jail's kernel numbers them. Never raises.

    With `owner`, the session that the server's address was given to: first whether the connection is that session's own.
    """
    asked = {"op": "who", "jail": jail.id, "protocol": "tcp", "client": list(client), "server": list(server)}
    gate = jail.native_gate
    if gate is None:
        gate = jail.native_gate = asyncio.Semaphore(MAX_AT_ONCE)
    async with gate:
        try:
            answer = await questions.ask(asked if owner is None else {**asked, "sid": owner})
        except Unanswered:
            return NOBODY
    return _read(answer)


def _read(answer: dict[str, Any]) -> Native:
    if answer.get("own") is True:
        return NOBODY._replace(own=True)
    sid = answer.get("sid")
    chain, versions = answer.get("chain"), answer.get("versions")
    program = answer.get("program")
    if not isinstance(chain, list) or not isinstance(versions, list) or not chain or len(chain) != len(versions):
        return NOBODY if sid is None else NOBODY._replace(sid=str(sid))
    asker = Asker(tuple(map(str, chain)), tuple(versions), Capability.HTTP.value, sid, None)
    return Native(asker, str(program) if program else None)
