"""Small installed packages for attacks: `alpha`, the victim with a grant, and `evil`, which has none.

Lives here: real distributions with a RECORD, in a virtualenv of their own on top of the applications'. May not live here: attacks.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.runs import apps

ALPHA = '''
"""The victim: an honest package that fetches from its own API."""
import requests
URL = "https://alpha.example.com/api"
def fetch(url=None):
    return requests.get(url or URL, timeout=10)
def call(function, *args):
    return function(*args)
class Client:
    def __init__(self, url=URL):
        self.url = url
    def get(self):
        return requests.get(self.url, timeout=10)
'''


def installed(home: Path, evil: str, base: Path | None = None) -> Path:
    """A virtualenv with `alpha` 1.0 and `evil` 6.6.6 (whose source is `evil`) installed; returns its interpreter.

    `base`: an interpreter whose packages it has beside them, else the applications'.
    """
    base = base or apps()
    venv = home / "venv"
    python = venv / "bin" / "python"
    if not python.exists():
        subprocess.run([base, "-m", "venv", "--without-pip", venv], check=True)
    site = next((venv / "lib").glob("python3.*/site-packages"))
    theirs = next((base.parent.parent / "lib").glob("python3.*/site-packages"))
    (site / "apps.pth").write_text(f"{theirs}\n")
    for name, version, source in (("alpha", "1.0", ALPHA), ("evil", "6.6.6", evil)):
        (site / name).mkdir(exist_ok=True)
        (site / name / "__init__.py").write_text(source)
        info = site / f"{name}-{version}.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (info / "RECORD").write_text(f"{name}/__init__.py,,\n{info.name}/METADATA,,\n{info.name}/RECORD,,\n")
    assert sys.version_info >= (3, 12)
    return python
