"""The daemon's start: options, the gate started first, the word to whoever waits for it.

Lives here: Options, `serve`, the command line of `python -m outpass.broker`. May not live here: what the daemon does
(daemon.py), and any import that takes long: the gate is started before those.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from outpass.broker import say
from outpass.broker.rundir import RuntimeDir
from outpass.broker.spawn import Child, spawn, starter
from outpass.errors import EXIT_OWN, OutpassError, StartError
from outpass.policy import shares

MAX_GATES: Final = shares.MOST


@dataclass(frozen=True, slots=True)
class Options:
    """What a daemon is started with."""

    runtime: Path
    """Directory of its sockets; made 0700 if it is not there."""
    state: Path | None = None
    """The audit log; None: the user's usual place (audit.store.default_path)."""
    private_fd: int | None = None
    """An inherited SEQPACKET control connection: the daemon serves it alone, and ends when it ends."""
    ready_fd: int | None = None
    """Written to once, `{"ok":true,…}` or `{"ok":false,"error":…,"hint":…}` and a line end, then closed."""
    connect_to: tuple[str, ...] = ()
    """HOST:PORT:ADDR:PORT each: dial ADDR:PORT for HOST:PORT."""
    upstream_ca: Path | None = None
    """PEM file of CAs to trust for origins besides the operator's."""
    upstream_proxy: str | None = None
    """As outpass.upstream.chosen takes it; None: as the environment says."""
    policy: Path | None = None
    """The operator's own, over that of every jail."""
    gates: int = 1
    """Gate processes, at least one; they share the listeners."""


def serve(options: Options) -> int:
    """Run a daemon until it is told to stop; returns an exit code.

    An error is said once: to whoever waits at `ready_fd`, or when nobody does any more on standard error.
    """
    os.umask(0o077)
    word = Word(options.ready_fd)
    runtime: RuntimeDir | None = None
    children: list[Child] = []
    try:
        runtime = RuntimeDir(options.runtime, remove=options.private_fd is not None)
        try:
            for _ in range(options.gates):
                children.append(spawn(os.environ))
        except OSError as e:
            raise StartError(f"cannot start the gate: {e.strerror}") from None
        if options.policy is not None:
            from outpass import files

            files.above(options.policy, env=os.environ)
        # Here the imports that take long begin, while the gate does its own on the other core.
        from outpass.broker.daemon import run

        return run(options, runtime, os.environ, children, starter(os.environ, options.gates), word)
    except (OutpassError, OSError) as problem:
        told = problem if isinstance(problem, OutpassError) else _failure(problem)
        if not word.say({"ok": False, "error": told.message, "hint": told.hint}):
            say.error(told.message)
            if told.hint:
                say.hint(told.hint)
        return EXIT_OWN
    finally:
        for child in children:
            if child.process.poll() is None:
                child.process.kill()
                child.process.wait()
        if runtime is not None:
            runtime.clean()


def _failure(problem: OSError) -> StartError:
    """What the system refuses us anywhere is no traceback either."""
    scarce = problem.errno in (errno.EMFILE, errno.ENFILE)
    hint = "raise the limit of open files (ulimit -n); the daemon and its gate need some hundreds" if scarce else ""
    return StartError(f"the daemon failed: {(problem.strerror or str(problem)).lower()}", hint)


class Word:
    """How the start went, said to whoever waits for it at a descriptor. Once: by the second time the number may be another's."""

    def __init__(self, fd: int | None) -> None:
        self._fd = fd

    def say(self, said: dict[str, Any]) -> bool:
        """Whether anybody was told."""
        fd, self._fd = self._fd, None
        if fd is None:
            return False
        try:
            os.write(fd, json.dumps(said).encode() + b"\n")
        except OSError:  # gone
            return False
        finally:
            os.close(fd)
        return True


def main(argv: Sequence[str]) -> int:
    """The command line; for people there is `outpass daemon`."""
    parser = argparse.ArgumentParser(prog="python -m outpass.broker", description="the outpass daemon", allow_abbrev=False)
    parser.add_argument("--runtime", type=Path, required=True, metavar="DIR")
    parser.add_argument("--state", type=Path, metavar="FILE")
    parser.add_argument("--private", type=int, metavar="FD", dest="private_fd")
    parser.add_argument("--ready-fd", type=int, metavar="FD")
    parser.add_argument("--connect-to", action="append", default=[], metavar="HOST:PORT:ADDR:PORT")
    parser.add_argument("--upstream-ca", type=Path, metavar="FILE")
    parser.add_argument("--policy", type=Path, metavar="FILE")
    parser.add_argument("--gates", type=int, default=1, choices=range(1, MAX_GATES + 1), metavar="N")
    given = parser.parse_args(argv)
    return serve(
        Options(
            runtime=given.runtime,
            state=given.state,
            private_fd=given.private_fd,
            ready_fd=given.ready_fd,
            connect_to=tuple(given.connect_to),
            upstream_ca=given.upstream_ca,
            policy=given.policy,
            gates=given.gates,
        )
    )
