"""`outpass check FILE…`: loads policies exactly as `run` would, without effect.

Lives here: the command. May not live here: the checks (policy/, files.py).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from outpass import files
from outpass.cli import say
from outpass.errors import EXIT_BAD_INPUT, EXIT_DENY, EXIT_OK, Fault, PolicyError


def _as_json(fault: Fault, level: str) -> dict[str, Any]:
    place = fault.place
    return {
        "level": level,
        "file": place.file,
        "line": place.line,
        "column": place.column,
        "message": fault.message,
        "hint": fault.hint,
    }


@click.command("check")
@click.argument("policies", nargs=-1, required=True, metavar="FILE…")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
def command(policies: tuple[str, ...], as_json: bool) -> int:
    """Validate policies: exit 0 clean, 1 warnings, 2 errors.

    Every fault is printed as FILE:LINE:COLUMN with what would be right.
    """
    code = EXIT_OK
    findings: list[dict[str, Any]] = []
    for name in policies:
        try:
            loaded = files.load(files.Source(Path(name), (), False, None), env=os.environ)
        except PolicyError as problem:
            code = EXIT_BAD_INPUT
            findings += [_as_json(f, "error") for f in problem.faults]
            if not as_json:
                say.failure(problem)
            continue
        findings += [_as_json(f, "warning") for f in loaded.warnings]
        code = max(code, EXIT_DENY if loaded.warnings else EXIT_OK)
        if not as_json:
            for warning in loaded.warnings:
                say.fault(warning, as_warning=True)
            say.note(f"{name}: valid ({len(loaded.policy.packages)} packages, digest {loaded.digest})")
    if as_json:
        say.data({"schema": "outpass.check/1", "exit": code, "findings": findings})
    return code
