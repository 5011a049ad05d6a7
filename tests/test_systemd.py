"""The unit in systemd/ is one that systemd takes, and its README explains every line of it.

Lives here: the unit against systemd and against its README. May not live here: the daemon's behaviour.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent.parent / "systemd"
UNIT = FOLDER / "outpass.service"


def test_systemd_has_nothing_to_say_against_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    ours = str(Path(sys.executable).parent / "outpass")
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace("%h/.local/bin/outpass", ours))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", copy], capture_output=True, text=True, check=False, timeout=60
    )
    about = [line for line in done.stderr.splitlines() if UNIT.name in line]
    assert about == [], done.stderr


def test_every_directive_of_the_service_is_explained() -> None:
    section = UNIT.read_text().partition("[Service]")[2].partition("[Install]")[0]
    explained = (FOLDER / "README.md").read_text()
    names = [line.partition("=")[0] for line in section.splitlines() if "=" in line]
    assert names and [name for name in names if f"`{name}" not in explained] == []
