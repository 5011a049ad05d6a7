"""`make top60`: the most downloaded packages that use the network, each with a call of its own in a jail; writes docs/top60.md.

Lives here: the order of things, the virtualenvs. May not live here: rows, servers, the words of the table. Needs an index.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from tests.support.apps import ROOT
from tests.support.newest import newest
from tests.top60 import clouds, others, vendors, web, wires
from tests.top60.running import GOOD, run
from tests.top60.smoke import rows_of
from tests.top60.table import written

PYTHON: Final = "3.13"
VENVS: Final = {"first": (web, wires, vendors), "second": (clouds,), "third": (others,)}
"""Virtualenv → rows whose packages agree with each other."""


def main(only: list[str]) -> int:
    """Runs every row and writes the table; with names only these, and no table. 1 if a row is not good."""
    rows, pythons, versions = [], {}, {}
    with tempfile.TemporaryDirectory(prefix="outpass-top60-") as directory:
        for name, modules in VENVS.items():
            here = [row for module in modules for row in rows_of(module) if not only or row.package in only]
            venv = Path(directory) / name
            needed = sorted({need for row in here for need in (row.package, *row.needs)})
            found = newest(venv, PYTHON, needed) if here else {}
            versions |= {row.package: found[row.package] for row in here if found}
            pythons |= {row.package: venv / "bin" / "python" for row in here if found}
            rows += here
        rows.sort(key=lambda row: row.rank or 99999)
        results = run(Path(directory) / "home", rows, pythons, lambda text: print(text, flush=True))
    for result in results:
        if result.verdict != GOOD:
            print(f"NOT GOOD: {result.row.package}: {result.verdict} [{' > '.join(result.charged)}]")
    bad = sum(result.bad for result in results)
    if not only:
        (ROOT / "docs" / "top60.md").write_text(written(results, versions, PYTHON, time.strftime("%Y-%m-%d")))
    print(f"{len(results)} rows, {bad} of them bad")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
