"""From the SIGKILL of the only gate to an answer through the same listener: with none in reserve yet, and with one.

Lives here: rounds under daemons of their own (a gate that ends for the third time in a minute is started later on purpose), medians
and the worst, what one in reserve costs. May not live here: thresholds.

The client connects right after the kill and waits in the listener's queue, as any client would.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from tests.support.daemon import RunningDaemon, daemon
from tests.support.raw_origin import RawOrigin
from tests.support.waiting import until

DAEMONS: Final = 20
POLICY: Final = "version: 1\npackages: {unattributed: {allow: [network:http], http: ['http://plain.test/**']}}\n"
ASK: Final = b"GET http://plain.test/x HTTP/1.1\r\nHost: plain.test\r\nConnection: close\r\n\r\n"


def _ask(address: tuple[str, int]) -> None:
    with socket.create_connection(address, 60) as sock:
        sock.sendall(ASK)
        got = b""
        while part := sock.recv(4096):
            got += part
    assert got.startswith(b"HTTP/1.1 200 ") and got.endswith(b"ok"), got


def _kill(running: RunningDaemon, address: tuple[str, int]) -> tuple[float, float]:
    """Seconds until it was answered, and those of CPU that the next gate used for it."""
    gate, spare = running.gate_pid(), running.spare_pid()
    assert gate is not None
    before = _cpu(spare) if spare else 0.0
    watched = os.pidfd_open(gate)
    begun = time.perf_counter()
    os.kill(gate, signal.SIGKILL)
    select.select([watched], [], [])  # its end: what is asked before would be cut off with it
    _ask(address)
    taken = time.perf_counter() - begun
    os.close(watched)
    fresh = running.gate_pid()
    assert fresh is not None and fresh in ({spare} if spare else set(running.gate_pids()) - {gate})
    return taken, _cpu(fresh) - before


def _cpu(pid: int) -> float:
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def _held(pid: int) -> list[str]:
    found = []
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile
            found.append(os.readlink(fd))
    return found


def _waiting(running: RunningDaemon) -> dict[str, float]:
    """Waits until there is one in reserve that has nothing to do any more; its MiB."""
    pid: int = until("one in reserve", running.spare_pid)
    until("it has imported everything", lambda: "anon_inode:[eventpoll]" in _held(pid))
    lines = [line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]]
    kib = {words[0]: int(words[1]) for words in lines}
    return {"rss": kib["Rss:"] / 1024, "pss": kib["Pss:"] / 1024}


def _imports(*words: str) -> float:
    """Seconds of CPU of a Python process that does this."""
    before = os.times()
    subprocess.run([sys.executable, "-P", "-c", "\n".join(words)], check=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def run() -> dict[str, Any]:
    """Prints and returns milliseconds."""
    load = os.getloadavg()[0]
    taken: dict[str, list[tuple[float, float]]] = {"cold": [], "reserve": []}
    sizes: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as made, RawOrigin("plain.test", tls=False) as plain:
        policy = Path(made) / "outpass.yaml"
        policy.write_text(POLICY)
        for number in range(DAEMONS):
            where = Path(made) / str(number)
            where.mkdir()
            with (
                daemon(where, "--connect-to", f"plain.test:80:127.0.0.1:{plain.port}") as running,
                socket.create_server(("127.0.0.1", 0), backlog=128) as door,
            ):
                control, address = running.control(), door.getsockname()
                assert control.open(policy, listener=door.dup())["ok"]
                door.close()
                _ask(address)
                taken["cold"].append(_kill(running, address))
                sizes.append(_waiting(running))
                taken["reserve"].append(_kill(running, address))
                control.close()
    prepared = ("from outpass.gate.engine import bare", "bare.prepare()")
    results: dict[str, Any] = {
        name: {
            "times": len(found),
            "median_ms": round(1000 * statistics.median(wall for wall, _ in found)),
            "worst_ms": round(1000 * max(wall for wall, _ in found)),
            "gate_cpu_ms": round(1000 * statistics.median(used for _, used in found)),
        }
        for name, found in taken.items()
    }
    results["spare_mib"] = {key: round(statistics.median(size[key] for size in sizes), 1) for key in ("rss", "pss")}
    results["python_cpu_ms"] = round(1000 * statistics.median(_imports("pass") for _ in range(5)))
    results["imports_cpu_ms"] = round(
        1000 * statistics.median(_imports(*prepared, "import outpass.gate.serve") for _ in range(5))
    )
    results["load"] = [round(load, 1), round(os.getloadavg()[0], 1)]
    print(results, flush=True)
    return results


if __name__ == "__main__":
    run()
