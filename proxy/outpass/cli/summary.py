"""What `run` says at its end: counts, denials, the lines to add.

Lives here: words and files made of the broker's summary. May not live here: counting (the broker does).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from outpass.cli import say
from outpass.errors import StartError

_LOST: Final = "The daemon ended before CMD did, so nothing was counted; outpass log has what was decided."
SHOWN: Final = 5
"""Distinct denials told on the terminal; the rest is in `outpass log --denied`."""


def tell(summary: Mapping[str, Any]) -> None:
    """On standard error, and only if something was (or would have been) denied."""
    denials = list(summary.get("denials", ()))
    if not denials:
        return
    denied, would = summary.get("denied", 0), summary.get("would_deny", 0)
    counted = [f"{denied} denied"] if denied else []
    counted += [f"{would} would have been denied"] if would else []
    decisions = summary.get("decisions", 0)
    say.note(f"{decisions} {'request' if decisions == 1 else 'requests'}, {', '.join(counted)}:")
    for one in denials[:SHOWN]:
        times = f"{one['count']}x " if one.get("count", 1) > 1 else ""
        say.note(f"  {times}{one['say']}")
        if one.get("add"):
            for number, line in enumerate(str(one["add"]).splitlines()):
                say.note(f"     {'to allow it, add:  ' if number == 0 else '                   '}{line}")
        elif one.get("hint"):
            say.note(f"     hint: {one['hint']}")
    if len(denials) > SHOWN:
        say.note(f"  … and {len(denials) - SHOWN} more")
    say.note("every decision: outpass log; why: outpass log --denied")


def _markdown(summary: Mapping[str, Any], code: int) -> str:
    rows = [
        "## outpass",
        "",
        f"{summary.get('decisions', 0)} decisions: {summary.get('allowed', 0)} allowed, {summary.get('denied', 0)} denied, "
        f"{summary.get('would_deny', 0)} would have been denied. CMD exited with {code}.",
        "",
    ]
    for one in summary.get("denials", ()):
        rows += [f"- {one.get('count', 1)}× {one['say']}"]
        rows += ["", "  ```yaml", *(f"  {line}" for line in str(one["add"]).splitlines()), "  ```"] if one.get("add") else []
    return "\n".join(rows) + "\n"


def _policy(summary: Mapping[str, Any], base: Sequence[str]) -> str:
    from outpass.policy import suggest

    rest = [one["say"] for one in summary.get("denials", ()) if not one.get("add")]
    notes = [f"# no line would allow: {plain}" for plain in rest]
    if more := summary.get("more", 0):
        notes.append(f"# {more} more denied requests are not covered: run again under this policy")
    return "\n".join([*notes, suggest.document(summary.get("lines", ()), base)])


def write(name: str, summary: Mapping[str, Any] | None, code: int, base: Sequence[str]) -> None:
    """To a file: Markdown for `.md` (appended, as CI step summaries want), a policy for `.yaml`, else JSON
    (`outpass.summary/1`); `-` is JSON on standard output. None: the daemon ended first, and with it the counts.

    `base`: what a suggested policy includes. Raises StartError when it cannot be written; CMD has run by then, so say it plainly.
    """
    known = summary or {}
    try:
        if name.endswith(".md"):
            with Path(name).open("a", encoding="utf-8") as out:
                out.write(_markdown(known, code) if summary is not None else f"## outpass\n\n{_LOST} CMD exited with {code}.\n")
        elif name.endswith((".yaml", ".yml")):
            Path(name).write_text(_policy(known, base) if summary is not None else f"# {_LOST}\n", encoding="utf-8")
        else:
            document = {"schema": "outpass.summary/1", "exit": code, "complete": summary is not None, **known}
            text = json.dumps(document, indent=1, ensure_ascii=name == "-") + "\n"
            if name == "-":
                sys.stdout.write(text)
                sys.stdout.flush()
            else:
                Path(name).write_text(text, encoding="utf-8")
    except OSError as bad:
        raise StartError(
            f"cannot write the summary to {name}: {bad.strerror}", "CMD itself ran; its records are in outpass log"
        ) from None
