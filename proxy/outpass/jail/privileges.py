"""Giving up what CMD must not have: capabilities, privileges by exec, signals outward, system calls, descriptors.

Lives here: carrying out those steps, each of which cannot be taken back. May not live here: their order (recipe.py).
"""

from __future__ import annotations

from typing import Final

from outpass.jail import seccomp, syscalls
from outpass.jail.steps import CloseOthers, DropCapabilities, Filter

_SECUREBITS: Final = 0b1110_1111
"""NOROOT, NO_SETUID_FIXUP, KEEP_CAPS off, NO_CAP_AMBIENT_RAISE, each locked: uid 0 by itself means nothing any more."""
_LAST_DESCRIPTOR: Final = 0xFFFF_FFFF


def drop_capabilities(step: DropCapabilities) -> None:
    """From the bounding set first: that alone needs a capability (SETPCAP) which the last call takes away."""
    with open("/proc/sys/kernel/cap_last_cap", encoding="utf-8") as file:
        last = int(file.read())
    for number in range(last + 1):
        if number not in step.keep:
            syscalls.prctl(syscalls.PR_CAPBSET_DROP, number)
    syscalls.prctl(syscalls.PR_CAP_AMBIENT, syscalls.PR_CAP_AMBIENT_CLEAR_ALL)
    if not step.keep:
        syscalls.prctl(syscalls.PR_SET_SECUREBITS, _SECUREBITS)
    syscalls.capset(sum(1 << number for number in step.keep))


def no_new_privileges() -> None:
    """no_new_privs: also what lets an ordinary user load the two below."""
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)


def load_filter(step: Filter) -> None:
    """The seccomp filter, for this process and all that come after it."""
    syscalls.seccomp(seccomp.program(step.machine, step.allow_userns), step.machine)


def close_others(step: CloseOthers) -> None:
    """Marked close-on-exec rather than closed: the one that reports a failed exec lives until there is none."""
    first = 3
    for fd in sorted(step.keep):
        syscalls.close_on_exec(first, fd - 1)
        first = max(first, fd + 1)
    syscalls.close_on_exec(first, _LAST_DESCRIPTOR)
