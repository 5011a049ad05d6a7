"""Signals between the launcher and CMD, however many processes stand between them.

Lives here: what is passed on, what is left to CMD, and putting a new process's signals back to normal. May not live here:
forking.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Final

FORWARDED: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH)
"""Sent to us alone by a supervisor, so passed on. ^C and ^\\ reach the whole foreground group from the terminal by themselves."""
LEFT_TO_CMD: Final = (signal.SIGINT, signal.SIGQUIT)


def as_before_python() -> None:
    """In a fresh child: Python ignores these two for itself, and exec would hand that on; ^C must end us, not raise."""
    for signum in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(signum, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def expect_children() -> None:
    """Before the first fork: where a supervisor left SIGCHLD ignored, children would vanish with their exit codes."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Signals that `pass_on` is about wait until the end of the block."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (*FORWARDED, *LEFT_TO_CMD))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def pass_on(pid: int) -> None:
    """From now on signals of FORWARDED go to `pid`, and those of LEFT_TO_CMD are CMD's own affair."""

    def forward(signum: int, _frame: FrameType | None) -> None:
        _send(pid, signum)

    for signum in FORWARDED:
        if signal.getsignal(signum) is not signal.SIG_IGN:  # nohup: CMD stays deaf to it as well
            signal.signal(signum, forward)
    for signum in LEFT_TO_CMD:
        signal.signal(signum, signal.SIG_IGN)


Tend = Callable[[], float | None]
"""Called at first, on SIGIO, and after as many seconds as it returned the last time; None: on SIGIO only."""


def wait_for(pid: int, *, everyone: bool = False, tend: Tend | None = None) -> int:
    """Waits for the child `pid`, passing signals on, and returns its wait status. `everyone`: buries other children too.
    `tend`: what else is to be done meanwhile.

    Blocked and taken one by one, not handled: a handler of Python's that is due between the last bytecode and the blocking
    system call would run only after that call, and the signal would be late by the length of CMD's life.
    """
    due = {
        signal.SIGCHLD,
        *([signal.SIGIO] if tend else ()),
        *(s for s in FORWARDED if signal.getsignal(s) is not signal.SIG_IGN),
    }
    before = signal.pthread_sigmask(signal.SIG_BLOCK, due)  # also runs the handlers of those that came until now
    try:
        pause = tend() if tend else None
        while (status := _buried(pid, everyone)) is None:
            signum = signal.sigwait(due) if pause is None else getattr(signal.sigtimedwait(due, pause), "si_signo", None)
            if tend and signum in (None, signal.SIGIO):
                pause = tend()
            elif signum not in (None, signal.SIGCHLD):
                _send(pid, signum)
        return status
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _buried(pid: int, everyone: bool) -> int | None:
    """The status of `pid` if it has ended. SIGCHLDs merge, so all that have ended are buried at once."""
    while True:
        ended, status = os.waitpid(-1 if everyone else pid, os.WNOHANG)
        if ended == pid:
            return status
        if ended == 0:
            return None


def _send(pid: int, signum: int) -> None:
    try:
        os.kill(pid, signum)
    except ProcessLookupError:
        pass


def shell_code(status: int) -> int:
    """From a wait status what a shell says: the exit code, or 128 + N for a process that signal N killed."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code
