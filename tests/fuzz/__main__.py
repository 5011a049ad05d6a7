"""`python -m tests.fuzz TARGET SECONDS [SEED]`: fuzz, then write the corpus back; exit 1 when an invariant was broken.

Lives here: the command line. May not live here: the loop (engine.py), the targets.
"""

from __future__ import annotations

import sys
import time

from tests.fuzz import engine
from tests.fuzz.targets import TARGETS


def main(name: str, seconds: float, seed: int) -> int:
    """Run one target."""
    fuzzer = engine.Fuzzer(TARGETS[name](), seed)
    before = time.process_time()

    def tell(text: str) -> None:
        print(f"{name} (seed {seed}): {text}", flush=True)

    fuzzer.go(seconds, tell)
    engine.store(name, engine.distilled(fuzzer.target, fuzzer.kept))
    spent = time.process_time() - before
    tell(f"{fuzzer.runs} runs in {seconds:.0f} s ({spent:.0f} s of CPU), {len(fuzzer.said)} outcomes")
    for what, data in fuzzer.findings.items():
        tell(f"BROKEN: {what}\n  input: {data!r}")
    return 1 if fuzzer.findings else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else int(time.time())))
