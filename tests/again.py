"""Runs the tests; those that drive real processes and failed get one second attempt, and are named.

Lives here: which failures may be tried again. May not live here: tests, and any mercy for what is pure or got through.
A test that waits for five processes on two busy cores can run out of its deadline. A rule, a property, a policy or a word
of the docs cannot, and fails at once. A claim is asked again only when its set-up or its deadline failed: an attack that
got through once got through. So does a run with more than `MOST` failures fail, and whatever fails twice.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final, NamedTuple
from xml.etree import ElementTree

REAL: Final = ("tests.e2e.", "tests.integration.", "tests.shim.", "tests.unit.broker.", "tests.unit.gate.", "tests.unit.jail.")
"""Rooms whose tests start processes or wait for sockets."""
CLAIMS: Final = "tests.claims."
LATE: Final = ("Failed: Timeout", "subprocess.TimeoutExpired")
"""How the message of a test begins that ran out of time."""
REPORT: Final = Path(".pytest_cache/junit.xml")
"""Of the first attempt; it stays, for whoever wants to know what takes long."""
MOST: Final = 6
"""Failures in one run; more of them are no accident."""


class Failure(NamedTuple):
    """One test of the JUnit report that did not pass."""

    module: str
    name: str
    message: str
    """Of the exception. Empty when the set-up or the tear-down failed, not the test."""


def worth_another(failed: list[Failure]) -> bool:
    """Whether a second attempt can tell anything."""
    return 0 < len(failed) <= MOST and all(
        one.module.startswith(REAL) or (one.module.startswith(CLAIMS) and (not one.message or one.message.startswith(LATE)))
        for one in failed
    )


def failures(report: Path) -> list[Failure]:
    """Those of a JUnit report. Whatever cannot be read there counts as a failure that is never forgiven."""
    try:
        cases = list(ElementTree.parse(report).iter("testcase"))
    except (OSError, ElementTree.ParseError) as e:
        return [Failure("", str(report), f"no report: {e}")]
    return [
        Failure(case.get("classname", ""), case.get("name", ""), found.get("message", "") if found.tag == "failure" else "")
        for case in cases
        for found in case
        if found.tag in ("failure", "error")
    ]


def _pytest(*arguments: str) -> int:
    return subprocess.call([sys.executable, "-m", "pytest", "-q", *arguments])


def main() -> int:
    """The exit code of pytest."""
    REPORT.unlink(missing_ok=True)
    code = _pytest(f"--junitxml={REPORT}")
    failed = failures(REPORT) if code == 1 else []
    if not worth_another(failed):
        return code
    print(f"\n{len(failed)} failed; a second attempt at:", *(f"{f.module} {f.name}" for f in failed), sep="\n  ", flush=True)
    return _pytest("--last-failed", "--last-failed-no-failures=none")


if __name__ == "__main__":
    sys.exit(main())
