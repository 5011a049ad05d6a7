"""One large answer through a tunnel: the gate, stock mitmdump, a bare splice(2) pump in C, and no proxy, in turn.

Lives here: those four, CPU a GB, bytes a second, and how near the fastest pump there is on this machine the gate comes. May not
live here: other peers (bench_peers.py), thresholds. The machine's own endpoints bound the rate: `no proxy` says by how much.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.bench import load, peers
from tests.bench.bench_peers import BULK, origin, settle
from tests.bench.peers import HOST, SCRATCH, SOURCES, Absent, Peer

ROUNDS = 15
BODY_S = 60.0


@contextlib.contextmanager
def pump(where: Path, port: int) -> Iterator[Peer]:
    """peers_src/splice.c. Raises Absent."""
    program, listening = SCRATCH / "splice", peers.free_port()
    source = SOURCES / "splice.c"
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        SCRATCH.mkdir(exist_ok=True)
        command = [peers.installed("gcc", "gcc"), "-O2", "-o", str(program), str(source)]
        if subprocess.run(command, capture_output=True, check=False).returncode != 0:
            raise Absent("splice.c does not build here")
    with peers.process([str(program), str(listening), str(port)], listening) as peer:
        yield peer


def once(peer: Peer | None, port: int) -> dict[str, float]:
    """One answer of BULK bytes; without a peer, straight from the origin."""
    asked = f"GET /bytes/{BULK} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
    if peer is None:
        with load.connect(port) as sock:
            return {"mb_s": load.download(sock, asked, BULK, BODY_S) / 1e6, "cpu_s_per_gb": 0.0}
    settle(peer)
    with load.tunnel(peer.port, port, peer.line("connect", 1)[0]) as sock:
        before = load.cpu(peer.pid)
        rate = load.download(sock, asked, BULK, BODY_S)
        return {"mb_s": rate / 1e6, "cpu_s_per_gb": (load.cpu(peer.pid) - before) / BULK * 1e9}


def run() -> dict[str, Any]:
    """Medians, the best, and ratios of medians to mitmdump's."""
    starts = {"outpass": peers.outpass, "mitmdump": peers.mitmdump_tunnels, "splice in C": pump}
    results: dict[str, Any] = {"load_before": os.getloadavg()[0]}
    with origin() as port, contextlib.ExitStack() as stack:
        running: dict[str, Peer | None] = {"no proxy": None}
        for name, start in starts.items():
            try:
                where = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                running[name] = stack.enter_context(start(where, port))
            except Absent as why:
                print(f"{name}: left out: {why}")
        taken: dict[str, list[dict[str, float]]] = {name: [] for name in running}
        for number in range(ROUNDS + 1):
            for name, peer in running.items():
                found = once(peer, port)
                if number:  # the first round warms up
                    taken[name].append(found)
    for name, found_ in taken.items():
        cpu, rate = ([one[key] for one in found_] for key in ("cpu_s_per_gb", "mb_s"))
        results[name] = {
            "cpu_s_per_gb": round(statistics.median(cpu), 4),
            "cpu_least": round(min(cpu), 4),
            "mb_s": round(statistics.median(rate)),
            "mb_s_most": round(max(rate)),
        }
    stock = results["mitmdump"]
    for name in ("outpass", "splice in C"):
        if name in results:
            results[name]["cpu_vs_stock"] = round(results[name]["cpu_s_per_gb"] / stock["cpu_s_per_gb"], 3)
            results[name]["rate_vs_stock"] = round(results[name]["mb_s"] / stock["mb_s"], 2)
    results["load_after"] = os.getloadavg()[0]
    for name, figures in results.items():
        print(f"{name}: {figures}", flush=True)
    return results


if __name__ == "__main__":
    run()
