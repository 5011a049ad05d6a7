"""Starting a gate process, and ending it.

Lives here: the command, its environment, its end of the control connection, the last resort. May not live here: anything heavy.
The first gate is started before the broker imports what it needs itself, so that both get ready at the same time.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

COMMAND: Final = (sys.executable, "-P", "-m", "outpass.gate")
"""-P: the directory that somebody happened to start us in must not be where the gate's modules come from."""

ALLOCATOR: Final = {"MALLOC_MMAP_THRESHOLD_": "4194304", "MALLOC_TRIM_THRESHOLD_": "16777216", "MALLOC_TOP_PAD_": "1048576"}
"""mallopt(3). A gate reads bodies in pieces of up to 512 KiB; by its defaults the C library gives the memory of each back to the
kernel and has it made anew, page by page: two thirds of the CPU of a body, or none, as the heap happens to lie."""
SPARE: Final = (*COMMAND, "--spare")
"""For one that waits until it is needed (spare.py)."""

_KEPT: Final = frozenset({"PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX", "PYTHONUTF8"})


class Child(NamedTuple):
    """A gate that was started and has heard nothing yet."""

    process: subprocess.Popen[bytes]
    control: socket.socket


class Starter(NamedTuple):
    """How gates are started later on."""

    gate: Callable[[], Child]
    spare: Callable[[], Child] | None
    """None where there is none in reserve: beside several gates, which serve while one is replaced."""


def starter(env: Mapping[str, str], gates: int) -> Starter:
    """For a daemon with so many gates."""
    return Starter(lambda: spawn(env), (lambda: spawn(env, SPARE)) if gates == 1 else None)


def spawn(env: Mapping[str, str], command: Sequence[str] = COMMAND) -> Child:
    """Start a gate. OSError when it cannot be.

    Python's variables stay behind (they could load code into the gate), and SSLKEYLOGFILE (it would write out the keys of
    everybody's connections).
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    clean = ALLOCATOR | {k: v for k, v in env.items() if k in _KEPT or not (k.startswith("PYTHON") or k == "SSLKEYLOGFILE")}
    try:
        process = subprocess.Popen(
            [*command, "--control", str(theirs.fileno())],
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            env=clean,
            cwd="/" if os.access("/", os.X_OK) else None,
        )
    except OSError:
        ours.close()
        raise
    finally:
        theirs.close()
    return Child(process, ours)


def end(process: subprocess.Popen[bytes], *, at_once: bool = False) -> None:
    """End a child for certain, and reap it."""
    try:
        process.wait(0 if at_once else 0.2)  # it usually is ending by itself; its exit code says more than our signal
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
