"""What a person can do when the kernel refuses a step of the jail. Pure.

Lives here: the sentences, by step and errno. May not live here: finding out (probe.py), refusing (apply.py, launch.py).
"""

from __future__ import annotations

import errno
from typing import Final

DOCTOR: Final = "outpass doctor shows every step; --no-jail runs without the jail, and says what that means"

_APPARMOR: Final = (
    "AppArmor restricts user namespaces (Ubuntu 23.10 and later): sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0, "
    "or run with sudo"
)
"""No profile: one is attached to a path, and outpass is a script in a virtual environment, a path of its own for each."""

_BY_STEP: Final[dict[tuple[str, int], str]] = {
    ("Unshare", errno.EPERM): (
        "user namespaces are refused here: sudo sysctl kernel.unprivileged_userns_clone=1 on Debian; in a container, give it a "
        "seccomp profile that allows unshare, or run outpass on the host; within another outpass run, give that one "
        "--allow-userns"
    ),
    (
        "Unshare",
        errno.ENOSPC,
    ): "the limit of namespaces is reached: raise user.max_user_namespaces (sysctl), or end other sandboxes",
    ("Unshare", errno.EINVAL): "the kernel was built without one of these namespaces",
    ("Unshare", errno.ENOSYS): "this environment has no unshare system call; run outpass outside of it",
    ("MapIds", errno.EACCES): _APPARMOR,
    ("MapIds", errno.EPERM): f"{_APPARMOR}; in a container, run outpass on the host",
    ("LoopbackUp", errno.EPERM): _APPARMOR,
    ("FreshProc", errno.EPERM): "parts of /proc are masked, as containers do; run outpass on the host, or unmask /proc",
    ("Scope", errno.EOPNOTSUPP): "Landlock is built in but not switched on: add it to the kernel's lsm= list",
    ("Filter", errno.EINVAL): "the kernel was built without seccomp filters",
    ("Workdir", errno.ENOENT): "the working directory is hidden in the jail; change to another one",
}


def on(step: str, number: int) -> str:
    """One line for `step` (its class's name) failing with errno `number`."""
    found = _BY_STEP.get((step, number))
    return f"{found}; {DOCTOR}" if found else DOCTOR
