"""`outpass reload`: the daemon reads its policies again.

Lives here: the command. May not live here: reloading (broker/).
"""

from __future__ import annotations

import contextlib
import os

import click

from outpass.cli import say
from outpass.errors import UsageError
from outpass.jail import daemon


@click.command("reload")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
def command(as_json: bool) -> int:
    """Tell the daemon at $OUTPASS_SOCKET to re-read every policy in force.

    A bad file keeps the last good policy, and opens nothing: exit 2, with its faults. Exit 125 when no daemon answers.
    """
    path = os.environ.get("OUTPASS_SOCKET")
    if not path:
        raise UsageError(
            "no daemon to tell: $OUTPASS_SOCKET is not set",
            "policies of a run without outpass daemon are read once, at its start",
        )
    with contextlib.closing(daemon.connect(path)) as control:
        reply = control.ask({"op": "reload"})
    if as_json:
        say.data({"schema": "outpass.reload/1", "jails": reply.get("jails", [])})
        return 0
    jails = reply.get("jails", [])
    say.note(f"{len(jails)} {'policy' if len(jails) == 1 else 'policies'} in force" if jails else "no policy is in force")
    for jail in jails:
        say.note(f"  {jail.get('jail')} {jail.get('digest')} {jail.get('label', '')}")
    return 0
