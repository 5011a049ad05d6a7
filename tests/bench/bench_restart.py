"""From the SIGKILL of the only gate to an answer through the same listener, and where that time goes.

Lives here: rounds under daemons of their own (a gate that ends for the third time in a minute is started later on purpose), the median and
the worst. May not live here: thresholds.

The client connects right after the kill and waits in the listener's queue, as any client would.
"""

from __future__ import annotations

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

DAEMONS: Final = 10
KILLS: Final = 2
"""Of each daemon: after these the next gate is started at once."""
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
    """Seconds until it was answered, and those of CPU that the new gate had used by then."""
    gate = running.gate_pid()
    assert gate is not None
    watched = os.pidfd_open(gate)
    begun = time.perf_counter()
    os.kill(gate, signal.SIGKILL)
    select.select([watched], [], [])  # its end: what is asked before would be cut off with it
    _ask(address)
    taken = time.perf_counter() - begun
    os.close(watched)
    fresh = running.gate_pid()
    assert fresh is not None and fresh != gate
    return taken, int(Path(f"/proc/{fresh}/schedstat").read_text().split()[0]) / 1e9


def _imports(*words: str) -> float:
    """Seconds of CPU of a Python process that does this."""
    before = os.times()
    subprocess.run([sys.executable, "-P", "-c", "\n".join(words)], check=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def run() -> dict[str, Any]:
    """Prints and returns milliseconds."""
    load = os.getloadavg()[0]
    taken: list[tuple[float, float]] = []
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
                taken += [_kill(running, address) for _ in range(KILLS)]
                control.close()
    walls = [1000 * wall for wall, _ in taken]
    before = ("from outpass.gate.engine import bare", "bare.prepare()")
    results = {
        "times": len(walls),
        "median_ms": round(statistics.median(walls)),
        "worst_ms": round(max(walls)),
        "gate_cpu_ms": round(1000 * statistics.median(cpu for _, cpu in taken)),
        "python_cpu_ms": round(1000 * statistics.median(_imports("pass") for _ in range(5))),
        "imports_cpu_ms": round(1000 * statistics.median(_imports(*before, "import outpass.gate.serve") for _ in range(5))),
        "load": round(load, 1),
    }
    print(results, flush=True)
    return results


if __name__ == "__main__":
    run()
