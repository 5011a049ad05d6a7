"""What a kernel jail costs when it runs: bytes, round trips and connections through its listeners, many jails at once.

Lives here: ratios against native loopback with the same server and the same client; memory and idle CPU of 1, 10 and 50 jails
under one daemon; bwrap with socat bridges where both are installed. May not live here: what the gate does with a request
(bench_gate), what starting costs (bench_jail, bench_run). The server is a process outside that holds the jail's listeners, as
the gate does, and speaks no HTTP: the listeners are what is measured.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.bench.bench_run import OUTPASS, daemon
from tests.support.jailed import python_for

ROOT = Path(__file__).resolve().parent.parent.parent
ROUNDS = 3
MEBIBYTES = 512
PINGS = 4000
CONNECTIONS = 1500
FORWARD = 7070
IDLE_SECONDS = 4.0
JAILS = (1, 10, 50)

SERVER = f"""
import contextlib, os, socket, sys, threading
BLOCK = bytes(1 << 18)
def one(sock):
    with contextlib.suppress(OSError):
        answer(sock)
def answer(sock):
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with sock:
        while what := sock.recv(1):
            if what == b"d":
                for _ in range({MEBIBYTES} * 4):
                    sock.sendall(BLOCK)
            sock.sendall(what)
def serve(listener):
    while True:
        threading.Thread(target=one, args=(listener.accept()[0],), daemon=True).start()
def names(sock):
    while True:
        data, _, _, peer = sock.recvmsg(4096)
        sock.sendto(data, peer)
def start(fds, udp=()):
    for fd in udp:
        threading.Thread(target=names, args=(socket.socket(fileno=fd),), daemon=True).start()
    for fd in fds[1:]:
        threading.Thread(target=serve, args=(socket.socket(fileno=fd),), daemon=True).start()
    serve(socket.socket(fileno=fds[0]))
"""
CLIENT = f"""
import json, socket, sys, time
host, port = sys.argv[1], int(sys.argv[2])
def connect():
    sock = socket.create_connection((host, port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock
with connect() as sock:
    start, left, room = time.perf_counter(), {MEBIBYTES} << 20, bytearray(1 << 20)
    sock.sendall(b"d")
    while left > 0:
        left -= sock.recv_into(room)
    down = {MEBIBYTES} / (time.perf_counter() - start)
with connect() as sock:
    taken = []
    for _ in range({PINGS}):
        start = time.perf_counter()
        sock.sendall(b"e")
        sock.recv(1)
        taken.append(time.perf_counter() - start)
start = time.perf_counter()
for _ in range({CONNECTIONS}):
    with connect() as sock:
        sock.sendall(b"e")
        sock.recv(1)
rate = {CONNECTIONS} / (time.perf_counter() - start)
print(json.dumps({{"mib_s": down, "rtt_us": sorted(taken)[len(taken) // 2] * 1e6, "connections_s": rate}}))
"""
NAMES = f"""
import json, socket, sys, time
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.connect((sys.argv[1], int(sys.argv[2])))
    taken, begin = [], time.perf_counter()
    for _ in range({PINGS}):
        start = time.perf_counter()
        sock.send(b"a question of forty bytes, as names go....")
        sock.recv(4096)
        taken.append(time.perf_counter() - start)
print(json.dumps({{"rtt_us": sorted(taken)[len(taken) // 2] * 1e6, "questions_s": {PINGS} / (time.perf_counter() - begin)}}))
"""
JAIL = """
import sys, os
sys.path[:0] = {path!r}
from outpass.jail import host, launch, recipe
from outpass.jail.plan import Door
exec({server!r})
servers = []
def opened(kinds, without, fds):
    pid = os.fork()
    if pid == 0:
        pairs = list(zip(kinds, fds))
        start([fd for kind, fd in pairs if kind in ("http", "transparent", "forward:{forward}")], [f for k, f in pairs if k == "dns-udp4"])
    servers.append(pid)
    return Door("", *("{runtime}/" + n for n in ("mint.sock", "ca.pem", "bundle.pem")))
request = recipe.JailRequest(cwd="/", private=("{runtime}",), forward=({forward},))
code = launch.run_jailed({command!r}, request, host.look(os.environ), lambda _: os.environ, opened, lambda _: None)
for pid in servers:
    os.kill(pid, 9)
os._exit(code)
"""


def asked(command: list[str]) -> dict[str, float]:
    """The client's figures."""
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


@contextlib.contextmanager
def native() -> Any:
    """The same server on the machine's own loopback; yields its port."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1024))
        udp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        udp.bind(listener.getsockname())
        script = f"{SERVER}\nstart([{listener.fileno()}], [{udp.fileno()}])"
        process = subprocess.Popen([sys.executable, "-c", script], pass_fds=[listener.fileno(), udp.fileno()])
        try:
            yield listener.getsockname()[1]
        finally:
            process.kill()
            process.wait()


def in_jail(runtime: Path, host: str, port: int, script: str = CLIENT) -> dict[str, float]:
    """The client in a jail of ours."""
    client = [python_for(os.getuid()), "-c", script, host, str(port)]
    path = [str(ROOT / "proxy"), str(ROOT / "client_shim" / "python")]
    return asked([sys.executable, "-c", JAIL.format(path=path, server=SERVER, runtime=runtime, command=client, forward=FORWARD)])


def bridged(where: Path, port: int) -> dict[str, float]:
    """The client in bwrap, with socat on both sides of a Unix socket."""
    path = where / "bridge.sock"
    outer = subprocess.Popen(["socat", f"UNIX-LISTEN:{path},fork,backlog=1024", f"TCP:127.0.0.1:{port}"])
    try:
        while not path.exists():
            time.sleep(0.01)
        inner = f'socat TCP-LISTEN:3128,fork,reuseaddr,backlog=1024 UNIX-CONNECT:{path} & sleep 0.3; "$@"; kill $!'
        client = [sys.executable, "-c", CLIENT, "127.0.0.1", "3128"]
        return asked(["bwrap", "--unshare-net", "--dev-bind", "/", "/", "sh", "-c", inner, "sh", *client])
    finally:
        outer.kill()
        outer.wait()
        path.unlink(missing_ok=True)


def traffic() -> dict[str, Any]:
    """Medians of ROUNDS, interleaved, and each as a ratio to native."""
    with tempfile.TemporaryDirectory(dir="/tmp") as made, native() as port:
        runtime = Path(os.path.realpath(made))
        for part in ("mint.sock", "ca.pem", "bundle.pem"):
            (runtime / part).touch()
        ways = {
            "native": lambda: asked([sys.executable, "-c", CLIENT, "127.0.0.1", str(port)]),
            "explicit": lambda: in_jail(runtime, "127.0.0.1", 3128),
            "transparent": lambda: in_jail(runtime, "192.0.2.1", 443),
            "forward": lambda: in_jail(runtime, "127.0.0.1", FORWARD),
            "native_udp": lambda: asked([sys.executable, "-c", NAMES, "127.0.0.1", str(port)]),
            "dns": lambda: in_jail(runtime, "127.0.0.1", 53, NAMES),
        }
        missing = [name for name in ("bwrap", "socat") if shutil.which(name) is None]
        if missing:
            print(f"bwrap with socat: left out, {' and '.join(missing)} not installed")
        else:
            ways["bwrap_socat"] = lambda: bridged(runtime, port)
        taken: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
        for _ in range(ROUNDS):
            for name, way in ways.items():
                taken[name].append(way())
    medians = {n: {k: round(statistics.median(t[k] for t in found), 1) for k in found[0]} for n, found in taken.items()}
    beside = {n: medians["native_udp" if n == "dns" else "native"] for n in medians if not n.startswith("native")}
    ratios = {n: {k: round(v / beside[n][k], 3) for k, v in medians[n].items()} for n in beside}
    return {**medians, "to_native": ratios}


def processes(pid: int) -> list[int]:
    """A process and all below it."""
    try:
        direct = [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return [pid, *(p for d in direct for p in processes(d))]


def pss(pids: list[int]) -> float:
    """MiB, shared pages divided among their users."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def ticks(pids: list[int]) -> int:
    """CPU used so far, in clock ticks."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
    return total


def many(count: int) -> dict[str, float]:
    """`count` jails under one daemon, each with a CMD that sleeps."""
    with tempfile.TemporaryDirectory(dir="/tmp") as made:
        home = Path(made)
        env = {k: v for k, v in os.environ.items() if not k.startswith(("OUTPASS_", "XDG_"))}
        env |= {"HOME": made, "OUTPASS_STATE": f"{made}/audit.db", "OUTPASS_RUNTIME": f"{made}/run"}
        (home / "up").mkdir()
        (home / "project").mkdir()
        with daemon(env, home / "daemon") as control:
            pid = next(int(p.name) for p in Path("/proc").iterdir() if p.name.isdecimal() and _is_broker(p, str(home)))
            before = pss(processes(pid))
            started, runs = time.perf_counter(), []
            for number in range(count):
                shell = ["sh", "-c", f"touch {home}/up/{number}; exec sleep 600"]
                command = [OUTPASS, "run", "--deny-all", "-q", "--", *shell]
                runs.append(subprocess.Popen(command, env={**env, "OUTPASS_SOCKET": control}, cwd=home / "project"))
                while len(list((home / "up").iterdir())) <= number:
                    assert runs[-1].poll() is None
                    time.sleep(0.005)
            each = (time.perf_counter() - started) / count
            served, launchers = processes(pid), [p for r in runs for p in processes(r.pid)]
            held = pss(served)
            tick, start = ticks(served + launchers), time.perf_counter()
            time.sleep(IDLE_SECONDS)
            used = (ticks(served + launchers) - tick) / os.sysconf("SC_CLK_TCK") / (time.perf_counter() - start)
            around = pss(launchers)
            for run in runs:
                run.send_signal(signal.SIGTERM)
            for run in runs:
                run.wait()
    return {
        "start_ms_each": round(each * 1e3, 1),
        "daemon_and_gate_mib": round(held, 1),
        "daemon_and_gate_mib_per_jail": round((held - before) / count, 2),
        "launcher_mib_per_jail": round(around / count, 1),
        "idle_cpu_percent_all": round(used * 100, 2),
        "idle_cpu_percent_per_jail": round(used * 100 / count, 3),
    }


def _is_broker(process: Path, home: str) -> bool:
    with contextlib.suppress(OSError):
        words = (process / "cmdline").read_bytes().decode("utf-8", "replace")
        return f"{home}/daemon" in words and ("outpass.broker" in words or "\0daemon\0" in words)
    return False


def run() -> dict[str, Any]:
    """Prints and returns all of it."""
    results: dict[str, Any] = {"traffic": traffic()}
    print(json.dumps(results["traffic"], indent=1))
    for count in JAILS:
        results[f"jails_{count}"] = many(count)
        print(f"{count} jails: {results[f'jails_{count}']}")
    return results
