"""`outpass completion SHELL`: prints the script that completes outpass in that shell.

Lives here: the command. May not live here: completion itself (click's).
"""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(ctx: click.Context, shell: str) -> int:
    """Print the completion script for SHELL.

    bash: outpass completion bash > ~/.local/share/bash-completion/completions/outpass
    """
    found = get_completion_class(shell)
    assert found is not None  # click.Choice admits no other
    click.echo(found(ctx.find_root().command, {}, "outpass", "_OUTPASS_COMPLETE").source())
    return 0
