"""A shim's chain as the broker completes it, and a decision as the shim is told it and as the broker records it.

Lives here: versions, origin, names that cannot be proven; the words; the record. May not live here: passes (mint.py),
look-ups (resolve.py).
"""

from __future__ import annotations

import json
import os
from typing import Any

from outpass.audit import record
from outpass.broker import hello
from outpass.broker.session import Link, Origin, Session
from outpass.model import Decision
from outpass.policy.explain import explain
from outpass.reasons import Reason


def told(decision: Decision) -> str:
    """The denial in words that may go back into the jail: as a problem, which says nothing about the host."""
    problem = explain(decision).as_problem()
    add = problem.get("add")
    return f"{problem['detail']}; to allow it, add:\n{add}" if add else str(problem["detail"])


def told_of_the_gate(decision: Decision) -> str:
    """The denial of a connection or a look-up by which somebody goes round the gate, through which it could go."""
    who, there = decision.principal, decision.request.host
    return (
        f"{who} may use HTTP with {there}, but only through the gate, and this goes round it: let the client use the proxy of "
        "the environment (trust_env=True in aiohttp, no NO_PROXY, no proxies= of its own), or run it in a jail, without --no-jail"
    )


def refused(reason: Reason, say: str) -> bytes:
    """The reply to a check or a look-up that is refused."""
    return json.dumps({"allow": False, "reason": reason.value, "say": say}).encode()


def recorded(decision: Decision, *, jail: str, sid: str | None, now: float) -> dict[str, Any]:
    """The audit record of a decision that the broker made itself at `now` (Unix time): nothing was dialled or answered."""
    return record.decision(
        decision,
        id=f"b-{os.urandom(8).hex()}",
        time_ms=int(now * 1000),
        jail=jail,
        source="broker",
        status=None,
        sid=sid,
        dialled=None,
        override=False,
        query=None,
    )


def complete(session: Session, chain: tuple[str, ...]) -> Origin:
    """A shim's chain with versions, with what cannot be true marked, and with the session's origin behind it.

    * A name that is not installed where the process imports from cannot be proven: it becomes `!name`.
    * The chain goes on to who spawned the process, even past its own `app`: in a child, `app` is whatever its spawner told
      it to run (`python -c …`). decide() looks past an `app` that is not the nearest.
    """
    known, versions = session.mapped.names, session.mapped.versions
    links = tuple(
        Link(name, versions.get(name)) if name in known or name in ("app", "?") or name[0] == "!" else Link(f"!{name}", None)
        for name in chain
    )
    origin = session.origin
    if not origin or links[-len(origin) :] == origin:  # it says so itself already
        return links
    joined = (*links, *origin)
    if len(joined) > hello.MAX_CHAIN:
        return (*joined[: hello.MAX_CHAIN - 1], Link("?", None))
    return joined
