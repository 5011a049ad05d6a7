"""The voice: `outpass: error: …`, `outpass: hint: …`, lower case, no full stop, on standard error.

Lives here: the one place that writes to a person. Data goes to standard output, words to standard error.
May not live here: decisions about what is an error.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from typing import Any

import click

from outpass.errors import Fault, OutpassError, PolicyError


def _colour() -> bool:
    """Colour only for a person: a terminal, and neither NO_COLOR (no-color.org) nor a dumb terminal says otherwise."""
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _line(kind: str, colour: str, text: str) -> None:
    label = click.style(kind, fg=colour, bold=True) if _colour() else kind
    for part in text.splitlines() or [""]:
        _out(f"outpass: {label}: {part}")


def _out(line: str) -> None:
    """To standard error, if anybody hears it. A full disk or a reader that left must not change what a command does."""
    try:
        click.echo(line, err=True, color=_colour())
    except OSError:
        # Python's own stream only: it would try again at the end. The descriptor is CMD's as well.
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def error(text: str) -> None:
    """What went wrong."""
    _line("error", "red", text)


def hint(text: str) -> None:
    """What to do about it; nothing for an empty hint."""
    if text:
        _line("hint", "cyan", text)


def warning(text: str) -> None:
    """Something that works now, and that the person should know."""
    _line("warning", "yellow", text)


def note(text: str) -> None:
    """Plain words."""
    _out(f"outpass: {text}")


def fault(one: Fault, *, as_warning: bool = False) -> None:
    """One fault in a policy, at its place, with what would be right."""
    (warning if as_warning else error)(str(one))
    hint(one.hint)


def failure(problem: OutpassError) -> None:
    """An error of ours, whole: every fault of a policy, or the message and its hint."""
    if isinstance(problem, PolicyError):
        for one in problem.faults:
            fault(one)
        return
    error(problem.message)
    hint(problem.hint)


def data(value: Mapping[str, Any]) -> None:
    """One JSON document on standard output; `schema` names its version."""
    click.echo(json.dumps(value, ensure_ascii=False, sort_keys=False))
