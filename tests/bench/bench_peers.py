"""The gate beside other proxies: plain requests, tunnels, bodies, idle connections, slow readers. All in one run, interleaved.

Lives here: the loads, what is counted, medians. May not live here: how a peer is had (peers.py), tables and plots (report.py).
CPU is that of the proxy's whole process tree; 127.0.0.1 all the way; the generator and the origin share the machine with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.bench import load
from tests.bench.peers import PLAIN, ROOT, TUNNELS, Absent, Peer, Start

ROUNDS = 5
ALLOWANCE_S = 30.0
"""Seconds after which one load begins no further round, when it has one: a busy machine gets fewer rounds, not fewer figures."""
PLAIN_REQUESTS = {1: 300, 32: 1000}
SETUPS = 150
BULK = 1 << 28
BODIES = {"256 MiB": 1 << 28, "1 GiB": 1 << 30}
BODY_S = 20.0
CONNECTIONS = 500
IDLE_TUNNELS = {"outpass": 10_000}
SLOW = 16
SLOW_BODY = 1 << 26
Figures = dict[str, dict[str, Any]]
Measure = Callable[[Peer], dict[str, float]]


@contextlib.contextmanager
def origin() -> Iterator[int]:
    """The origin's process; its port."""
    command = [sys.executable, "-m", "tests.bench.origin"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


@contextlib.contextmanager
def running(starts: dict[str, Start], port: int, absent: dict[str, str]) -> Iterator[dict[str, Peer]]:
    """Every peer that is to be had; why not, of the others, goes to `absent`."""
    with contextlib.ExitStack() as stack:
        found = {}
        for name, start in starts.items():
            where = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="outpass-bench-")))
            try:
                found[name] = stack.enter_context(start(where, port))
            except (Absent, OSError) as why:
                absent[name] = str(why)
                print(f"   {name}: skipped: {why}", flush=True)
        yield found


def rounds(peers: dict[str, Peer], measure: Measure, count: int = ROUNDS) -> Figures:
    """Medians of `count` interleaved rounds after one to warm up. A peer that fails is out, with its reason."""
    end = time.monotonic() + ALLOWANCE_S
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in peers}
    failed: dict[str, str] = {}
    for number in range(count + 1):
        if number > 1 and time.monotonic() > end:
            break
        for name, peer in peers.items():
            if name in failed:
                continue
            try:
                found = measure(peer)
            except (OSError, ValueError) as error:
                failed[name] = f"{type(error).__name__}: {error}"
                continue
            if number:
                taken[name].append(found)
    medians: Figures = {
        n: {k: statistics.median(f[k] for f in found) for k in found[0]} | {"rounds": len(found)}
        for n, found in taken.items()
        if found
    }
    for name, why in failed.items():
        medians[name] = {"failed": why}
    return medians


def say(title: str, figures: Figures) -> None:
    """One line a peer, as it comes."""
    print(f"\n   {title}")
    for name, found in figures.items():
        shown = (f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in found.items())
        print(f"   {name:16} {', '.join(shown)}", flush=True)


def plain(peers: dict[str, Peer], port: int) -> dict[str, Figures]:
    """CPU, rate and latency of small requests in absolute form."""
    found = {}
    for concurrency, count in PLAIN_REQUESTS.items():

        def measure(peer: Peer, concurrency: int = concurrency, count: int = count) -> dict[str, float]:
            url = f"http://127.0.0.1:{port}/s" if peer.pid else "/s"
            lines = peer.line("request", count)
            asked = [f"GET {url} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{line}\r\n".encode() for line in lines]
            before = load.cpu(peer.pid) if peer.pid else 0.0
            elapsed, taken = load.closed_loop(peer.port, asked, concurrency)
            used = (load.cpu(peer.pid) if peer.pid else 0.0) - before
            taken.sort()
            quantile = {"p50_us": taken[len(taken) // 2] * 1e6, "p99_us": taken[int(len(taken) * 0.99)] * 1e6}
            return {"cpu_us": used / count * 1e6, "rps": count / elapsed, **quantile}

        figures = rounds({"no proxy": Peer(port, 0), **peers}, measure)
        direct = figures["no proxy"]
        for figure in figures.values():
            if "failed" not in figure and "failed" not in direct and figure is not direct:
                figure |= {f"added_{q}": figure[q] - direct[q] for q in ("p50_us", "p99_us")}
        found[f"c{concurrency}"] = figures
        say(f"plain requests, concurrency {concurrency}", figures)
    return found


def tunnels(peers: dict[str, Peer], port: int) -> dict[str, Figures]:
    """CPU of a tunnel's set-up, with one small exchange in it; CPU and rate of its bytes."""
    inner = f"GET /s HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
    much = f"GET /bytes/{BULK} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()

    def set_up(peer: Peer) -> dict[str, float]:
        lines = peer.line("connect", SETUPS)
        before, started = load.cpu(peer.pid), time.perf_counter()
        for line in lines:
            with load.tunnel(peer.port, port, line) as sock:
                load.answered(sock, inner)
        elapsed = time.perf_counter() - started
        settle(peer)
        return {"cpu_us": (load.cpu(peer.pid) - before) / SETUPS * 1e6, "tunnels_s": SETUPS / elapsed}

    def bytes_of(peer: Peer) -> dict[str, float]:
        with load.tunnel(peer.port, port, peer.line("connect", 1)[0]) as sock:
            before = load.cpu(peer.pid)
            rate = load.download(sock, much, BULK, BODY_S)
            return {"cpu_s_per_gb": (load.cpu(peer.pid) - before) / BULK * 1e9, "mb_s": rate / 1e6}

    found = {"set_up": rounds(peers, set_up), "bytes": rounds(peers, bytes_of)}
    say("tunnel set-up", found["set_up"])
    say("tunnel bytes", found["bytes"])
    return found


def settle(peer: Peer, seconds: float = 3.0) -> None:
    """Wait until the proxy has done with what was closed: its CPU stands still."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        before = load.cpu(peer.pid)
        time.sleep(0.1)
        if load.cpu(peer.pid) - before < 0.001:
            return


def bodies(peers: dict[str, Peer], port: int) -> dict[str, Figures]:
    """Peak memory and CPU of one large plain answer; the memory that clients take who ask and do not read."""
    found: dict[str, Figures] = {}
    for title, size in BODIES.items():

        def measure(peer: Peer, size: int = size) -> dict[str, float]:
            settle(peer)
            idle, before = load.memory(peer.pid), load.cpu(peer.pid)
            load.forget_peak(peer.pid)
            with load.connect(peer.port) as sock:
                rate = load.download(sock, _asked(peer, port, f"/bytes/{size}"), size, BODY_S)
            used = (load.cpu(peer.pid) - before) / size * 1e9
            return {"over_idle_mib": load.memory(peer.pid, "VmHWM") - idle, "cpu_s_per_gb": used, "mb_s": rate / 1e6}

        found[title] = rounds(peers, measure, count=1)
        say(f"a body of {title}", found[title])

    def slow(peer: Peer) -> dict[str, float]:
        settle(peer)
        idle = load.memory(peer.pid)
        with contextlib.ExitStack() as stack:
            for _ in range(SLOW):
                sock = stack.enter_context(load.connect(peer.port))
                sock.sendall(_asked(peer, port, f"/bytes/{SLOW_BODY}"))
            held, still = idle, 0
            for _ in range(40):
                time.sleep(0.25)
                now = load.memory(peer.pid)
                still = still + 1 if now - held < 0.5 else 0
                held = max(held, now)
                if still >= 6:
                    break
            return {"over_idle_mib": held - idle, "mib_each": (held - idle) / SLOW}

    found["slow readers"] = rounds(peers, slow, count=1)
    say(f"{SLOW} clients that ask for 64 MiB and do not read", found["slow readers"])
    return found


def _asked(peer: Peer, port: int, path: str) -> bytes:
    line = peer.line("request", 1)[0]
    return f"GET http://127.0.0.1:{port}{path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{line}\r\n".encode()


def idle(peers: dict[str, Peer], port: int) -> Figures:
    """Resident memory of a proxy that was used and has nothing to do, and of each connection that is kept open."""
    small = {}
    for name, peer in peers.items():
        settle(peer)
        before = load.memory(peer.pid)
        asked = [_asked_small(port, line) for line in peer.line("request", CONNECTIONS)]
        with contextlib.ExitStack() as stack:
            try:
                for request in asked:
                    load.answered(stack.enter_context(load.connect(peer.port)), request)
            except OSError as error:
                small[name] = {"rss_mib": before, "failed": f"{type(error).__name__}: {error}"}
                continue
            small[name] = {"rss_mib": before, "kib_each": (load.memory(peer.pid) - before) * 1024 / CONNECTIONS}
    say(f"idle, and {CONNECTIONS} kept connections", small)
    return small


def _asked_small(port: int, line: str) -> bytes:
    return f"GET http://127.0.0.1:{port}/s HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{line}\r\n".encode()


def idle_tunnels(peers: dict[str, Peer], port: int) -> Figures:
    """Memory of each idle tunnel, and the CPU of all."""
    found = {}
    limit = (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 1500) // 2
    for name, peer in peers.items():
        wanted = min(IDLE_TUNNELS.get(name, CONNECTIONS), limit)
        settle(peer)
        before = load.memory(peer.pid)
        socks: list[socket.socket] = []
        failed = {}
        try:
            for line in peer.line("connect", wanted):
                socks.append(load.tunnel(peer.port, port, line))
        except OSError as error:
            failed = {"failed_after": len(socks), "why": f"{type(error).__name__}: {error}"}
        settle(peer, 10.0)
        held, used, started = load.memory(peer.pid), load.cpu(peer.pid), time.perf_counter()
        time.sleep(3)
        share = (load.cpu(peer.pid) - used) / (time.perf_counter() - started)
        each = (held - before) * 1024 / len(socks) if socks else 0.0
        found[name] = {"tunnels": len(socks), "kib_each": each, "idle_cpu_percent": share * 100, **failed}
        for sock in socks:
            sock.close()
    say("idle tunnels", found)
    return found


def run() -> dict[str, Any]:
    """All of it."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if os.getuid() == 0 and hard < 65_536:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (65_536, 65_536))
            hard = 65_536
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    absent: dict[str, str] = {}
    results: dict[str, Any] = {"absent": absent}
    with origin() as port:
        with running(TUNNELS, port, absent) as peers:
            for step in (tunnels, idle_tunnels):
                results[step.__name__] = step(peers, port)
                keep(results)
        with running(PLAIN, port, absent) as peers:
            for last in (idle, plain, bodies):
                results[last.__name__] = last(peers, port)
                keep(results)
    return results


def keep(results: dict[str, Any]) -> None:
    """So that a run that is cut short keeps what it has."""
    if where := os.environ.get("OUTPASS_BENCH_PARTIAL"):
        Path(where).write_text(json.dumps(results))


if __name__ == "__main__":
    run()
