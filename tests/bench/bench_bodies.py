"""Bodies of 256 MiB through the gate and through stock mitmdump: CPU per GB and memory over idle, down and up.

Lives here: interleaved rounds (A B A B) for plain HTTP/1, HTTP/1 in TLS, HTTP/2 in TLS; medians, and the highest memory seen. May
not live here: thresholds, small requests (bench_gate.py).
"""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trustme

from tests.bench import bench_gate, load
from tests.support.gate import Gate, Jail
from tests.support.h2_client import H2
from tests.support.inprocess import stock
from tests.support.origin import Origin
from tests.support.raw_origin import RawOrigin
from tests.support.wire import Wire

SIZE = 256 << 20
ROUNDS = 2
BLOCK = bytes(1 << 18)
POLICY = """
version: 1
packages:
  stripe: {allow: [network:http], http: ["https://api.test/**", "http://plain.test/**"]}
"""


async def _bytes(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % SIZE)
    for _n in range(SIZE // len(BLOCK)):
        writer.write(BLOCK)
        await writer.drain()


def _origins(send: Any, directory: str) -> None:
    """The origins, in a process of their own."""
    ca = trustme.CA()
    scripts: Any = {"/bytes": _bytes, "http://plain.test/bytes": _bytes}
    with (
        RawOrigin("api.test", ca=ca, scripts=scripts) as tls,
        RawOrigin("plain.test", tls=False, scripts=scripts) as plain,
        Origin(("api.test",), ca=ca) as h2,
    ):
        ca.cert_pem.write_to_path(f"{directory}/upstream.pem")
        send.send((tls.port, plain.port, h2.port))
        while True:
            time.sleep(60)


def _http1(wire: Wire, url: str, host: str, line: str, up: bool) -> None:
    """One body, one way."""
    sock, target = wire.sock, f"{url}/upload" if up else f"{url}/bytes?n={SIZE}"
    length = f"Content-Length: {SIZE}\r\n" if up else ""
    sock.sendall(f"{'POST' if up else 'GET'} {target} HTTP/1.1\r\nHost: {host}\r\n{length}{line}\r\n".encode())
    for _ in range(SIZE // len(BLOCK) if up else 0):
        sock.sendall(BLOCK)
    left = 2 if up else SIZE
    left -= len(load.head(sock))
    while left > 0:
        got = len(sock.recv(1 << 18))
        assert got, "the body ended early"
        left -= got


def _http2(client: H2, extra: list[tuple[str, str]], up: bool) -> None:
    path = "/upload" if up else f"/bytes?n={SIZE}"
    head = [*extra, ("content-length", str(SIZE))] if up else extra
    stream = client.request(path, "api.test", method="POST" if up else "GET", extra=head, end=not up)
    for _ in range(SIZE // len(BLOCK) if up else 0):
        client.data(stream, BLOCK)
    if up:
        client.data(stream, b"", end=True)
    received, end = 0, time.monotonic() + 300
    while stream not in client.ended:
        assert time.monotonic() < end and stream not in client.reset and not client.goaway, f"after {received} bytes"
        client.pump()
        received += len(client.body[stream])
        if not up:
            client.body[stream].clear()
    assert client.status[stream] == 200 and (up or received == SIZE)


def _transfer(gate: Gate, port: int, kind: str, up: bool, ours: bool) -> Callable[[], None]:
    """A connection that has sent one small request already; calling it moves one body."""
    dst = "plain.test:80" if kind == "plain" else "api.test:443"
    token = f"Proxy-Authorization: Bearer {gate.mint(dst, 'stripe', use='connect')}\r\n" if ours else ""
    own = gate.mint(dst, "stripe", exp=int(time.time()) + 600) if ours else ""
    wire = gate.connect(Jail("", port))
    if kind == "h2":
        inner = bench_gate._connect_tls(wire, "h2", token)
        inner.sock.settimeout(300)  # stock keeps the whole body before it sends the first byte on
        client = H2(inner, window=1 << 20)
        client.conn.increment_flow_control_window((16 << 20) - 65535)
        return lambda: _http2(client, [("outpass-token", own)] if ours else [], up)
    wire = wire if kind == "plain" else bench_gate._connect_tls(wire, "http/1.1", token)
    wire.sock.settimeout(300)
    line = f"{'Proxy-Authorization: Bearer' if kind == 'plain' else 'Outpass-Token:'} {own}\r\n" if ours else ""
    url, host = ("http://plain.test", "plain.test") if kind == "plain" else ("", "api.test")
    return lambda: _http1(wire, url, host, line, up)


def run(kinds: tuple[str, ...] = ("plain", "tls", "h2")) -> dict[str, Any]:
    """CPU seconds per GB, MiB over idle at most, and ratios, by kind of traffic and way."""
    with tempfile.TemporaryDirectory() as directory:
        receive, send = multiprocessing.Pipe(duplex=False)
        origins = multiprocessing.get_context("fork").Process(target=_origins, args=(send, directory), daemon=True)
        origins.start()
        ports = receive.recv()
        try:
            return {kind: _compare(kind, directory, ports) for kind in kinds}
        finally:
            origins.kill()


def _compare(kind: str, directory: str, ports: tuple[int, int, int]) -> dict[str, Any]:
    tls, plain, h2 = ports
    overrides = [("api.test", 443, "127.0.0.1", h2 if kind == "h2" else tls), ("plain.test", 80, "127.0.0.1", plain)]
    upstream = Path(directory) / "upstream.pem"
    made: dict[str, Any] = {}
    with (
        Gate(POLICY, connect_to=overrides, bundle=upstream) as gate,
        stock(Path(directory), bench_gate._script(overrides), trusted=upstream) as (port, process),
    ):
        proxies = {"gate": (gate.jail.port, gate.process.pid), "stock": (port, process.pid)}
        for way in ("down", "up"):
            spent: dict[str, list[float]] = {name: [] for name in proxies}
            over: dict[str, list[float]] = {name: [] for name in proxies}
            for _ in range(ROUNDS):
                for name, (at, pid) in proxies.items():
                    transfer = _transfer(gate, at, kind, way == "up", name == "gate")
                    load.forget_peak(pid)
                    idle, before = load.memory(pid), load.cpu(pid)
                    transfer()
                    spent[name].append((load.cpu(pid) - before) / SIZE * 1e9)
                    over[name].append(load.memory(pid, "VmHWM") - idle)
            cpu = {name: round(statistics.median(values), 3) for name, values in spent.items()}
            peak = {name: round(max(values), 1) for name, values in over.items()}
            made[way] = {"cpu_s_per_gb": cpu, "mib_over_idle": peak, "gate_cpu_vs_stock": round(cpu["gate"] / cpu["stock"], 3)}
            print(f"{kind:6} {way:5} {made[way]}", flush=True)
    return made


if __name__ == "__main__":
    run()
