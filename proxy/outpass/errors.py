"""Every exception that outpass raises on purpose, as one tree, each with the exit code and the hint a person gets.

Lives here: exception classes, exit codes, source positions. May not live here: I/O, formatting for a terminal, policy,
dataclasses: every launch imports this file, and they would cost it 4 ms (inspect, ast, dis).

    OutpassError                 what went wrong, what to do about it
    ├── PolicyError              one or more faults in a policy, each at file:line:column
    ├── UsageError               the command line does not make sense
    ├── StartError               refuses to start: no key, no gate, no daemon, no jail, port in use, unreadable CA
    ├── PassError                a pass that must not be honoured (carries the reason)
    └── SessionError             a process that gets no session, or lost it (carries the reason)
"""

from __future__ import annotations

from typing import Final, NamedTuple

from outpass.reasons import Reason

EXIT_OK: Final = 0
EXIT_DENY: Final = 1
"""`explain`: the request is denied; `check`: the policy is valid but has warnings."""
EXIT_BAD_INPUT: Final = 2
"""Bad command line or bad policy, for every command but `run`."""
EXIT_OWN: Final = 125
"""`run`: outpass itself failed (as env(1), docker and timeout do)."""
EXIT_NOT_EXECUTABLE: Final = 126
EXIT_NOT_FOUND: Final = 127


class Place(NamedTuple):
    """Where in a file: 1-based line and column, as editors count."""

    file: str
    line: int
    column: int = 1

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class Fault(NamedTuple):
    """One thing wrong at one place, and what would be right (`hint`, may be empty)."""

    place: Place
    message: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.place}: {self.message}"


class OutpassError(Exception):
    """Base of all: `message` is lower case without a full stop; `hint` says what to do (may be empty)."""

    exit_code: int = EXIT_BAD_INPUT

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class PolicyError(OutpassError):
    """A policy that must not be used: every fault in it, in file order."""

    def __init__(self, faults: tuple[Fault, ...]) -> None:
        super().__init__("\n".join(str(f) for f in faults), faults[0].hint if faults else "")
        self.faults = faults


class UsageError(OutpassError):
    """The command line does not make sense."""


class StartError(OutpassError):
    """outpass refuses to start; nothing was opened."""

    exit_code = EXIT_OWN


class PassError(OutpassError):
    """A pass that must not be honoured. `reason` is one of the `pass_*` reasons."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class SessionError(OutpassError):
    """The broker gives this process no session (or took it away)."""

    def __init__(self, reason: Reason, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.reason = reason
