"""Waiting for what other processes and threads do.

Lives here: polling with a deadline. May not live here: fixed sleeps; anything but the standard library (tests/shim runs on old Pythons).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def until(what: str, condition: Callable[[], Any], seconds: float = 30.0) -> Any:
    """The first true answer of `condition`; AssertionError naming `what` when there is none in time."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"gave up waiting after {seconds:.0f} s: {what}"
        time.sleep(0.01)
    return found
