"""`outpass test FILE…`: does the policy still answer as its case files say?

Lives here: the command. May not live here: reading cases (cases.py), the decision (policy/).
"""

from __future__ import annotations

import time
from pathlib import Path

import click

from outpass import cases
from outpass.cli import say
from outpass.cli.explain import request_of
from outpass.cli.source import policy_to_ask
from outpass.errors import EXIT_DENY, EXIT_OK
from outpass.model import Decision
from outpass.policy import decide
from outpass.policy.explain import explain


def answer(compiled: decide.Compiled, case: cases.Case, now: float) -> Decision:
    """What the policy says to a case. Raises UsageError for a question that is none."""
    request = request_of(case.who.replace(">", ","), tuple(case.asks.split()))
    return decide.decide(compiled, request._replace(addresses=case.to), now=now if case.at is None else case.at)


@click.command("test")
@click.option("--policy", metavar="FILE", help="The policy to test (default: the one that the case file names, else as explain).")
@click.argument("files", nargs=-1, required=True, metavar="FILE…")
def command(policy: str | None, files: tuple[str, ...]) -> int:
    """Put the questions of case files to a policy, and compare the answers. Exit 0 all as said, 1 some are not, 2 bad input."""
    asked = wrong = 0
    for name in files:
        found = cases.read(Path(name))
        loaded = policy_to_ask(policy or (str(found.policy) if found.policy else None))
        compiled = decide.compile(loaded.policy)
        for case in found.cases:
            asked += 1
            decision = answer(compiled, case, time.time())
            if decision.verdict is case.gets and case.because in (None, decision.reason):
                continue
            wrong += 1
            due = f"{case.gets.value} ({case.because.value})" if case.because else case.gets.value
            say.error(f"{case.place}: {case.who} asks {case.asks}")
            say.note(f"  should get {due}, gets {decision.verdict.value} ({decision.reason.value})")
            for line in explain(decision).lines[1:]:
                say.note(f"  {line}")
    say.note(f"{asked} cases, {wrong} wrong")
    return EXIT_DENY if wrong else EXIT_OK
