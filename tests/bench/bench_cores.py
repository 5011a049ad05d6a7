"""One gate process against two behind the same listener: requests a second, and CPU of each gate.

Lives here: interleaved rounds under two daemons in one run. May not live here: thresholds.

Clients and origin run on the same machine, so requests a second can only double where there are cores for them too. What
does not depend on that is `capacity`: requests per second of CPU of the busiest gate, which is where one gate's core is full; and
`busy`: CPU of all gates over that of the busiest, which is how many of them do the work.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.daemon import Puppet, RunningDaemon, daemon, request
from tests.support.raw_origin import RawOrigin

ROUNDS = 5
CONNECTIONS = 16
REQUESTS = 60
"""On each connection, each with a pass of its own."""
POLICY = "version: 1\npackages: {app: {allow: [network:http], http: ['http://plain.test/**']}}\n"
GATES = (1, 2)


def _cpu(pid: int) -> float:
    """CPU seconds of a process and its threads so far."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def _origin(send: Any) -> None:
    with RawOrigin("plain.test", tls=False) as plain:
        send.send(plain.port)
        while True:
            time.sleep(0.2)
            plain.seen.clear()


def _talk(sock: socket.socket, passes: list[str]) -> None:
    for text in passes:
        line = f"Proxy-Authorization: Bearer {text}\r\n"
        sock.sendall(f"GET http://plain.test/v1/x HTTP/1.1\r\nHost: plain.test\r\n{line}\r\n".encode())
        got = b""
        while not got.endswith(b"ok"):
            got += sock.recv(4096)


def _client(address: tuple[str, int], passes: list[list[str]], ready: Any, go: Any) -> None:
    """Half of the connections, each in a thread of its own."""
    socks = [socket.create_connection(address) for _ in passes]
    threads = [threading.Thread(target=_talk, args=pair) for pair in zip(socks, passes, strict=True)]
    ready.set()
    go.wait()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _round(running: RunningDaemon, address: tuple[str, int], puppet: Puppet) -> tuple[float, list[float]]:
    """Seconds that it took, and CPU seconds of each gate."""
    wanted = request("app", dst="plain.test:80", tls=False)
    minted = [one["pass"] for one in puppet.do(*[{"say": wanted}] * (CONNECTIONS * REQUESTS))]
    shares = [minted[n::CONNECTIONS] for n in range(CONNECTIONS)]
    fork = multiprocessing.get_context("fork")
    go = fork.Event()
    clients = []
    for half in (shares[::2], shares[1::2]):
        ready = fork.Event()
        clients.append(fork.Process(target=_client, args=(address, half, ready, go)))
        clients[-1].start()
        ready.wait()
    gates = running.gate_pids()
    before = [_cpu(pid) for pid in gates]
    begun = time.perf_counter()
    go.set()
    for client in clients:
        client.join()
    taken = time.perf_counter() - begun
    assert all(client.exitcode == 0 for client in clients)
    return taken, [_cpu(pid) - then for pid, then in zip(gates, before, strict=True)]


@contextlib.contextmanager
def _daemon(where: Path, gates: int, port: int) -> Iterator[tuple[RunningDaemon, tuple[str, int], Puppet]]:
    where.mkdir()
    policy = where / "outpass.yaml"
    policy.write_text(POLICY)
    with (
        daemon(where, "--gates", str(gates), "--connect-to", f"plain.test:80:127.0.0.1:{port}") as running,
        socket.create_server(("127.0.0.1", 0), backlog=128) as door,
        contextlib.closing(running.control()) as control,
        Puppet(running.ready["mint"]) as puppet,
    ):
        address = door.getsockname()
        assert control.open(policy, listener=door.dup())["ok"]
        door.close()
        control.ask({"op": "jail.proc", "pid": puppet.pid})
        puppet.hello()
        yield running, address, puppet


def run() -> dict[str, Any]:
    """Prints and returns medians for one and two gates, and their ratios."""
    receive, send = multiprocessing.Pipe(duplex=False)
    origin = multiprocessing.get_context("fork").Process(target=_origin, args=(send,), daemon=True)
    origin.start()
    found: dict[int, list[tuple[float, float, float, float]]] = {n: [] for n in GATES}
    try:
        port = receive.recv()
        with tempfile.TemporaryDirectory() as made, contextlib.ExitStack() as stack:
            served = {n: stack.enter_context(_daemon(Path(made) / str(n), n, port)) for n in GATES}
            for round_ in range(ROUNDS + 1):
                for n, one in served.items():
                    taken, cpu = _round(*one)
                    total = CONNECTIONS * REQUESTS
                    if round_:  # the first one warms caches up
                        found[n].append((total / taken, sum(cpu) / total * 1e6, total / max(cpu), sum(cpu) / max(cpu)))
    finally:
        origin.kill()
    medians = {n: [statistics.median(column) for column in zip(*rows, strict=True)] for n, rows in found.items()}
    results: dict[str, Any] = {
        f"gates_{n}": {"requests_s": round(rate), "cpu_us": round(cpu), "capacity": round(capacity), "busy": round(busy, 2)}
        for n, (rate, cpu, capacity, busy) in medians.items()
    }
    results["cores"] = len(os.sched_getaffinity(0))
    results["load"] = round(os.getloadavg()[0], 1)
    results["requests_ratio"] = round(medians[2][0] / medians[1][0], 2)
    results["capacity_ratio"] = round(medians[2][2] / medians[1][2], 2)
    print(results, flush=True)
    return results


if __name__ == "__main__":
    run()
