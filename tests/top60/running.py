"""One row after the other, each a program in a jail under one daemon, and what the servers and the audit log say of it.

Lives here: running and judging. May not live here: rows, servers, the table.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from outpass.audit import query
from tests.support.runs import OUTPASS
from tests.support.warm import serving
from tests.top60.servers import RUNNING, Servers, listening
from tests.top60.smoke import Smoke, policy

GOOD: Final = "ok"
TIME_S: Final = 90
DRIVER: Final = """
import json, os
{source}
def attempt(host):
    try: return [True, str(ask(host))]
    except BaseException as e: return [False, type(e).__name__ + ": " + str(e)]
if __name__ == "__main__":
    print("\\n" + json.dumps([attempt({host!r}), attempt({elsewhere!r})]), flush=True)
    os._exit(0)  # not waiting for threads that a library keeps
"""


class Result(NamedTuple):
    row: Smoke
    verdict: str
    """`ok`, or in a few words why not"""
    charged: tuple[str, ...] = ()
    """the chain of what was allowed, nearest first, without versions"""

    @property
    def bad(self) -> bool:
        """Neither good nor known not to work."""
        return self.verdict != GOOD and not self.row.note


class Ran(NamedTuple):
    row: Smoke
    said: list[list[Any]]
    """twice, asked of its own host and of the other: whether the call returned, and what it returned or raised"""
    arrived: bool
    strayed: bool


def run(home: Path, rows: list[Smoke], pythons: Mapping[str, Path], tell: Callable[[str], None]) -> list[Result]:
    """Each row with the interpreter that has its package."""
    absent = {row.package: why for row in rows if (why := _absent(row, pythons))}
    servers = Servers(rows)
    (home / "project").mkdir(parents=True)
    (home / "project" / "outpass.yaml").write_text(policy(rows))
    ran = []
    with servers.running() as options, serving(home, *options) as env:
        for row in rows:
            if row.package not in absent:
                ran.append(_one(home / "project", env, servers, row, pythons[row.package]))
                tell(f"{row.package}: {str(ran[-1].said[0][1])[:100]!r}")
    # After the daemon's end, when everything is written.
    records = list(query.read(Path(env["OUTPASS_STATE"])))
    results = [Result(one.row, judged(one, records), chain(one.row, records)) for one in ran]
    return results + [Result(row, absent[row.package]) for row in rows if row.package in absent]


def _absent(row: Smoke, pythons: Mapping[str, Path]) -> str:
    if row.package not in pythons:
        return "not run: its virtualenv could not be made"
    return f"not run: no {row.server} on this machine" if row.server in RUNNING and not listening(RUNNING[row.server]) else ""


def _one(project: Path, env: Mapping[str, str], servers: Servers, row: Smoke, python: Path) -> Ran:
    (project / "main.py").write_text(DRIVER.format(source=row.source, host=row.host, elsewhere=row.elsewhere))
    command = [OUTPASS, "run", "--policy", "outpass.yaml", "-q", "--", str(python), "main.py"]
    try:
        done = subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, timeout=TIME_S, check=False)
    except subprocess.TimeoutExpired:
        return Ran(row, [[False, f"did not end in {TIME_S} s"]] * 2, servers.arrived(row), servers.strayed(row))
    line = (done.stdout.strip().splitlines() or [""])[-1]
    said = json.loads(line) if line.startswith("[[") else [[False, done.stderr.strip()[-300:]]] * 2
    return Ran(row, said, servers.arrived(row), servers.strayed(row))


def chain(row: Smoke, records: list[dict[str, Any]]) -> tuple[str, ...]:
    """Who was charged with what was allowed at the row's host, nearest first; rather the one who should be; () if nobody was."""
    chains = [_chain(r) for r in records if (r["kind"], r["verdict"], r["host"]) == ("decision", "allow", row.host)]
    return next((found for found in chains if found[0] == row.charged), chains[0] if chains else ())


def _chain(record: dict[str, Any]) -> tuple[str, ...]:
    # What carries no pass (a CONNECT of native code) has no chain.
    return tuple(entry.partition("@")[0] for entry in record["chain"]) or ("unattributed",)


def judged(ran: Ran, records: list[dict[str, Any]]) -> str:
    """`ok`: it worked, it arrived, nobody else was charged; and elsewhere it was refused, in the same name."""
    row = ran.row
    (worked, answer), (_, refused) = ran.said
    heads = {(r["host"], r["verdict"]): set[str]() for r in records}
    for record in records:
        if record["kind"] != "close":
            heads[record["host"], record["verdict"]].add(_chain(record)[0])
    may = {row.charged, *row.also}
    allowed, denied = heads.get((row.host, "allow"), set()), heads.get((row.host, "deny"), set())
    elsewhere = heads.get((row.elsewhere, "deny"), set())
    if not worked or row.says not in answer:
        return f"does not work: {answer}" + (f"; denied to {_told(denied)}" if denied else "")
    if not ran.arrived:
        return "nothing arrived at the server"
    if row.charged not in allowed or not allowed <= may:
        return f"charged to {_told(allowed) or 'nobody'}"
    if denied:
        return f"its own host is denied to {_told(denied)}"
    if ran.strayed:
        return "the other host was reached"
    if not elsewhere:
        return f"the other host: no refusal recorded, it was told {refused}"
    return GOOD if elsewhere <= may else f"the other host is denied to {_told(elsewhere)}"


def _told(names: set[str]) -> str:
    return ", ".join(sorted(names))
