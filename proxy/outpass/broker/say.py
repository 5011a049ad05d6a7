"""What the daemon says on standard error.

Lives here: the voice (`outpass: error: …`, lower case, no full stop), and that a word nobody can hear is no failure. May not
live here: what there is to say.
"""

from __future__ import annotations

import os
import sys

from outpass.audit.record import readable


def error(text: str) -> None:
    """Something is wrong."""
    _say(f"outpass: error: {text}")


def warning(text: str) -> None:
    """Something is odd, or was."""
    _say(f"outpass: warning: {text}")


def hint(text: str) -> None:
    """What to do about it."""
    _say(f"outpass: hint: {text}")


def _say(line: str) -> None:
    """One write, past Python's buffer. A full disk or a closed pipe at the other end must not become our failure too."""
    try:
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"{readable(line)}\n".encode())
    except (OSError, ValueError):
        pass
