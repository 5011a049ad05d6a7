"""`python -m tests.soak MINUTES`: soak, print the figures, exit 1 when something did not hold.

Lives here: the command line. May not live here: the soak (driver.py).
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from tests.soak.driver import Soak


def main(minutes: float) -> int:
    """Run one; its files are kept when it failed."""
    where = Path(tempfile.mkdtemp(prefix="outpass-soak-"))
    verdict = Soak(where, lambda text: print(text, flush=True)).run(minutes * 60)
    print(json.dumps(verdict.figures, indent=2))
    for line in verdict.broken:
        print(f"BROKEN: {line}")
    print("nothing is broken" if not verdict.broken else f"the files of it are in {where}")
    return 1 if verdict.broken else 0


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1])))
