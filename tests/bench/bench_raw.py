"""What the gate costs raw TCP out of a jail: new connections a second, and thousands of open tunnels.

Lives here: a real daemon with its gate, and a native program in a real network namespace that has to be found for every
connection (an `exe:` rule). May not live here: the listeners alone (bench_jail_traffic), HTTP (bench_gate).
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from tests.support.daemon import daemon
from tests.support.enclosed import enclosure, possible
from tests.support.streams import Streams

ROUNDS: Final = 3
CONNECTIONS: Final = 600
AT_ONCE: Final = 32
TUNNELS: Final = 5000
IDLE_SECONDS: Final = 4.0
HOST: Final = "echo.example.com"

POLICY: Final = f"""
version: 1
programs: {{probe: [{os.path.realpath(sys.executable)}]}}
packages: {{"exe:probe": {{allow: [network:socket], socket: ["{HOST}:7"]}}}}
"""
CLIENT: Final = """
import json, socket, sys, threading, time
count, width = int(sys.argv[1]), int(sys.argv[2])
to = (socket.getaddrinfo("echo.example.com", 7)[0][4][0], 7)
def one():
    sock = socket.create_connection(to)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(b"x")
    assert sock.recv(1) == b"x"
    sock.close()
def many(n):
    for _ in range(n):
        one()
start = time.perf_counter()
threads = [threading.Thread(target=many, args=(count // width,)) for _ in range(width)]
[t.start() for t in threads]
[t.join() for t in threads]
print(json.dumps({"connections_s": count // width * width / (time.perf_counter() - start)}))
"""


def rss(pid: int) -> float:
    """MiB of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024


def cpu(pid: int) -> float:
    """Seconds of CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def asked(jail: Any, *args: str) -> dict[str, float]:
    """The client's figures, from inside."""
    done = jail.python(CLIENT, *args)
    assert done.returncode == 0, done.stderr
    found: dict[str, float] = json.loads(done.stdout)
    return found


def run() -> dict[str, Any]:
    """Prints and returns all of it."""
    if not possible() or shutil.which("getent") is None:
        print("left out: no network namespace can be made here")
        return {}
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    results: dict[str, Any] = {"processes": sum(p.name.isdecimal() for p in Path("/proc").iterdir())}
    with tempfile.TemporaryDirectory(dir="/tmp") as made, Streams() as streams:
        where = Path(made)
        with daemon(where, *streams.connect_to()) as outpassd, enclosure(outpassd, POLICY, where) as jail:
            broker, gate = outpassd.process.pid, outpassd.gate_pid()
            assert gate is not None
            asked(jail, "50", "1")
            for name, width in (("one_by_one", 1), (f"{AT_ONCE}_at_once", AT_ONCE)):
                rates, used = [], (cpu(broker), cpu(gate))
                for _ in range(ROUNDS):
                    rates.append(asked(jail, str(CONNECTIONS), str(width))["connections_s"])
                each = [
                    (now - then) / CONNECTIONS / ROUNDS * 1e6 for now, then in zip((cpu(broker), cpu(gate)), used, strict=True)
                ]
                results[name] = {
                    "connections_s": round(statistics.median(rates)),
                    "broker_us": round(each[0]),
                    "gate_us": round(each[1]),
                }
                print(f"{name}: {results[name]}", flush=True)
            with enclosure(
                outpassd, POLICY.replace('"exe:probe"', "unattributed"), where
            ) as other:  # held by us, so by nobody inside
                results["tunnels"] = tunnels(other, (broker, gate))
            print(f"tunnels: {results['tunnels']}", flush=True)
    return results


def tunnels(jail: Any, pids: tuple[int, int]) -> dict[str, float]:
    """TUNNELS at once, each used twice: what they cost broker and gate, and what CPU (of one core) goes while nothing moves."""
    room = (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 1000) // 2  # two descriptors each, in the gate as in this process
    to, before = jail.run("getent", "ahosts", HOST).stdout.split()[0], [rss(pid) for pid in pids]
    socks = []
    for _ in range(min(TUNNELS, room)):
        sock = jail.connect(to, 7)
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
        socks.append(sock)
    grown = [rss(pid) - then for pid, then in zip(pids, before, strict=True)]
    used, start = sum(map(cpu, pids)), time.perf_counter()
    time.sleep(IDLE_SECONDS)
    idle = (sum(map(cpu, pids)) - used) / (time.perf_counter() - start)
    for sock in reversed(socks):
        sock.sendall(b"y")
        assert sock.recv(1) == b"y"
        sock.close()
    each = [round(g * 1024 / len(socks), 1) for g in grown]
    return {"open": len(socks), "broker_kib_each": each[0], "gate_kib_each": each[1], "idle_cpu_percent": round(idle * 100, 2)}


if __name__ == "__main__":
    run()
