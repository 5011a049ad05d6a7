"""What the shim costs: at start-up, for one mint, and per request at two stack depths. CPU medians, A B A B in one run.

Lives here: figures. May not live here: judgements; no test looks at a clock. `run()` returns the figures, in the units named.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.shim.rig import SHIM, World

# An answering process of its own, so that its CPU time is not counted: it replies from memory, without parsing.
BROKER = """
import json, socket, sys
path, hello = sys.argv[1], sys.argv[2].encode()
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.bind(path); s.listen(8)
token = b'{"pass":"' + b"x" * 600 + b'","tunnel":"http"}'
print("ready", flush=True)
while True:
    c, _ = s.accept()
    while True:
        data = c.recv(65536)
        if not data: break
        c.send(hello if b'"op":"hello"' in data[:40] else token)
"""

# The choke point alone, A B A B: endheaders of a connection whose socket swallows, with and without the shim's wrapper.
REQUESTS = """
import http.client, json, os, statistics, sys, time
from outpass_shim import _boot, _http, _session, _wire
host, port = os.environ["OUTPASS_PROXY"].split(":")
class Sink:
    def sendall(self, data): pass
    def getpeercert(self): pass
wrapped = http.client.HTTPConnection.endheaders
plain = wrapped.__closure__[[n for n in wrapped.__code__.co_freevars].index("original_end")].cell_contents
def one(depth, n):
    if depth: return one(depth - 1, n)
    c = http.client.HTTPSConnection(host, int(port)); c.sock = Sink(); c._tunnel_host, c._tunnel_port = "api.example.com", 443
    t = time.process_time_ns()
    w = time.perf_counter_ns()
    for _ in range(n):
        c._HTTPConnection__state = "Idle"; c.putrequest("GET", "/x"); c.endheaders()
    return (time.process_time_ns() - t) / n / 1000, (time.perf_counter_ns() - w) / n / 1000
out = {}
import lib
for depth in (20, 60):
    rows = {"plain": [], "shim": []}
    lib.call(one, depth, 50)
    for _ in range(15):
        for name, f in (("plain", plain), ("shim", wrapped)):
            http.client.HTTPConnection.endheaders = f
            rows[name].append(lib.call(one, depth, 100))
    for i, kind in enumerate(("cpu", "wall")):
        a, b = (statistics.median(r[i] for r in rows[n]) for n in ("plain", "shim"))
        out["request_depth%d_%s_us" % (depth, kind)] = round(b - a, 2)
packet = _session._dumps({"op": "mint", "use": "request", "cap": "network:http", "dst": "api.example.com:443", "tls": True, "chain": ("lib", "app")})
rows = []
for _ in range(15):
    w = time.perf_counter_ns()
    for _ in range(100): _wire.ask(_boot.MINT, packet)
    rows.append((time.perf_counter_ns() - w) / 100 / 1000)
out["mint_round_trip_wall_us"] = round(statistics.median(rows), 2)
from outpass_shim._chain import principals
def walk(depth, n):
    if depth: return walk(depth - 1, n)
    t = time.perf_counter_ns()
    for _ in range(n): principals(sys._getframe())
    return (time.perf_counter_ns() - t) / n / 1000
for depth in (20, 60):
    out["chain_depth%d_us" % depth] = round(statistics.median(lib.call(walk, depth, 200) for _ in range(15)), 2)
print(json.dumps(out))
"""


def _cpu_ms(command: list[str], env: dict[str, str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, env=env, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return 1000 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def start_up(world: World, python: str, rounds: int = 40) -> dict[str, float]:
    """Milliseconds of CPU and of wall time that the shim adds to `python -c pass`."""
    env = world.environment()
    plain = {k: v for k, v in env.items() if k != "PYTHONPATH"}
    cpu: dict[str, list[float]] = {"plain": [], "shim": []}
    wall: dict[str, list[float]] = {"plain": [], "shim": []}
    for _ in range(rounds):
        for name, e in (("plain", plain), ("shim", env)):
            start = time.perf_counter()
            cpu[name].append(_cpu_ms([python, "-c", "pass"], e))
            wall[name].append(1000 * (time.perf_counter() - start))
    delta = {k: statistics.median(v["shim"]) - statistics.median(v["plain"]) for k, v in (("cpu", cpu), ("wall", wall))}
    return {
        "start_plain_cpu_ms": round(statistics.median(cpu["plain"]), 2),
        "start_added_cpu_ms": round(delta["cpu"], 2),
        "start_added_wall_ms": round(delta["wall"], 2),
    }


def run(python: str = sys.executable) -> dict[str, Any]:
    """All figures for one interpreter."""
    with tempfile.TemporaryDirectory() as directory:
        world = World(Path(directory))
        try:
            return _measure(world, python)
        finally:
            world.close()


def _measure(world: World, python: str) -> dict[str, Any]:
    compiler = [python, "-m", "compileall", "-q", "--invalidation-mode", "checked-hash", str(SHIM)]
    subprocess.run(compiler, check=False, capture_output=True)
    version = subprocess.run([python, "-V"], capture_output=True, text=True, check=True).stdout.split()[1]
    figures: dict[str, Any] = {"python": version, **start_up(world, python)}
    world.package("lib", "def call(f, *args):\n    return f(*args)\n")
    # The stack that is walked is a package's: the walk would end at the first frame of the application.
    (world.site / "lib" / "deep.py").write_text(REQUESTS)
    world.write_map()
    mint = str(world.where / "bench.sock")
    hello = {**world.broker.reply, "sid": "s-1"}
    broker = subprocess.Popen([sys.executable, "-c", BROKER, mint, json.dumps(hello)], stdout=subprocess.PIPE)
    try:
        assert broker.stdout is not None
        broker.stdout.readline()
        (world.app / "main.py").write_text("import lib.deep\n")
        env = {**world.environment(), "OUTPASS_MINT": mint}
        done = subprocess.run([python, str(world.app / "main.py")], env=env, stdout=subprocess.PIPE, text=True, check=True)
        return {**figures, **json.loads(done.stdout)}
    finally:
        broker.kill()
        broker.wait()


if __name__ == "__main__":
    for each in sys.argv[1:] or [sys.executable]:
        print(json.dumps(run(each)))
