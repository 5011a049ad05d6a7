"""The processes that stand between the launcher and CMD where the jail has a PID namespace of its own.

Lives here: the one that waits outside the namespace, and number 1 inside. May not live here: when they are needed (recipe.py).

    launcher ── waits, prints the summary; outside of everything
      └─ waiter ── unshared the namespaces, is outside the PID namespace only; no capabilities
           └─ reaper ── number 1 inside; as confined as CMD
                └─ CMD ── number 2

Both die with the one above them (PR_SET_PDEATHSIG), and with number 1 the kernel ends all that is inside. Without a PID
namespace there is none of this: the launcher's child becomes CMD.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from outpass.jail import privileges, signals, syscalls
from outpass.jail.steps import DropCapabilities


def become_first(report: int) -> None:
    """Fork. Returns in the child, which is number 1 of the new namespace; the parent waits and exits with its code.

    `report`: descriptor of the channel to the launcher, whose end means that CMD has started; the waiter gives it up.
    """
    _fork(report, lambda: privileges.drop_capabilities(DropCapabilities(())))
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)


def leave_reaper(report: int) -> None:
    """Fork. Returns in the child, which becomes CMD; number 1 buries orphans until CMD ends, and exits with its code."""
    _fork(report, lambda: syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0))  # its memory is a copy of the launcher's


def die_with_launcher(launcher: int) -> None:
    """For the waiter: no launcher, no jail."""
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != launcher:
        os._exit(1)


def _fork(report: int, confine: Callable[[], object]) -> None:
    """Fork. Returns in the child; the parent passes signals on and waits. A signal in between waits for the handlers:
    number 1 would lose it, as the kernel drops what number 1 has no handler for."""
    with signals.held():
        pid = os.fork()
        if pid == 0:
            return
        try:
            os.close(report)
            signals.pass_on(pid)
        except BaseException:
            os._exit(1)
    try:
        confine()
        os._exit(signals.shell_code(signals.wait_for(pid, everyone=True)))
    finally:
        os._exit(1)
