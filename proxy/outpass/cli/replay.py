"""`outpass replay`: what would this policy have said to everything in the audit log?

Lives here: the command, grouping, words. May not live here: judging (audit/replay.py, policy/).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import click

from outpass.audit import export, replay, store
from outpass.cli import say
from outpass.cli.source import policy_to_ask
from outpass.errors import EXIT_DENY, EXIT_OK
from outpass.policy import decide
from outpass.policy.explain import explain

SHOWN: Final = 100


class _Difference:
    """Records that came out the same new way, of one package and one destination: the first, and how many."""

    def __init__(self, first: replay.Replayed) -> None:
        self.first = first
        self.count = 0

    def text(self) -> Iterable[str]:
        record, decision = self.first
        was, now = f"{record['verdict']} ({record['reason']})", f"{decision.verdict.value} ({decision.reason.value})"
        times = f"  {self.count} times" if self.count > 1 else ""
        yield f"{export.package(record)}  {export.destination(record)}{times}"
        yield f"  was {was}, would be {now}"
        yield from (f"  {line}" for line in explain(decision).lines[1:])

    def as_json(self) -> dict[str, Any]:
        record, decision = self.first
        return {"count": self.count, "record": dict(record), "now": explain(decision).as_json()}


@click.command("replay")
@click.option("--policy", metavar="FILE", help="The policy to ask (default: $OUTPASS_POLICY, else outpass.yaml here).")
@click.option("--package", metavar="P", help="Only requests with this package anywhere in their chain.")
@click.option("--state", metavar="FILE", help="The audit log (default: $OUTPASS_STATE, else the user's state directory).")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
def command(policy: str | None, package: str | None, state: str | None, as_json: bool) -> int:
    """Judge every recorded decision again, and show what this policy would say differently.

    Each is judged as of its own time, with the addresses that it had then. Exit 0 nothing differs, 1 something does, 2 bad input.
    """
    loaded = policy_to_ask(policy)
    judge = replay.Replay(decide.compile(loaded.policy)).judge
    path = Path(state) if state else store.default_path(os.environ)
    judged = skipped = differ = 0
    found: dict[tuple[Any, ...], _Difference] = {}
    for record in store.read(path, package=package):
        again = judge(record)
        if again is None:
            skipped += record["kind"] == "decision"
            continue
        judged += 1
        if again.differs:
            differ += 1
            key = (*(str(record[k]) for k in ("chain", "capability", "host", "port", "verdict", "reason")), again.decision.reason)
            found.setdefault(key, _Difference(again)).count += 1
    if as_json:
        say.data(
            {
                "schema": "outpass.replay/1",
                "digest": loaded.digest,
                "judged": judged,
                "skipped": skipped,
                "differ": differ,
                "differences": [one.as_json() for one in found.values()],
            }
        )
        return EXIT_DENY if differ else EXIT_OK
    for one in list(found.values())[:SHOWN]:
        for line in one.text():
            click.echo(line)
    if len(found) > SHOWN:
        say.note(f"{len(found) - SHOWN} more kinds of difference; all of them: --json")
    unread = f"; {skipped} cannot be judged again: shortened, or not decided by policy alone" if skipped else ""
    say.note(f"{judged} decisions judged again under {loaded.digest}, {differ} differ{unread}")
    return EXIT_DENY if differ else EXIT_OK
