"""`make bench`: every benchmark of this folder, in one run, as JSON, and the peers' tables and plot.

Lives here: finding, running, keeping. May not live here: a benchmark. Each `bench_*.py` has `run() -> dict` of figures, and runs in a
process of its own, so that one that fails or hangs costs the others nothing.
`make bench SECTION="decide peers"` (or `python -m tests.bench decide peers`) runs only those named; those of OPT_IN run only so.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.bench import report

HERE = Path(__file__).resolve().parent
PARTIAL = "OUTPASS_BENCH_PARTIAL"
"""Names the file where a long section keeps what it has so far."""
SECTION_S = 480.0
"""Seconds that one section may take."""
OPT_IN = frozenset({"tunnels"})
"""Sections that run only where they are named."""
ALL_S = 1200.0
"""And all together: what does not begin before is skipped, with a line."""


def names() -> list[str]:
    """Every section; the peers first, before the machine is warm from the others and while there is time."""
    found = sorted(p.stem.removeprefix("bench_") for p in HERE.glob("bench_*.py"))
    return sorted(found, key=lambda name: name != "peers")


def main() -> int:
    """Runs them one after the other: the machine has few cores, and figures are ratios within one run."""
    wanted = sys.argv[1:]
    if wanted[:1] == ["--one"]:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what it started is ended
        Path(wanted[2]).write_text(json.dumps(importlib.import_module(f"tests.bench.bench_{wanted[1]}").run()))
        return 0
    if unknown := set(wanted) - set(names()):
        print(f"outpass: error: no such section: {', '.join(sorted(unknown))}", file=sys.stderr)
        print(f"outpass: hint: {', '.join(names())}", file=sys.stderr)
        return 2
    results: dict[str, Any] = {"when": time.strftime("%Y-%m-%d"), "machine": report.machine()}
    failed, end = {}, time.monotonic() + ALL_S
    for name in names():
        if name not in wanted if wanted else name in OPT_IN:
            continue
        print(f"\n== {name}", flush=True)
        left = min(SECTION_S, end - time.monotonic())
        try:
            results[name] = _run(name, left) if left > 0 else _no("there was no time left")
        except RuntimeError as why:
            failed[name] = str(why)
            print(f"   {name}: failed: {why}", flush=True)
    results["machine"]["load_after"] = report.machine()["load"]
    results["failed"] = failed
    _keep(results)
    return 1 if failed else 0


def _run(name: str, seconds: float) -> Any:
    """One section's figures. Raises RuntimeError."""
    with tempfile.TemporaryDirectory(prefix="outpass-bench-") as directory:
        out = Path(directory) / "figures.json"
        command = [sys.executable, "-m", "tests.bench", "--one", name, str(out)]
        process = subprocess.Popen(command, cwd=HERE.parent.parent, env={**os.environ, PARTIAL: str(out)})
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.terminate()
            process.wait()
            if not out.exists():
                _no(f"it took more than {seconds:.0f} s")
            code = 0
            print(f"   {name}: cut after {seconds:.0f} s; what it had is kept", flush=True)
        if code != 0 or not out.exists():
            _no(f"it ended with exit code {code}")
        return json.loads(out.read_text())


def _no(why: str) -> Any:
    raise RuntimeError(why)


def _keep(results: dict[str, Any]) -> None:
    """`results/local-*.json` stays here; the peers' run is committed with the tables that are made of it."""
    out = HERE / "results" / f"local-{time.strftime('%Y%m%d-%H%M%S')}.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(results, indent=1) + "\n")
    print(f"\nwritten to {out.relative_to(HERE.parent.parent)}")
    if "peers" in results:
        shown = {key: results[key] for key in ("when", "machine", "peers")}
        (HERE / "results" / "peers.json").write_text(json.dumps(shown, indent=1) + "\n")
        report.write(shown)
        print("written to tests/bench/PEERS.md, peers.svg and results/peers.json")


if __name__ == "__main__":
    sys.exit(main())
