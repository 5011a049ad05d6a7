"""What must be true after a soak, from three books that know nothing of each other: the clients', the origins', the audit's.

Lives here: pure comparisons. May not live here: processes, files.

 1. nothing at an origin that policy denies: each request there has a record that allowed it, and replay of that record, under the
    policy whose digest it carries, allows it again. Where a killed gate took the record with it, policy itself is asked.
 2. no decision unaudited: each answer that a client got has a record, except within LOST_S before a kill (a gate that dies of
    SIGKILL loses what waits for the broker: 50 ms, more on a loaded machine; they are counted and reported).
 3. nobody waits in vain: no client gives up after 25 s (no origin here stalls for more than three).
 4. no replay that differs: what was decided then is what the same policy says now.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from outpass.audit.replay import Replay
from outpass.model import EgressRequest
from outpass.policy.compiled import Compiled
from outpass.policy.decide import decide

LOST_S: Final = 2.0
WAIT_S: Final = 25.0
BACKOFF_S: Final = 31.0
"""For so long requests may wait after a gate that was killed (broker/supervise.py)."""
Key = tuple[str, str, str]
"""host, method, path."""


class Asked(NamedTuple):
    """A line of a client's log."""

    begun: float
    ended: float
    key: Key
    outcome: str
    """An HTTP status, or the name of an exception."""


@dataclass
class Verdict:
    """The outcome. `broken` is empty when all hold."""

    broken: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)

    def say(self, what: str, found: Iterable[Any]) -> None:
        """Note breaches: how many, and the first few."""
        some = list(found)
        if some:
            self.broken.append(f"{len(some)} {what}: {some[:3]}")


def judge(
    asked: Sequence[Asked],
    arrived: Iterable[Key],
    records: Sequence[Mapping[str, Any]],
    policies: Mapping[str, Compiled],
    kills: Sequence[float],
) -> Verdict:
    """All of it; `policies` by digest, `kills` in Unix time."""
    verdict = Verdict()
    replays = {digest: Replay(compiled) for digest, compiled in policies.items()}
    by_key: dict[Key, list[Mapping[str, Any]]] = {}
    for one in records:
        if one["path"] is not None:
            by_key.setdefault((one["host"], one["method"], one["path"]), []).append(one)
    _origins(verdict, set(arrived), by_key, replays, policies, asked, kills)
    _clients(verdict, asked, by_key, kills)
    judged = [(r, replays[r["digest"]].judge(r)) for r in records if r["digest"] in replays]
    verdict.say("records that replay differently", [(r, a.decision) for r, a in judged if a is not None and a.differs])
    verdict.say("records of a policy that was never in force", [r for r in records if r["digest"] and r["digest"] not in replays])
    verdict.figures |= {
        "asked": len(asked),
        "outcomes": dict(Counter(a.outcome for a in asked).most_common()),
        "records": len(records),
        "verdicts": dict(Counter(f"{r['kind']} {r['verdict']} {r['reason']}" for r in records).most_common()),
        "replayed": sum(a is not None for _, a in judged),
    }
    return verdict


def _origins(
    verdict: Verdict,
    arrived: set[Key],
    by_key: Mapping[Key, Sequence[Mapping[str, Any]]],
    replays: Mapping[str, Replay],
    policies: Mapping[str, Compiled],
    asked: Sequence[Asked],
    kills: Sequence[float],
) -> None:
    when = {a.key: a for a in asked}
    unrecorded = []
    for key in arrived:
        allowed = [r for r in by_key.get(key, ()) if r["kind"] == "decision" and r["verdict"] == "allow"]
        if not allowed:
            unrecorded.append(key)
            continue
        again = [replays[r["digest"]].judge(r) for r in allowed if r["digest"] in replays]
        if not any(a is not None and a.decision.allowed for a in again):
            verdict.broken.append(f"an origin got what replay denies: {key}")
    verdict.say("requests at an origin that every policy denies", [k for k in unrecorded if not _any(policies, k)])
    excused = [k for k in unrecorded if k not in when or _near(when[k], kills)]
    verdict.say("requests at an origin without a record", set(unrecorded) - set(excused))
    verdict.figures |= {"arrived": len(arrived), "records lost with a killed gate": len(excused)}


def _clients(
    verdict: Verdict, asked: Sequence[Asked], by_key: Mapping[Key, Sequence[Mapping[str, Any]]], kills: Sequence[float]
) -> None:
    answered = [a for a in asked if a.outcome.isdigit() and int(a.outcome) not in (407,)]
    missing = [a for a in answered if a.key not in by_key]
    verdict.say("answers without a record", [a for a in missing if not _near(a, kills)])
    verdict.say(
        "requests that waited in vain", [a for a in asked if a.ended - a.begun > WAIT_S and not _near(a, kills, BACKOFF_S)]
    )
    verdict.figures["answers whose record was lost with a killed gate"] = sum(_near(a, kills) for a in missing)


def _near(asked: Asked, kills: Sequence[float], before: float = 1.0) -> bool:
    """Whether something was killed while it was asked, up to `before` seconds earlier or LOST_S later."""
    return any(asked.begun - before <= kill <= asked.ended + LOST_S for kill in kills)


def _any(policies: Mapping[str, Compiled], key: Key) -> bool:
    """Whether some policy allows the application this request."""
    host, method, path = key
    request = EgressRequest("network:http", ("app",), (None,), "https", host, 443, method, path, ("127.0.0.1",), True)
    return any(decide(compiled, request, now=0.0).allowed for compiled in policies.values())
