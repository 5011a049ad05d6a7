"""10 000 idle tunnels of one jail: with one gate, and with two; what each costs in descriptors, memory and idle CPU.

Lives here: the client's process inside the jail, the echo's outside, counting. May not live here: thresholds. Opt-in, for it takes a
minute: `make bench SECTION=tunnels`.

Clients and origin are processes of their own, as each end of a tunnel takes a descriptor there too. Every tunnel carries a byte
both ways when it is opened and another after the idle time, so those that are counted live.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Final

from tests.bench.bench_raw import cpu, rss
from tests.support.daemon import daemon
from tests.support.enclosed import Enclosure, enclosure, possible
from tests.support.waiting import until

TUNNELS: Final = 10_000
AT_ONCE: Final = 20
"""New ones: whose they are is then found in one walk for several."""
GATES: Final = (1, 2)
IDLE_SECONDS: Final = 5.0
POLICY: Final = f"""
version: 1
programs: {{probe: [{os.path.realpath(sys.executable)}]}}
packages: {{"exe:probe": {{allow: [network:socket], socket: ["echo.example.com:7"]}}}}
"""
CLIENT: Final = """
import json, resource, socket, sys, threading, time
from pathlib import Path
count, width, where = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
to, socks, why = (socket.getaddrinfo("echo.example.com", 7)[0][4][0], 7), [], set()
begun = time.perf_counter()
def talk(sock):
    sock.sendall(b"x")
    if sock.recv(1) != b"x":
        raise OSError("closed")
def many(n):
    for _ in range(n):
        sock = socket.socket()
        sock.settimeout(10)
        try:
            sock.connect(to)
            talk(sock)
        except OSError as e:
            why.add(type(e).__name__)
            return
        socks.append(sock)
threads = [threading.Thread(target=many, args=(count // width,)) for _ in range(width)]
[t.start() for t in threads]
[t.join() for t in threads]
(where / "opened.part").write_text(json.dumps([len(socks), time.perf_counter() - begun, sorted(why)]))
(where / "opened.part").rename(where / "opened")
while not (where / "go").exists():
    time.sleep(0.05)
alive = 0
for sock in socks:
    try:
        talk(sock)
        alive += 1
    except OSError:
        pass
print(json.dumps({"alive": alive}))
"""


class _Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        assert isinstance(self.transport, asyncio.WriteTransport)
        self.transport.write(data)


def _echo(send: Any) -> None:
    async def serve() -> None:
        server = await asyncio.get_running_loop().create_server(_Echo, "127.0.0.1", 0, backlog=1024)
        send.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(serve())


def _kinds(pids: list[int]) -> collections.Counter[str]:
    """What the descriptors of processes are."""
    found: collections.Counter[str] = collections.Counter()
    for pid in pids:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                found[os.readlink(entry).partition(":")[0]] += 1
    return found


def _held(jail: Enclosure, where: Path, broker: int, gates: list[int]) -> dict[str, Any]:
    before = _kinds(gates), rss(broker), [rss(pid) for pid in gates]
    told: list[dict[str, Any]] = []
    arguments = (CLIENT, str(TUNNELS), str(AT_ONCE), str(where))
    client = threading.Thread(target=lambda: told.append(json.loads(jail.python(*arguments).stdout)))
    client.start()
    until("every tunnel is open", (where / "opened").exists, 90)
    opened, seconds, why = json.loads((where / "opened").read_text())
    after = _kinds(gates), rss(broker), [rss(pid) for pid in gates]
    used, begun = [cpu(pid) for pid in (broker, *gates)], time.perf_counter()
    time.sleep(IDLE_SECONDS)
    idle = (sum(map(cpu, (broker, *gates))) - sum(used)) / (time.perf_counter() - begun)
    (where / "go").touch()
    client.join()
    grown = after[0] - before[0]
    return {
        "open": opened,
        "stopped_by": " ".join(why),
        "alive_after": told[0]["alive"],
        "seconds": round(seconds, 1),
        "sockets_each": round(grown["socket"] / opened, 3),
        "pipe_ends": grown["pipe"],
        "gate_kib_each": round((sum(after[2]) - sum(before[2])) * 1024 / opened, 2),
        "broker_kib_each": round((after[1] - before[1]) * 1024 / opened, 2),
        "gates_mib": [round(one) for one in after[2]],
        "idle_cpu_percent": round(100 * idle, 2),
    }


def run() -> dict[str, Any]:
    """Prints and returns all of it."""
    if not possible() or shutil.which("getent") is None:
        print("left out: no network namespace can be made here")
        return {}
    receive, send = multiprocessing.Pipe(duplex=False)
    echo = multiprocessing.get_context("fork").Process(target=_echo, args=(send,), daemon=True)
    echo.start()
    results: dict[str, Any] = {"hard_limit": resource.getrlimit(resource.RLIMIT_NOFILE)[1]}
    try:
        port = receive.recv()
        for count in GATES:
            with tempfile.TemporaryDirectory(dir="/tmp") as made:
                where = Path(made)
                options = ("--gates", str(count), "--connect-to", f"echo.example.com:7:127.0.0.1:{port}")
                with daemon(where, *options) as running, enclosure(running, POLICY, where) as jail:
                    results[f"gates_{count}"] = _held(jail, where, running.process.pid, running.gate_pids())
            print(f"gates {count}: {results[f'gates_{count}']}", flush=True)
    finally:
        echo.kill()
        echo.join()
    return results


if __name__ == "__main__":
    run()
