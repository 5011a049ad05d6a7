"""What a pass costs: the round trip as a shim sees it, the broker's CPU for it, and the token itself.

Lives here: one real daemon with its gate, one client connection. May not live here: assertions; nothing fails by being slow.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from outpass.passes import token
from tests.support.daemon import HELLO, claims, daemon, request

ROUNDS = 7
EACH = 4_000
POLICY = "version: 1\ntransparent: [requests]\npackages:\n  app: {allow: [network:http], http: ['https://api.example.com/**']}\n"


def _cpu(pid: int) -> float:
    """Seconds of CPU that a process has used so far; all threads, by the scheduler's clock."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def _per_call(work: Callable[[], object], calls: int = 20_000) -> float:
    """Microseconds of CPU per call, the median of five."""
    figures = []
    for _ in range(5):
        before = time.process_time()
        for _ in range(calls):
            work()
        figures.append((time.process_time() - before) / calls * 1e6)
    return statistics.median(figures)


def _rounds(sock: socket.socket, messages: list[bytes], pid: int) -> tuple[float, float]:
    """(wall µs, broker's CPU µs) per mint, medians over ROUNDS."""
    walls, cpus = [], []
    for _ in range(ROUNDS):
        before, start = _cpu(pid), time.perf_counter()
        for n in range(EACH):
            sock.send(messages[n % len(messages)])
            sock.recv(65_536)
        walls.append((time.perf_counter() - start) / EACH * 1e6)
        cpus.append((_cpu(pid) - before) / EACH * 1e6)
    return statistics.median(walls), statistics.median(cpus)


def run() -> dict[str, float]:
    """Figures in microseconds."""
    with tempfile.TemporaryDirectory() as folder, daemon(Path(folder), private=True) as running:
        policy = Path(folder) / "outpass.yaml"
        policy.write_text(POLICY)
        assert running.private is not None
        assert running.private.open(policy)["ok"]
        assert running.private.ask({"op": "jail.proc", "pid": os.getpid()})["ok"]
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.connect(running.ready["mint"])
            sock.send(json.dumps(HELLO).encode())
            assert "sid" in json.loads(sock.recv(65_536))
            same = [json.dumps(request("app")).encode()]
            many = [json.dumps(request("app", dst=f"h{n}.example.com:443")).encode() for n in range(2 * EACH)]
            hit, hit_cpu = _rounds(sock, same, running.process.pid)
            miss, miss_cpu = _rounds(sock, many, running.process.pid)
            sock.send(same[0])
            text = json.loads(sock.recv(65_536))["pass"]
        said = claims(text)
    key = bytes(32)
    p = token.Pass(
        said["aud"], said["sub"], ("app",), (None,), said["sid"], "request", said["cap"], "api.example.com", 443,
        7, said["iat"], said["exp"], "http", None, said["iss"], "k1",
    )  # fmt: skip
    signed = token.mint(p, key)
    figures = {
        "mint_round_trip_us": hit,
        "mint_broker_cpu_us": hit_cpu,
        "mint_first_seen_round_trip_us": miss,
        "mint_first_seen_broker_cpu_us": miss_cpu,
        "token_mint_us": _per_call(lambda: token.mint(p, key)),
        "token_verify_us": _per_call(lambda: token.verify(signed, {"k1": key}, now=said["iat"], jail=said["aud"])),
    }
    for name, value in figures.items():
        print(f"{name:34} {value:8.1f}")
    return {name: round(value, 2) for name, value in figures.items()}
