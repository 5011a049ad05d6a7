"""Words on standard error."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("call", "line"),
    [
        ("say.error('no')", "outpass: error: no\n"),
        ("say.warning('odd')", "outpass: warning: odd\n"),
        ("say.hint('do')", "outpass: hint: do\n"),
        (r"say.error('a\x1b[2Jb\nc')", "outpass: error: a\\x1b[2Jb\\x0ac\n"),
    ],
)
def test_lines_are_harmless_and_whole(call: str, line: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"from outpass.broker import say; {call}"], capture_output=True, text=True, check=True
    )
    assert done.stderr == line


def test_a_full_disk_at_the_other_end_is_no_failure() -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run([sys.executable, "-c", "from outpass.broker import say; say.error('x')"], stderr=full, check=False)
    assert done.returncode == 0
