"""The command table, and the one place that turns an error into an exit code.

Lives here: the group, lazy loading of commands (`outpass --help` imports no policy, no engine), the last resort for
unforeseen errors. May not live here: any command.

Exit codes: 0 done or allow; 1 deny, or findings; 2 bad command line or bad policy; 125 outpass itself failed in `run` or
`daemon`; 126 CMD cannot be executed; 127 CMD not found; otherwise CMD's own.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any, Final

import click

from outpass import __version__
from outpass.errors import EXIT_BAD_INPUT, EXIT_OWN, OutpassError

COMMANDS: Final = ("run", "explain", "check", "test", "trust", "log", "replay", "doctor", "daemon", "reload", "completion")
"""In the order in which a new user meets them; each is `outpass.cli.NAME:command`."""


class Table(click.Group):
    """A click group that imports a command only when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The table's order, not the alphabet's."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The command, or None (click then says `no such command`)."""
        if name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"outpass.cli.{name}").command
        return command


@click.command(cls=Table, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="outpass", message="%(prog)s %(version)s")
def cli() -> None:
    """Gives each package in a program its own leave to use the network, and nothing more."""


def _usage(problem: click.ClickException) -> int:
    """Click's own complaints, in our voice."""
    from outpass.cli import say

    text = problem.format_message().rstrip(".")
    say.error(text[:1].lower() + text[1:])
    if isinstance(problem, click.UsageError) and problem.ctx is not None:
        say.hint(f"see {problem.ctx.command_path} --help")
    return EXIT_BAD_INPUT


def _fail(name: str, problem: OutpassError) -> int:
    """`run` keeps 125 for everything of ours, so that CMD's exit codes stay CMD's."""
    from outpass.cli import say

    say.failure(problem)
    return EXIT_OWN if name == "run" else problem.exit_code


def main(argv: list[str] | None = None) -> None:
    """Runs one command and exits with its code. Never a traceback, unless OUTPASS_DEBUG is set."""
    args = sys.argv[1:] if argv is None else argv
    name = next((a for a in args if not a.startswith("-")), "")
    try:
        result: Any = cli.main(args=args, prog_name="outpass", standalone_mode=False)
        code = result if isinstance(result, int) else 0
    except click.exceptions.Exit as done:
        code = done.exit_code
    except click.Abort:
        code = 130
    except click.ClickException as problem:
        code = _usage(problem)
        code = EXIT_OWN if name == "run" else code
    except OutpassError as problem:
        code = _fail(name, problem)
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        # the reader of our output went away (`outpass log | head`): not an error; keep the interpreter's flush quiet
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except Exception as problem:
        if os.environ.get("OUTPASS_DEBUG"):
            raise
        from outpass.cli import say

        say.error(f"internal: {type(problem).__name__}: {problem}")
        say.hint("this is a defect in outpass; OUTPASS_DEBUG=1 shows where")
        code = EXIT_OWN
    sys.exit(code)
