"""`outpass log`: what was decided, read from the audit log on disk; no daemon is needed.

Lives here: the command, colour, waiting. May not live here: queries (audit/query.py), the words of a line (audit/export.py).
"""

from __future__ import annotations

import io
import os
import shutil
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import click

from outpass.audit import export, store
from outpass.cli import say

POLL_S: Final = 0.2
"""How often --follow looks; the writer gathers for 50 ms, a person notices after about 200."""
SHOWN: Final = 100
"""Records without -n. With --follow ten, as in journalctl -f."""
_COLOURS: Final[Mapping[str, Mapping[str, Any]]] = {
    "allow": {"fg": "green"},
    "deny": {"fg": "red", "bold": True},
    "would_deny": {"fg": "yellow", "bold": True},
    "fault": {"fg": "magenta", "bold": True},
    "faint": {"dim": True},
}


def _coloured(kind: str, text: str) -> str:
    return click.style(text, **_COLOURS.get(kind, {}))


def _plain(kind: str, text: str) -> str:
    return text


class _Printer:
    """Writes records one after the other, each day's date once before its first line."""

    def __init__(self, *, as_json: bool) -> None:
        terminal = sys.stdout.isatty()
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # a locale without `…` must not end in a traceback
        colour = terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        self._json = as_json
        self._paint = _coloured if colour else _plain
        # A pipe gets everything; on a terminal a line that wraps is harder to read than one that ends in `…`.
        self._width = shutil.get_terminal_size().columns if terminal else None
        self._colour = colour
        self._day = ""

    def show(self, records: Iterable[Mapping[str, Any]]) -> None:
        for record in records:
            if self._json:
                click.echo(export.json_line(record))
                continue
            if (day := export.day(record, None)) != self._day:
                self._day = day
                click.echo(self._paint("faint", day), color=self._colour)
            for line in export.lines(record, width=self._width, zone=None, paint=self._paint):
                click.echo(line, color=self._colour)


@click.command("log")
@click.option("--denied", is_flag=True, help="Only what was denied, or would have been in enforce mode.")
@click.option("--package", metavar="P", help="Only requests with this package anywhere in their chain.")
@click.option("--json", "as_json", is_flag=True, help="The records themselves (schema v1), one a line.")
@click.option("-f", "--follow", is_flag=True, help="Go on as records arrive; ^C ends it.")
@click.option("-n", "count", metavar="N", type=click.IntRange(min=0), help=f"The newest N; 0: all (default {SHOWN}, with -f 10).")
@click.option("--state", metavar="FILE", help="The audit log (default: $OUTPASS_STATE, else the user's state directory).")
def command(denied: bool, package: str | None, as_json: bool, follow: bool, count: int | None, state: str | None) -> int:
    """Show decisions, oldest first.

    Each denial names the package, the destination, the chain of callers and the line that would allow it.
    """
    path = Path(state) if state else store.default_path(os.environ)
    printer = _Printer(as_json=as_json)
    limit = (10 if follow else SHOWN) if count is None else count or None
    try:
        last = store.newest(path)
        found = list(store.rows(path, denied=denied, package=package, limit=None if limit is None else limit + 1))
        cut = limit is not None and len(found) > limit
        if not path.exists():
            say.note(f"nothing recorded yet: {path} does not exist; outpass run makes it")
        elif cut and count is None and not follow:
            say.note(f"the newest {limit} records; all of them: outpass log -n 0")
        elif not found and not follow:
            say.note("no such decision is recorded")
        printer.show(record for _, record in found[cut:])
        if follow:
            last = max([last, *(row for row, _ in found)])  # both: either may have seen more than the other
            printer.show(store.follow(path, denied=denied, package=package, since_id=last, wait=_wait))
    except KeyboardInterrupt:
        pass  # how following ends: not an error
    return 0


def _wait() -> None:
    sys.stdout.flush()
    time.sleep(POLL_S)
