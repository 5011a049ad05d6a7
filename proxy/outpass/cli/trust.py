"""`outpass trust [FILE]`: says that a policy found in a project may be used, until it changes.

Lives here: the command. May not live here: the store (files.py).
"""

from __future__ import annotations

import os
from pathlib import Path

import click

from outpass import files
from outpass.cli import say
from outpass.cli.source import here
from outpass.errors import UsageError


@click.command("trust")
@click.argument("file", required=False)
def command(file: str | None) -> int:
    """Trust a project's policy FILE (default: the outpass.yaml found from here), by digest.

    A changed file, or a changed include of it, must be trusted again.
    """
    path = Path(os.path.abspath(file)) if file else files.discover(here())
    if path is None:
        raise UsageError("there is no outpass.yaml here", "name the file: outpass trust FILE")
    digest = files.trust(path, env=os.environ)
    say.note(f"trusted {path} ({digest[:16]})")
    return 0
